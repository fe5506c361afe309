"""Buckets as folders, objects as the files below them.

The folder of a bucket may be a link to anywhere; a link below it counts as long as it leads to a
file of the same bucket.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Sequence

from edge_agent.runtime.system.files import sync_folder
from edge_agent.service.buckets.lines import lines_of
from edge_agent.service.buckets.names import (
    PRIVATE,
    Accounts,
    IsAlone,
    NoSuchObject,
    S3Name,
    anyone,
    check_account,
    check_bucket,
    no_bucket,
    too_large,
)
from edge_agent.service.faults import ValidationFailed

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
FILE_MODE = 0o644  # what others on the machine may read, as files that users put there


class FolderBuckets:
    """The buckets below one folder; may be used by any thread and process at a time."""

    def __init__(self, root: Path, accounts: Accounts, is_alone: IsAlone = anyone) -> None:
        """`root`: holds a folder for each bucket."""
        self._root, self._accounts, self._is_alone = root, accounts, is_alone

    def check(self, account: str, bucket: str) -> None:
        """Find that the bucket is there for the account."""
        self._bucket(account, bucket)

    def check_output(self, account: str, folder: S3Name) -> None:
        """Find that the bucket is there, and that files may be made below the key."""
        place = self._place(account, folder)
        try:
            nearest = next(path for path in (place, *place.parents) if path.exists())
            if not nearest.is_dir():
                raise _is_below_object(folder)
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise _unusable(folder, error) from None

    def read(self, account: str, bucket: str, key: str, most_bytes: int) -> bytes:
        """Return an object of at most `most_bytes`."""
        with self._open(account, S3Name(bucket, key), most_bytes) as file:
            return file.read(most_bytes)

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        """Yield the lines of an object of at most `most_bytes`, without holding all of it."""
        with self._open(account, S3Name(bucket, key), most_bytes) as file:
            yield from lines_of(file)

    def fetch(
        self, account: str, bucket: str, key: str, folder: Path, most_bytes: Optional[int] = None
    ) -> Path:
        """Return the file of an object."""
        name = S3Name(bucket, key)
        place = self._object(account, name)
        size = place.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise too_large(name, size, most_bytes)
        return place

    def check_writable(self, account: str, bucket: str, key: str) -> None:
        """Find that an object could be stored there now, by a file that has no name."""
        name = S3Name(bucket, key)
        place = self._place(account, name)
        with _storing(name):
            if place.is_dir():
                raise IsADirectoryError
            there = next(folder for folder in place.parents if os.path.lexists(folder))
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(b"x")

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        """Store the content of `source`, all of it at once, in place of what is there."""
        name = S3Name(bucket, key)
        place = self._place(account, name)
        with source.open("rb") as content, _storing(name):
            self._store(content, place)

    def write_folder(
        self, account: str, folder: S3Name, source: Path, files: Sequence[str], part: str
    ) -> None:
        """Store files of `source` below a key: all at once if nothing is there yet."""
        place = self._place(account, folder)
        hidden, is_new = _hidden(place, part), not place.exists()
        try:
            for file in files:
                with (source / file).open("rb") as content:
                    self._store(content, hidden / file)
            if is_new:
                hidden.rename(place)
            else:
                _move(hidden, place, files)
            sync_folder(place.parent)
        except (FileExistsError, NotADirectoryError):
            raise _is_below_object(folder) from None
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise ValidationFailed(
                    f"{folder} can't be stored: something else was stored there meanwhile. Look at "
                    "it, then do it again or choose another place."
                ) from None
            raise _unusable(folder, error) from None
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    def remove(self, account: str, bucket: str, key: str) -> None:
        """Remove an object, where there is one."""
        name = S3Name(bucket, key)
        with _storing(name):
            self._place(account, name).unlink(missing_ok=True)

    def discard_part(self, account: str, folder: S3Name, part: str) -> None:
        """Remove what was left by a `write_folder` that was killed."""
        shutil.rmtree(_hidden(self._place(account, folder), part), ignore_errors=True)

    def _bucket(self, account: str, bucket: str) -> Path:
        check_bucket(bucket)
        check_account(account, bucket, self._accounts, self._is_alone)
        folder = self._root / bucket
        if not folder.is_dir():
            raise no_bucket(bucket)
        return folder.resolve()

    def _place(self, account: str, name: S3Name) -> Path:
        """Return where an object is, or would be."""
        folder = self._bucket(account, name.bucket)
        place = folder.joinpath(*name.parts())
        try:
            real = place.parent.resolve()
        except (OSError, RuntimeError):  # a link to itself
            raise NoSuchObject(name) from None
        if real != folder and folder not in real.parents:
            raise _leads_out(name)
        return real / place.name

    def _object(self, account: str, name: S3Name) -> Path:
        folder = self._bucket(account, name.bucket)
        try:
            place = folder.joinpath(*name.parts()).resolve(strict=True)
            is_file = stat.S_ISREG(place.stat().st_mode)
        except RuntimeError:  # a link to itself, before CPython 3.13
            raise NoSuchObject(name) from None
        except OSError as error:
            is_there = error.errno not in NOT_THERE
            raise (_unusable(name, error) if is_there else NoSuchObject(name)) from None
        if folder not in place.parents:
            raise _leads_out(name)
        if not is_file or place.name.startswith(PRIVATE):
            raise NoSuchObject(name)
        return place

    def _open(self, account: str, name: S3Name, most_bytes: int) -> BinaryIO:
        try:
            file = self._object(account, name).open("rb")
        except OSError as error:
            raise _unusable(name, error) from None
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            file.close()
            raise too_large(name, size, most_bytes)
        return file

    def _store(self, content: BinaryIO, place: Path) -> None:
        made = [folder for folder in place.parents if not folder.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()
        fresh = place.with_name(f"{PRIVATE}{digest}")
        with _lone_writer(fresh) as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
            fresh.replace(place)
        sync_folder(place.parent)
        for folder in made:
            sync_folder(folder.parent)


def _hidden(place: Path, part: str) -> Path:
    """Return where a folder is until all of it is there."""
    return place.with_name(f"{PRIVATE}{part}")


def _move(folder: Path, place: Path, files: Sequence[str]) -> None:
    """Move files, which are on disk, into a folder that is there. Raises OSError."""
    for file in files:
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / file).replace(target)
        for changed in Path(file).parents:
            sync_folder(place / changed)


def _is_below_object(name: S3Name) -> ValidationFailed:
    return ValidationFailed(
        f"{name} can't be stored: a part of its key before a slash is an object."
    )


@contextmanager
def _lone_writer(fresh: Path) -> Iterator[BinaryIO]:
    """Yield an empty file; a second writer of it waits. What a killed writer left is used again.

    It is gone after an error, or once it bears another name.
    """
    while True:
        opened = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(opened, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_named(fresh, opened):
                continue  # the other writer was done with it
            try:
                os.fchmod(opened, FILE_MODE)
                file.truncate()
                yield file
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
            return


def _is_named(path: Path, opened: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(opened))
    except FileNotFoundError:
        return False


@contextmanager
def _storing(name: S3Name) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise _is_below_object(name) from None
    except IsADirectoryError:
        raise ValidationFailed(
            f"{name} can't be stored: there are objects whose keys begin with it and a slash."
        ) from None
    except OSError as error:
        raise _unusable(name, error) from None


def _leads_out(name: S3Name) -> ValidationFailed:
    return ValidationFailed(
        f"{name} can't be used: a link on its way leads out of the bucket. Copy the file there."
    )


def _unusable(name: S3Name, error: OSError) -> ValidationFailed:
    return ValidationFailed(
        f"{name} can't be used: {error.strerror}. Correct that on the machine of the service."
    )
