"""How calls are refused whose signature isn't right: AWS's codes, statuses and sentences."""

from __future__ import annotations

from edge_agent.service.faults import ServiceFault


class NotAuthenticated(ServiceFault):
    """Who calls isn't known; `status` is the HTTP status, since no service model has these."""

    status = 403


class NoSignature(NotAuthenticated):
    """The call isn't signed."""

    code = "MissingAuthenticationTokenException"


class UnknownCredentials(NotAuthenticated):
    """There is no such access key, or it comes with a session token."""

    code = "UnrecognizedClientException"

    def __init__(
        self, message: str = "The security token included in the request is invalid."
    ) -> None:
        super().__init__(message)


class WrongSignature(NotAuthenticated):
    """The signature isn't that of this call, or isn't valid now."""

    code = "InvalidSignatureException"


class IncompleteSignature(NotAuthenticated):
    """What belongs to a signature is missing or not written as it must be."""

    status = 400
    code = "IncompleteSignatureException"
