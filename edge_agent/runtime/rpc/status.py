"""The one table from errors to gRPC status codes."""

from __future__ import annotations

import logging
import uuid
from typing import Tuple

import grpc

from edge_agent.errors import EdgeAgentError, UserError

log = logging.getLogger(__name__)


def of(error: BaseException) -> Tuple[grpc.StatusCode, str]:
    """Return the code and the text a caller sees; an unknown fault shows only an id."""
    if isinstance(error, EdgeAgentError):
        if not isinstance(error, UserError):
            log.error("A call failed: %s", error)
        return grpc.StatusCode[error.status], str(error)
    fault = uuid.uuid4().hex[:12]
    log.error("Fault %s in a call.", fault, exc_info=error, extra={"facts": {"fault": fault}})
    return grpc.StatusCode.INTERNAL, f"Internal fault {fault}; the agent's log says more."
