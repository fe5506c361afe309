"""TCP addresses to listen on: resolved, and refused unless every one of them is free.

gRPC is content with one of several, and so is the metrics' server: clients of the other one would
reach another program.
"""

from __future__ import annotations

import errno
import socket
from typing import List, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.setting_types import host_of

LOCALHOST = ("127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")
NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
REASONS = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine doesn't have that address; choose one that it has",
    errno.EACCES: "ports below 1024 are for root; choose a higher one",
}


def split(address: str) -> Tuple[str, int]:
    """Return host and port of "host:port"; an IPv6 address may stand in brackets."""
    return host_of(address), int(address.rpartition(":")[2])


def free_addresses(address: str) -> List[str]:
    """Return what to listen on for "host:port", in numbers: on one host, or on all for "0.0.0.0".

    Raises InvalidConfiguration: which of the addresses that it stands for can't be had, and why.
    """
    host, port = split(address)
    hosts = _resolved(address, host)
    usable = [each for each in hosts if _is_free(address, each, port, each in LOCALHOST + ANY)]
    if host in ANY:
        return [address]  # gRPC takes both families
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in usable]


def _resolved(address: str, host: str) -> List[str]:
    if host == "localhost":  # whatever it is resolved to
        return list(LOCALHOST)
    if host in ANY:
        return list(ANY)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidConfiguration(
            f"Can't listen on {address}: no address is known for {host!r} ({error}). Write an IP "
            "address of this machine, or localhost."
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_free(address: str, host: str, port: int, is_optional: bool) -> bool:
    """Whether the address can be had; False only where the machine has no IPv6."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of an agent that has just ended are no obstacle, who listens is.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if family is socket.AF_INET6 and is_optional and error.errno in NO_IPV6:
            return False
        why = REASONS.get(error.errno or 0, error.strerror)
        raise InvalidConfiguration(f"Can't listen on {address}: on {host}, {why}.") from None
    return True
