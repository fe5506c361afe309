"""Who calls: the signature of a request is verified, or the request is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple


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


@dataclass(frozen=True)
class Principal:
    """Who signed, and for which region.

    `signature`, and `attempt` of the client's to send it, are for `replays`; empty when unsigned.
    """

    account: str
    access_key: str
    region: str
    signature: str = ""
    attempt: str = ""


class Authenticator:
    """Verifies signatures; may be used by any thread."""

    def verify(self, request: HttpRequest, service: str) -> Tuple[Principal, bytes]:
        """Return who calls and the body without its chunks' frames.

        `service`: whose operations the request reaches, such as lookoutvision; it must be signed
        for this one. Raises NotAuthenticated, whatever is wrong with a signature.
        """
        raise NotImplementedError
