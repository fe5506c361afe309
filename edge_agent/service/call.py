"""One call of an operation, after its signature and its parameters were found to be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping

from edge_agent.service.records.database import Transaction

Answer = Dict[str, object]  # values by the names of the output shape's members


@dataclass(frozen=True)
class Call:
    """Who calls what.

    `parameters`: by the input shape's members, only those given; timestamps are aware datetimes,
    blobs are bytes. `now`: seconds since 1970.
    """

    service: str  # its name in signatures and ARNs, such as lookoutvision
    operation: str
    account: str  # 12 digits
    access_key: str
    region: str  # as signed
    request_id: str
    now: float
    parameters: Mapping[str, Any]

    def arn(self, resource: str) -> str:
        """Return the ARN of a resource of the caller, such as "project/cookies"."""
        return f"arn:aws:{self.service}:{self.region}:{self.account}:{resource}"


# Raises ServiceFault. Runs in a thread. Operations that change something get a writing transaction,
# which is committed when they return, together with their client token; others get a reading one.
Operation = Callable[[Call, Transaction], Answer]
