"""Files and folders of the agent's own: modes 0600 and 0700, no other user in them.

Their names can be guessed, and some lie where every user may create files. So each is asked what it
is before it is used: a link isn't followed, a FIFO blocks nobody, what belongs to another user is
refused with an OSError that says so.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Callable

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.system.files import FOLDER_FLAGS

log = logging.getLogger(__name__)

ROOT = 0
FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_subfolder(parent: Path, name: str, make: bool) -> int:
    """Open the folder `name` in `parent`, made with mode 0700 when it is missing and `make` is set.

    `parent` may be shared with every user. Raises OSError; FileNotFoundError when it isn't there,
    PermissionError when another user has made it or may use it.
    """
    above = os.open(parent, FOLDER_FLAGS)
    try:
        mode = os.fstat(above).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"every user may rename files in {parent}; chmod +t {parent}")
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
        folder = _open_entry(above, parent, name)
    finally:
        os.close(above)
    facts = os.fstat(folder)
    if facts.st_uid == os.geteuid() and not facts.st_mode & BY_OTHERS:
        return folder
    os.close(folder)
    found = f"belongs to user {facts.st_uid} and has mode {stat.S_IMODE(facts.st_mode):04o}"
    expected = f"expected: user {os.geteuid()}, mode 0700"
    raise PermissionError(f"{parent / name} {found}; {expected}; remove it")


def open_file(folder: int, name: str, flags: int) -> int:
    """Open a file in the open `folder`; one that is made, or was open to others, gets mode 0600.

    Raises OSError; PermissionError when it isn't a file of this user.
    """
    file = os.open(name, flags | FILE_FLAGS, 0o600, dir_fd=folder)
    try:
        _check_file(file, name)
    except BaseException:
        os.close(file)
        raise
    return file


def read(path: Path, most_bytes: int) -> bytes:
    """Return what a file of this user or root holds.

    Raises OSError: FileNotFoundError when it isn't there, PermissionError for a link, a pipe or
    another user's file, OSError when it is longer.
    """
    file = os.open(path, os.O_RDONLY | FILE_FLAGS)
    with os.fdopen(file, "rb") as reader:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in (ROOT, os.geteuid()):
            raise PermissionError(f"it isn't a file of user {os.geteuid()}; remove it")
        content = reader.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"it has more than {most_bytes} bytes")
    return content


def open_folder(setting: str, folder: Path, is_ours: Callable[[str], bool]) -> int:
    """Open the folder that `setting` names, made with mode 0700 when it is missing.

    `is_ours` recognises the agent's own files by their names. They get mode 0600. A folder of
    this user with nothing else in it gets mode 0700, any other is closed to the writing of others.
    Raises InvalidConfiguration when another user's files may be in it, OSError when it can't be
    opened.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    owner = os.lstat(folder).st_uid  # also of a link, which leads where its owner likes
    opened = os.open(folder, FOLDER_FLAGS)
    try:
        facts = os.fstat(opened)
        for user in (owner, facts.st_uid):
            if user not in (ROOT, os.geteuid()):
                _refuse(setting, folder, f"belongs to user {user}")
        names = os.listdir(opened)  # noqa: PTH208 - a descriptor
        if facts.st_uid == os.geteuid():
            _close_to_others(setting, folder, opened, all(map(is_ours, names)))
        elif facts.st_mode & stat.S_IWOTH:
            _refuse(setting, folder, "may be written by every user")
        for name in filter(is_ours, names):
            _close_file_to_others(setting, folder, opened, name)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _check_file(file: int, name: str) -> None:
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        raise PermissionError(f"{name} isn't a file of user {os.geteuid()}; remove it")
    if facts.st_mode & BY_OTHERS:
        _change_mode(file, name, 0o600)


def _open_entry(above: int, parent: Path, name: str) -> int:
    try:
        return os.open(name, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)
    except NotADirectoryError:
        raise NotADirectoryError(f"{parent / name} isn't a folder; remove it") from None


def _close_to_others(setting: str, folder: Path, opened: int, is_own: bool) -> None:
    mode = stat.S_IMODE(os.fstat(opened).st_mode)
    if is_own and mode != 0o700:
        _change_mode(opened, str(folder), 0o700)
    elif mode & stat.S_IWOTH and mode & stat.S_ISVTX:
        _refuse(setting, folder, "is shared by all users")
    elif mode & WRITTEN_BY_OTHERS:
        _change_mode(opened, str(folder), mode & ~WRITTEN_BY_OTHERS)


def _close_file_to_others(setting: str, folder: Path, opened: int, name: str) -> None:
    try:
        facts = os.stat(name, dir_fd=opened, follow_symlinks=False)
    except FileNotFoundError:
        return  # SQLite has removed it meanwhile
    if stat.S_ISDIR(facts.st_mode):
        return  # checked by whoever opens it
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in (ROOT, os.geteuid()):
        raise InvalidConfiguration(
            f"{folder / name} isn't a file of the agent's user {os.geteuid()} (it belongs to user "
            f"{facts.st_uid}), and {setting} needs that name; remove it."
        )
    if facts.st_uid == os.geteuid():
        os.close(open_file(opened, name, os.O_RDONLY))


def _change_mode(opened: int, name: str, mode: int) -> None:
    try:
        os.fchmod(opened, mode)
    except OSError as error:  # read-only, or FAT
        _warn(name, str(error.strerror))


@lru_cache(maxsize=256)  # each once: a folder is tried again and again
def _warn(name: str, why: str) -> None:
    log.warning("%s stays open to other users: its mode can't be changed (%s).", name, why)


def _refuse(setting: str, folder: Path, why: str) -> None:
    raise InvalidConfiguration(
        f"{setting} {folder} {why}; give the agent (user {os.geteuid()}) a folder of its own."
    )
