"""What a disk refuses to the engine cache, as a sentence."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from edge_agent.errors import BuildFailed

MIB = 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn what the disk of `folder` refuses within into BuildFailed."""
    try:
        yield
    except OSError as error:
        raise BuildFailed(_sentence(folder, error)) from None


def _sentence(folder: Path, error: OSError) -> str:
    elsewhere = "or set engine.cache to another folder"
    if error.errno in FULL:
        return (
            f"The engine can't be stored: the disk of {folder} is full{_free(folder)}. Free "
            f"space there, {elsewhere}."
        )
    if error.errno in CLOSED:
        return (
            f"The engine can't be stored: {folder} can't be written ({error.strerror}). Let the "
            f"agent write there, {elsewhere}."
        )
    return f"The engine can't be stored in {folder}: {error.strerror}."


def _free(folder: Path) -> str:
    try:
        facts = os.statvfs(folder)
    except OSError:
        return ""
    return f", {facts.f_bavail * facts.f_frsize / MIB:.1f} MiB are free"
