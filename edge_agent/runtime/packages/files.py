"""Single files of a package, a folder or a zip, read into memory; nothing is ever unpacked.

What is wrong with a container is refused before a byte of a file is used. Only stored and deflated
files of a zip are read, because those can be inflated up to a limit and no further.
"""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, List, Optional, Set

from edge_agent.errors import InvalidPackage

# What zipfile raises on damaged or foreign archives.
_BAD_ZIP = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error,
    struct.error, OverflowError,
)  # fmt: skip
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
# The end of a zip's directory, APPNOTE.TXT 4.3.16: signature, numbers of disks and of entries, size
# and place of the directory, length of the comment. 4.3.15: what stands before it in a zip64.
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE, _ZIP64_SIGNATURE, _ZIP64_BYTES = b"PK\x05\x06", b"PK\x06\x07", 20
_HEADER_BYTES = 30  # of a file, at least
DIRECTORY_LIMIT_BYTES = 1024 * 1024
MOST_ENTRIES = 2048  # all are looked at for each file that is read
NAME_LENGTH = 512  # of those in a manifest; in a zip they may be longer, but not in a sentence


def read(package: Path, name: str, limit_bytes: int) -> bytes:
    """Read a file as `find` does. Raises InvalidPackage when it isn't there as well."""
    content = find(package, name, limit_bytes)
    if content is None:
        raise InvalidPackage(f"{package}: {name} is missing; it belongs at the package's root.")
    return content


def find(package: Path, name: str, limit_bytes: int) -> Optional[bytes]:
    """Read a file of at most `limit_bytes`; None when the package has no such file.

    Raises InvalidPackage: what is wrong with the package, or a larger file.
    """
    try:
        look = _find_in_folder if package.is_dir() else _find_in_zip
        content = look(package, name, limit_bytes)
    except OSError as error:
        raise InvalidPackage(f"{package}: can't read {name}: {error.strerror}.") from None
    except _BAD_ZIP as error:
        raise InvalidPackage(f"{package} isn't a readable zip: {error}. Create it again.") from None
    if content is not None and len(content) > limit_bytes:
        raise _too_large(package, name, limit_bytes)
    return content


def size_in_folder(folder: Path, name: str) -> Optional[int]:
    """Return how many bytes a file has; None when there is none."""
    try:
        return (folder / name).stat().st_size
    except OSError:
        return None


def _find_in_folder(folder: Path, name: str, limit_bytes: int) -> Optional[bytes]:
    """Go down part by part, so that nothing can be swapped for a link on the way."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in name.split("/"):
            try:
                mode = os.stat(part, dir_fd=place, follow_symlinks=False).st_mode
            except FileNotFoundError:
                return None
            _check_kind(folder, part, mode)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=place)
            os.close(place)
            place = inner
        with os.fdopen(place, "rb", closefd=False) as file:
            _check_kind(folder, name, os.fstat(place).st_mode)  # it may have been replaced since
            if os.fstat(place).st_size > limit_bytes:
                raise _too_large(folder, name, limit_bytes)
            return file.read(limit_bytes + 1)
    finally:
        os.close(place)


def _find_in_zip(archive: Path, name: str, limit_bytes: int) -> Optional[bytes]:
    descriptor = os.open(archive, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidPackage(f"{archive} isn't a plain file; deploy a zip or a folder.")
        end = _check_end(archive, file)
        with zipfile.ZipFile(file) as bundle:
            _check_entries(archive, bundle.infolist(), end)
            if name not in bundle.namelist():
                return None
            if bundle.getinfo(name).file_size > limit_bytes:
                raise _too_large(archive, name, limit_bytes)
            with bundle.open(name) as content:
                return content.read(limit_bytes + 1)


def _check_end(archive: Path, file: BinaryIO) -> int:
    """See that all readers of zips find the same, small directory in this one; return its place."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - _ZIP64_BYTES))
    tail = file.read()
    if tail[-_END.size :][:4] != _END_SIGNATURE:
        raise InvalidPackage(
            f"{archive} isn't a readable zip: it doesn't end with a zip's directory. It was cut "
            "short, or has a comment or other data at its end; copy or create it again."
        )
    *_, entries, directory_bytes, start, comment_bytes = _END.unpack(tail[-_END.size :])
    if tail[: -_END.size].startswith(_ZIP64_SIGNATURE):
        raise InvalidPackage(f"{archive} is a zip64; deploy so large a package as a folder.")
    if directory_bytes > DIRECTORY_LIMIT_BYTES or entries > MOST_ENTRIES:
        raise _too_many(archive, f"its directory has {entries} entries in {directory_bytes} bytes")
    if start + directory_bytes + _END.size != size or comment_bytes:
        raise InvalidPackage(
            f"{archive} has data in it that belongs to no file, before its directory or behind "
            "it; create it again."
        )
    return int(start)


def _too_many(archive: Path, what: str) -> InvalidPackage:
    return InvalidPackage(
        f"{archive} lists too many files: {what}; {MOST_ENTRIES} entries in "
        f"{DIRECTORY_LIMIT_BYTES} bytes at most are read. Pack the model's files only."
    )


def _check_entries(archive: Path, entries: List[zipfile.ZipInfo], end: int) -> None:
    if len(entries) > MOST_ENTRIES:  # whatever the end of the zip says
        raise _too_many(archive, f"its directory has {len(entries)} entries")
    names: Set[str] = set()
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        name = entry.filename[:NAME_LENGTH]
        _check_entry(archive, entry, name)
        if entry.filename in names:
            raise InvalidPackage(f"{archive} holds two files {name}; create it again.")
        if entry.header_offset + _HEADER_BYTES + entry.compress_size > end:
            raise InvalidPackage(f"{archive}: {name} overlaps another file; create it again.")
        names.add(entry.filename)
        end = entry.header_offset


def _check_entry(archive: Path, entry: zipfile.ZipInfo, name: str) -> None:
    plain = unicodedata.normalize("NFKC", entry.filename)  # wide dots and slashes as well
    place = PureWindowsPath(plain)  # knows drives and both kinds of slashes
    if place.drive or place.root or ".." in place.parts:
        raise InvalidPackage(f"{archive}: {name!r} leads out of the package; create it again.")
    if entry.orig_filename != entry.filename:
        raise InvalidPackage(f"{archive}: {name!r} goes by two names; create the zip again.")
    _check_kind(archive, name, entry.external_attr >> 16)
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidPackage(f"{archive}: {name} is encrypted; pack it without a password.")
    if entry.compress_type not in _METHODS:
        raise InvalidPackage(
            f"{archive}: {name} is compressed by method {entry.compress_type}; store or deflate it."
        )


def _check_kind(package: Path, name: str, mode: int) -> None:
    """`mode` as stat has it; a zip may not know any."""
    if stat.S_ISLNK(mode):
        raise InvalidPackage(f"{package}: {name} is a link; packages hold plain files only.")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidPackage(f"{package}: {name} isn't a plain file; leave it out.")


def _too_large(package: Path, name: str, limit_bytes: int) -> InvalidPackage:
    return InvalidPackage(f"{package}: {name} is larger than {limit_bytes} bytes.")
