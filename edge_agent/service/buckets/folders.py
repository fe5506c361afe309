"""Buckets as folders, objects as the files below them.

The folder of a bucket may be a link to anywhere; a link below it counts as long as it leads to a
file of the same bucket.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Sequence

from edge_agent.runtime.system.files import replacing, sync_folder
from edge_agent.service.buckets.lines import lines_of
from edge_agent.service.buckets.names import (
    PRIVATE,
    Accounts,
    IsAlone,
    S3Name,
    anyone,
    check_account,
    check_bucket,
    no_bucket,
    no_object,
    too_large,
)
from edge_agent.service.faults import ValidationFailed

FILE_MODE = 0o644  # what others on the machine may read, as files that users put there


class FolderBuckets:
    """The buckets below one folder; may be used by any thread and process at a time."""

    def __init__(self, root: Path, accounts: Accounts, is_alone: IsAlone = anyone) -> None:
        """`root`: holds a folder for each bucket."""
        self._root, self._accounts, self._is_alone = root, accounts, is_alone

    def check(self, account: str, bucket: str) -> None:
        """Find that the bucket is there for the account."""
        self._bucket(account, bucket)

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

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        """Store the content of `source`, all of it at once, in place of what is there."""
        name = S3Name(bucket, key)
        place = self._place(account, name)
        with source.open("rb") as content:
            try:
                self._store(content, place)
            except (FileExistsError, NotADirectoryError):
                raise ValidationFailed(
                    f"{name} can't be stored: a part of its key before a slash is an object."
                ) from None
            except IsADirectoryError:
                raise ValidationFailed(
                    f"{name} can't be stored: there are objects whose keys begin with it and a "
                    "slash."
                ) from None
            except OSError as error:
                raise _unusable(name, error) from None

    def write_folder(
        self, account: str, bucket: str, key: str, source: Path, files: Sequence[str]
    ) -> None:
        """Store files of the folder `source` below `key`: all at once if nothing is there yet."""
        name = S3Name(bucket, key)
        place = self._place(account, name)
        if place.exists():
            for file in files:
                self.write(account, bucket, f"{key}/{file}", source / file)
            return
        part = _part(place)
        self.discard_part(account, bucket, key)
        try:
            for file in files:
                with (source / file).open("rb") as content:
                    self._store(content, part / file)
            part.rename(place)
            sync_folder(place.parent)
        except OSError as error:
            raise _unusable(name, error) from None

    def discard_part(self, account: str, bucket: str, key: str) -> None:
        """Remove what was left by a `write_folder` that was killed."""
        shutil.rmtree(_part(self._place(account, S3Name(bucket, key))), ignore_errors=True)

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
            raise no_object(name) from None
        if real != folder and folder not in real.parents:
            raise _leads_out(name)
        return real / place.name

    def _object(self, account: str, name: S3Name) -> Path:
        folder = self._bucket(account, name.bucket)
        try:
            place = folder.joinpath(*name.parts()).resolve(strict=True)
            is_file = stat.S_ISREG(place.stat().st_mode)
        except PermissionError as error:
            raise _unusable(name, error) from None
        except (OSError, RuntimeError):  # not there, or a link to itself
            raise no_object(name) from None
        if folder not in place.parents:
            raise _leads_out(name)
        if not is_file or place.name.startswith(PRIVATE):
            raise no_object(name)
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
        fresh = place.with_name(f"{PRIVATE}{uuid.uuid4().hex}")
        with replacing(place, mode=FILE_MODE, fresh=fresh) as file:
            shutil.copyfileobj(content, file)
        for folder in made:
            sync_folder(folder.parent)


def _part(place: Path) -> Path:
    """Return where a folder is until all of it is there."""
    return place.with_name(f"{PRIVATE}{place.name}")


def _leads_out(name: S3Name) -> ValidationFailed:
    return ValidationFailed(
        f"{name} can't be used: a link on its way leads out of the bucket. Copy the file there."
    )


def _unusable(name: S3Name, error: OSError) -> ValidationFailed:
    return ValidationFailed(
        f"{name} can't be used: {error.strerror}. Correct that on the machine of the service."
    )
