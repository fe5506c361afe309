"""Other users of the machine: files that belong to them. Only root can make these."""

from __future__ import annotations

import grp
import os
import struct

import pytest

from tests.contract.calls import Segment

OWNER, STRANGER = 61001, 61002  # nobody else's
GROUP = next(group for group in grp.getgrall() if group.gr_gid not in (0, OWNER, STRANGER))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


class TheirSegment(Segment):
    """A segment of another user, filled with `content`."""

    def __init__(self, content: bytes, user: int, group: int, mode: int) -> None:
        super().__init__(len(content))
        self.write(content)
        os.fchown(self.descriptor, user, group)
        os.fchmod(self.descriptor, mode)

    def let_in(self, user: int) -> None:
        """Let one user more read and write, by an access control list (acl(5)); skips without."""
        none = 0xFFFFFFFF
        entries = [(0x01, 6, none), (0x02, 6, user), (0x04, 0, none), (0x10, 6, none)]
        content = struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", *entry) for entry in [*entries, (0x20, 0, none)]
        )
        try:
            os.setxattr(self.descriptor, "system.posix_acl_access", content)
        except OSError as error:
            pytest.skip(f"no access control lists in shared memory: {error}")
