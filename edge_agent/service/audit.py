"""Who changed what: a line of JSON in `audit.log` for each call that changes something."""

from __future__ import annotations

from edge_agent.service.call import Call


class AuditLog:
    """Writes `audit.log`; may be used by any thread."""

    def record(self, call: Call, outcome: str) -> None:
        """Write a line; `outcome` is "OK" or the code of the fault. Never raises."""
