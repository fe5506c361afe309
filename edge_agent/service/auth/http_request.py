"""A request as it came, before anything is known about it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from edge_agent.service.auth.refusals import IncompleteSignature


@dataclass(frozen=True)
class HttpRequest:
    """A request as it came; nothing is decoded.

    `raw_path` and `raw_query` as they stand in the request line, still percent-encoded. `headers`
    in their order, names in lower case, values as latin-1 text. `peer`: the caller's IP address.
    """

    method: str
    raw_path: str
    raw_query: str
    headers: Sequence[Tuple[str, str]]
    body: bytes
    peer: str
    secure: bool  # whether it came over TLS

    def header(self, name: str) -> Optional[str]:
        """Return the value of a header that may come once. Raises IncompleteSignature."""
        values = self.header_values(name)
        if len(values) > 1:
            raise IncompleteSignature(f"The header {name} came {len(values)} times; send it once.")
        return values[0] if values else None

    def header_values(self, name: str) -> Sequence[str]:
        """Return all values of a header, in their order."""
        return [value for key, value in self.headers if key == name]

    @property
    def from_this_machine(self) -> bool:
        """Whether the caller's address is a loopback one."""
        try:
            return ipaddress.ip_address(self.peer).is_loopback
        except ValueError:  # such as the path of a Unix socket
            return False
