"""What a call asks for, in a few bytes."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Tuple

from edge_agent.service.call import Call


def digest(call: Call, without: Tuple[str, ...]) -> bytes:
    """Return 32 bytes that stand for account, operation and parameters, some left out."""
    asked = {name: value for name, value in call.parameters.items() if name not in without}
    text = json.dumps(
        [call.service, call.operation, call.account, asked], sort_keys=True, default=_plain
    )
    return hashlib.sha256(text.encode()).digest()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return repr(value.timestamp())
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    raise TypeError(f"{type(value).__name__} in the parameters of a call")
