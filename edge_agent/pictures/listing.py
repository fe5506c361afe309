"""Which files are pictures: by their ending, in a folder and in all folders below it.

Hidden files and folders are left out, `._name.png` of macOS among them. A folder is a folder
whatever its name ends in. Links to files are followed; links to folders aren't: such a link may
lead back, and from the good images to the bad ones.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from edge_agent.logs import printable

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif",
    ".pgm", ".ppm", ".pnm",
)  # fmt: skip
MOST_REASONS = 20  # why files are left out, that are shown
HIDDEN = "its name begins with a dot"
OTHER_ENDING = "its name doesn't end as an image's does"
NO_FILE = "it isn't a file"
FOLDER_LINK = "it is a link to a folder, which isn't followed"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that isn't used; `is_picture`: by its name it should have been."""

    path: Path
    reason: str
    is_picture: bool = True

    def __str__(self) -> str:
        return f"{shown(self.path)} is left out: {self.reason}."


Found = Union[Path, LeftOut]


@dataclass(frozen=True)
class PictureListing:
    """The pictures among files and folders, each folder's in order of name, and what is none."""

    paths: Tuple[Path, ...] = ()
    left_out: Tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, sources: Iterable[Path]) -> PictureListing:
        """List files, whatever their names are, and what is in folders."""
        found: List[Found] = []
        for source in sources:
            found.extend(_sorted(_inside(source)) if is_folder(source) else [source])
        return cls(
            tuple(item for item in found if isinstance(item, Path)),
            tuple(item for item in found if isinstance(item, LeftOut)),
        )


def shown(path: Path) -> str:
    r"""Return a path fit for people: line breaks and bytes that are no text as \n, \xe4."""
    try:
        return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))
    except UnicodeEncodeError:  # half a character, as JSON can have it
        return printable(str(path))


def is_folder(path: Path) -> bool:
    """Whether it is a folder; where nobody may look there is none."""
    return stat.S_ISDIR(_mode(path)[0])


def is_file(path: Path) -> bool:
    """Whether it is a regular file; where nobody may look there is none."""
    return stat.S_ISREG(_mode(path)[0])


def identity(path: Path) -> Optional[Tuple[int, int]]:
    """Return device and inode, the same for all names of a file; None where there is none."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_dev, about.st_ino


def is_picture_name(name: str) -> bool:
    """Whether a file of that name is taken for a picture."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def table(left_out: Iterable[LeftOut]) -> List[str]:
    """Return the lines of a table: how many files are left out for which reason, the first named.

    Empty when there are none.
    """
    items = list(left_out)
    if not items:
        return []
    counted = list(_counted(items))
    rows = [f"{count:7}  {reason} (first: {first})" for reason, count, first in counted]
    more = sum(count for _, count, _ in counted[MOST_REASONS:])
    others = [f"{more:7}  for other reasons"] if more else []
    return [f"{_files(items)} left out:", *rows[:MOST_REASONS], *others]


def sentence(left_out: Iterable[LeftOut]) -> str:
    """Return the same in a sentence."""
    items = list(left_out)
    if not items:
        return ""
    rows = [f"{count}: {reason} (first: {first})" for reason, count, first in _counted(items)]
    others = ["..."] if len(rows) > MOST_REASONS else []
    return f"{_files(items)} left out; {'; '.join([*rows[:MOST_REASONS], *others])}."


def _files(items: Sequence[LeftOut]) -> str:
    return "1 file is" if len(items) == 1 else f"{len(items)} files are"


def _counted(items: Sequence[LeftOut]) -> Iterator[Tuple[str, int, str]]:
    first = {item.reason: item for item in reversed(items)}
    for reason, count in Counter(item.reason for item in items).most_common():
        yield reason, count, shown(first[reason].path)


def _sorted(found: Iterable[Found]) -> List[Found]:
    return sorted(found, key=lambda item: item if isinstance(item, Path) else item.path)


def _inside(folder: Path) -> Iterator[Found]:
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        yield LeftOut(folder, f"the folder can't be read: {error.strerror}")
        return
    for path in paths:
        yield from _entry(path)


def _entry(path: Path) -> Iterator[Found]:
    mode, reason = _mode(path)
    if path.name.startswith("."):
        yield LeftOut(path, HIDDEN, is_picture=False)
    elif stat.S_ISDIR(mode):
        if path.is_symlink():
            yield LeftOut(path, FOLDER_LINK, is_picture=False)
        else:
            yield from _inside(path)
    elif not is_picture_name(path.name):
        yield LeftOut(path, OTHER_ENDING, is_picture=False)
    else:
        yield path if stat.S_ISREG(mode) else LeftOut(path, reason)


def _mode(path: Path) -> Tuple[int, str]:
    """Return what kind of file it is, and why it is no picture unless it is a regular one."""
    try:
        return path.stat().st_mode, NO_FILE
    except OSError as error:  # a link to nothing or to itself
        return 0, f"it can't be opened: {error.strerror}"
    except ValueError:  # a name with a character that no file has
        return 0, NO_FILE
