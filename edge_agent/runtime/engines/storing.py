"""Files of the engine cache, written whole or not at all, and sentences for disks that refuse."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from edge_agent.errors import BuildFailed
from edge_agent.runtime.system.data_files import create_anew, modes_in

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


def write(path: Path, content: bytes) -> None:
    """Replace the file as a whole; a power cut leaves the old or the new one."""
    with _new(path) as new:
        new.write_bytes(content)


def put(file: Path, path: Path) -> None:
    """Move `file` to `path`, replacing it as a whole; from another disk it's copied."""
    if file.stat().st_dev == path.parent.stat().st_dev:
        file.chmod(modes_in(path.parent).file)
        _sync(file)
        file.replace(path)
    else:
        with _new(path) as new:
            shutil.copyfile(file, new)


@contextmanager
def _new(path: Path) -> Iterator[Path]:
    new = path.with_name(path.name + ".new")
    try:
        os.close(create_anew(new))
        yield new
        _sync(new)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def open_folder(folder: Path) -> int:
    """Return a file descriptor, for locks."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


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
