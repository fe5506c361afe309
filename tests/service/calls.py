"""Calls as the HTTP side makes them."""

from __future__ import annotations

from typing import Any

from edge_agent.service.call import Call

ACCOUNT = "123456789012"
OTHER = "210987654321"


def call(operation: str, account: str = ACCOUNT, now: float = 1000.0, **parameters: Any) -> Call:
    return Call(
        service="lookoutvision",
        operation=operation,
        account=account,
        access_key="AKIDEXAMPLE",
        region="eu-west-1",
        request_id="1",
        now=now,
        parameters=parameters,
    )
