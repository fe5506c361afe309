"""Whose shared memory a caller may name.

The agent opens what callers name, so it must not open for them what they could not open
themselves. The kernel's check of file modes is enough for an agent of an ordinary user; one with
root's rights passes every such check, and judges a segment here as a member of the socket's group
without any further rights would.

It doesn't know which user calls: of a Unix socket `grpc.ServicerContext.peer()` says "unix:" for
everyone, and `auth_context()`, with `grpc.local_server_credentials` too, names the kind of
transport and its security level only (grpcio 1.85). Whoever may connect to the socket counts
therefore as a member of its group.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Optional

from edge_agent.errors import InvalidFrame

READ, WRITE = 0o4, 0o2
ACCESS_LIST = "system.posix_acl_access"
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, see capabilities(7)
OVERRIDES_MODES = 1 << 1 | 1 << 2


class SegmentAccess:
    """Decides from the opened object itself, never from its path.

    over_tcp: callers on TCP may name shared memory. any_segment: root's rights are used as they
    are. `group` is the group id of the socket once it listens; None: no group counts.
    """

    def __init__(self, over_tcp: bool = False, any_segment: bool = False) -> None:
        self.group: Optional[int] = None
        self._over_tcp = over_tcp
        self._judges = not any_segment and has_root_rights()

    def check_caller(self, is_local: bool) -> None:
        """Raise InvalidFrame for a caller who may not name shared memory; local: by Unix socket."""
        if not (is_local or self._over_tcp):
            raise InvalidFrame(
                "The call came over TCP and names shared memory, which only clients of the Unix "
                "socket may do. Send the frame as bytes, or set server.shared_memory_over_tcp to "
                "true."
            )

    def check(self, name: str, descriptor: int, facts: os.stat_result, is_written: bool) -> None:
        """Raise InvalidFrame unless callers may use the segment that `descriptor` has open."""
        if not self._judges or facts.st_uid == os.geteuid():
            return
        needed = READ | WRITE if is_written else READ
        has_list = _has_access_list(descriptor)
        if self._granted(facts, has_list) & needed == needed:
            return
        shown = f"mode {stat.S_IMODE(facts.st_mode):04o}{' and an access control list' * has_list}"
        raise InvalidFrame(
            f"Shared memory {name!r} (user {facts.st_uid}, group {facts.st_gid}, {shown}) isn't "
            f"{'writable' if is_written else 'readable'} for the socket's group"
            f"{'' if self.group is None else f' {self.group}'}. Give it that group and mode 0660, "
            "or set server.segment_access to any."
        )

    def _granted(self, facts: os.stat_result, has_list: bool) -> int:
        others = stat.S_IMODE(facts.st_mode) & 0o7
        if facts.st_gid != self.group:
            return others
        group = stat.S_IMODE(facts.st_mode) >> 3 & 0o7
        # With an access control list these bits are its mask (acl(5)). Lists are not read here, so
        # that only what others may do counts as well.
        return group & others if has_list else group


def has_root_rights() -> bool:
    """Whether file modes don't bind this process; yes as well where that can't be found out."""
    if os.geteuid() == 0:
        return True
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return True
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "f")
    return bool(int(effective, 16) & OVERRIDES_MODES)


def _has_access_list(descriptor: int) -> bool:
    try:
        return bool(os.getxattr(descriptor, ACCESS_LIST))
    except OSError:  # it has none, or the file system knows none
        return False
