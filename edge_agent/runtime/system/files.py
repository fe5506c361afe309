"""Files replaced as a whole: readers find the old or the new one, after a power cut as well."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Iterator, Optional

log = logging.getLogger(__name__)

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create_new(path: Path, mode: int) -> int:
    """Return a descriptor to write a new file in place of whatever has its name. Raises OSError."""
    path.unlink(missing_ok=True)  # of a run that was killed, or a link of somebody
    return os.open(path, NEW_FLAGS, mode)


def write_atomically(
    path: Path,
    content: bytes,
    *,
    mode: int = 0o600,
    sync: bool = True,
    fresh: Optional[Path] = None,
) -> None:
    """Put a new file in the place of `path`; see `replacing`."""
    with replacing(path, mode=mode, sync=sync, fresh=fresh) as file:
        file.write(content)


@contextmanager
def replacing(
    path: Path, *, mode: int = 0o600, sync: bool = True, fresh: Optional[Path] = None
) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of `path` afterwards, unless there was an error.

    sync: it is on disk then; without, a power cut may lose both. fresh: where it lies until then,
    on the same disk. Raises OSError, and the old file is there still.
    """
    fresh = fresh or path.with_name(f"{path.name}.new")
    try:
        with os.fdopen(create_new(fresh, mode), "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def move(file: Path, path: Path, *, mode: int) -> None:
    """Move a file to the place of `path` on the same disk, both on disk then. Raises OSError."""
    file.chmod(mode)
    with file.open("rb") as content:
        os.fsync(content.fileno())
    file.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to disk: a renamed file has its new one after a power cut.

    Logged where it can't be done: the new file is in its place all the same.
    """
    opened = os.open(folder, FOLDER_FLAGS)
    try:
        os.fsync(opened)
    except OSError as error:
        log.warning("A power cut may undo the last change in %s (%s).", folder, error.strerror)
    finally:
        os.close(opened)
