"""What every AWS service answers to requests that no operation can read."""

from __future__ import annotations

from edge_agent.service.faults import ServiceFault


class UnknownOperation(ServiceFault):
    """No operation has this method and path."""

    status = 404
    code = "UnknownOperationException"


class MalformedRequest(ServiceFault):
    """The request can't be read as what its operation takes."""

    status = 400
    code = "SerializationException"


class RequestTooLarge(ServiceFault):
    """The body is larger than any that the operation takes."""

    status = 413
    code = "RequestEntityTooLargeException"


class RequestTooSlow(ServiceFault):
    """The body didn't come in time."""

    status = 408
    code = "RequestTimeoutException"


class AnswerMismatch(Exception):
    """An answer isn't what its shape in the service model says: a mistake of ours."""
