"""Who may start and stop models: everybody who may connect, or operators only.

gRPC's public interface does not tell which user calls through a Unix socket, so operators have a
socket of their own, with its own group; on TCP they are known by the names in their certificates.
"""

from __future__ import annotations

from edge_agent.config import ServerSettings
from edge_agent.errors import NotAllowed
from edge_agent.runtime.rpc.call_context import CallContext

# Keys of an authentication context: https://grpc.io/docs/guides/auth/
NAMES = ("x509_common_name", "x509_subject_alternative_name")


class Role:
    """What callers of one server may do; `is_operator`: they came through the operators' socket."""

    def __init__(self, settings: ServerSettings, is_operator: bool) -> None:
        self._certificates = frozenset(settings.operator_certificates)
        self._socket = settings.operator_socket
        limited = self._certificates or self._socket
        self._may_operate = is_operator or not limited

    def check(self, context: CallContext) -> None:
        """Raise NotAllowed unless the caller may start and stop models."""
        if self._may_operate or self._has_certificate(context):
            return
        ways = [f"through {self._socket}"] if self._socket else []
        ways += ["with an operator's certificate"] if self._certificates else []
        raise NotAllowed(
            f"Only operators may start and stop models here: call {' or '.join(ways)}."
        )

    def _has_certificate(self, context: CallContext) -> bool:
        if not self._certificates:
            return False
        found = context.auth_context()
        names = {name.decode(errors="replace") for key in NAMES for name in found.get(key, ())}
        return not names.isdisjoint(self._certificates)
