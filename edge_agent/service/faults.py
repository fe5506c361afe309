"""Errors that a caller of the service sees.

`code` is the error shape's name in the service model, which also gives the HTTP status; the members
besides the message are those of the shape. Errors that no service model lists give their `status`.
"""

from __future__ import annotations

from typing import Dict, Optional

RECORDS_RETRY_S = 5


class ServiceFault(Exception):
    """An error answer: the shape's name, a sentence, and the shape's other members."""

    code = "InternalServerException"
    status = 500

    def __init__(self, message: str, **members: object) -> None:
        super().__init__(message)
        self.members: Dict[str, object] = {"Message": message, **members}


class AccessDenied(ServiceFault):
    """Who calls isn't known, or may not do this."""

    code = "AccessDeniedException"


class ValidationFailed(ServiceFault):
    """A parameter is missing or wrong."""

    code = "ValidationException"


class Conflict(ServiceFault):
    """The resource exists already, or its status doesn't allow this."""

    code = "ConflictException"

    def __init__(self, message: str, kind: str, resource: str) -> None:
        """`kind`: of ResourceType, such as MODEL; `resource`: its name or ARN."""
        super().__init__(message, ResourceType=kind, ResourceId=resource)


class ResourceNotFound(ServiceFault):
    """There is no such resource, for this account."""

    code = "ResourceNotFoundException"

    def __init__(self, message: str, kind: str, resource: str) -> None:
        """`kind`: of ResourceType, such as MODEL; `resource`: its name or ARN."""
        super().__init__(message, ResourceType=kind, ResourceId=resource)


class QuotaExceeded(ServiceFault):
    """The account has as many of these as it may."""

    code = "ServiceQuotaExceededException"

    def __init__(
        self,
        message: str,
        quota: str,
        service: str,
        kind: Optional[str] = None,
        resource: Optional[str] = None,
    ) -> None:
        """`quota`: its code; `service`: code of the service, such as lookoutvision."""
        facts = {"ResourceType": kind, "ResourceId": resource}
        given = {key: value for key, value in facts.items() if value is not None}
        super().__init__(message, QuotaCode=quota, ServiceCode=service, **given)


class Throttled(ServiceFault):
    """The account calls more often than it may."""

    code = "ThrottlingException"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, RetryAfterSeconds=retry_after_s)


class RecordsFailed(ServiceFault):
    """The service's records can't be read or written at present."""

    def __init__(self, reason: str) -> None:
        """`reason`: why, in few words."""
        super().__init__(
            f"The service's records can't be read or written: {reason}. Nothing was changed. "
            "Check the disk of the service, then call again.",
            RetryAfterSeconds=RECORDS_RETRY_S,
        )
