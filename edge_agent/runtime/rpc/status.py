"""The one table from errors to gRPC status codes."""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import CancelledError
from typing import NoReturn, Tuple

import grpc

from edge_agent.errors import EdgeAgentError, UserError
from edge_agent.runtime.rpc import convert, metadata
from edge_agent.runtime.rpc.call_context import CallContext

log = logging.getLogger(__name__)

# Details travel in the trailers, which gRPC limits to 16 KiB; beyond it the caller would see
# RESOURCE_EXHAUSTED instead of our code. A character may take 12 bytes there ("%F0%9F%98%80").
DETAILS_LIMIT = 1000


def of(error: BaseException) -> Tuple[grpc.StatusCode, str]:
    """Return the code and the text a caller sees; an unknown fault shows only an id."""
    if isinstance(error, EdgeAgentError):
        words = convert.text(str(error))
        if not isinstance(error, UserError):
            log.error("A call failed: %s", words)
        return grpc.StatusCode[error.status], _shortened(words)
    fault = uuid.uuid4().hex[:12]
    log.error("Fault %s in a call.", fault, exc_info=error, extra={"facts": {"fault": fault}})
    return grpc.StatusCode.INTERNAL, f"Internal fault {fault}; see the agent's log for details."


def abort(context: CallContext, error: Exception) -> NoReturn:
    """End the call with the status of `error`; raises, as gRPC wants it."""
    if isinstance(error, CancelledError):
        context.abort(grpc.StatusCode.CANCELLED, "The caller has gone.")
    context.set_trailing_metadata(metadata.of_error(error))
    context.abort(*of(error))


def _shortened(details: str) -> str:
    return details if len(details) <= DETAILS_LIMIT else details[: DETAILS_LIMIT - 1] + "…"
