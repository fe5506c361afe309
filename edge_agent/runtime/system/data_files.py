"""Files of the plant's data: closed to other users from the moment they are made.

An operator may open a folder to a group: one that is there already, with rights for its group and
none for all others, gives what is made in it the group's rights as well.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

GROUP, OTHERS = 0o070, 0o007


class Modes(NamedTuple):
    """What files and folders in a folder get."""

    file: int = 0o600
    folder: int = 0o700


def modes_in(folder: Path) -> Modes:
    """Return the modes for what is made in `folder`. Raises OSError."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & OTHERS:  # as an older version or any umask left it: nobody's decision
        return Modes()
    return Modes(0o600 | mode & 0o060, 0o700 | mode & GROUP)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; what is there stays as it is."""
    if folder.is_dir():
        return
    if not folder.parent.exists():
        make_folder(folder.parent)
    # Of a parent that we have just made, or of the operator's.
    folder.mkdir(mode=modes_in(folder.parent).folder, exist_ok=True)


def create(file: Path, flags: int = os.O_TRUNC) -> int:
    """Return a descriptor to write `file`, which is made if it isn't there. Raises OSError."""
    wanted = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags
    return os.open(file, wanted, modes_in(file.parent).file)
