"""How much an account may have, as ServiceQuotaExceededException says it.

ServiceCode is the original's. Its quota codes (L- and eight digits) aren't public: QuotaCode is the
name of the setting, which tells the reader what to change.
"""

from __future__ import annotations

from typing import Optional

from edge_agent.service.call import Call
from edge_agent.service.faults import QuotaExceeded


def within_quota(
    call: Call,
    quota: str,
    asked: int,
    most: int,
    kind: Optional[str] = None,
    resource: Optional[str] = None,
) -> None:
    """Raise QuotaExceeded when the call would make it `asked`, and `most` are allowed.

    `quota`: the setting's name, such as "projects"; `kind`, `resource`: what reached its quota.
    """
    if asked > most:
        raise QuotaExceeded(
            f"The call would make it {asked} {quota.replace('_', ' ')}, and at most {most} are "
            f"allowed. Delete or stop others first, or raise the service's setting quotas.{quota}.",
            quota,
            call.service,
            kind,
            resource,
        )
