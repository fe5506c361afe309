"""Files written for pictures: a name of its own for each, below one folder, and over no other file.

Names are compared without case, as some file systems do.
"""

from __future__ import annotations

import os
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, Sequence, Set

from edge_agent.errors import InvalidRequest
from edge_agent.pictures.listing import SUFFIXES, identity, is_file, shown
from edge_agent.runtime.system.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODE = 0o666  # less what the umask takes
MARK = b"\nedge-agent overlay\n"  # behind the picture in a file that may be written again


def output_names(sources: Sequence[Path], paths: Iterable[Path], suffix: str) -> Dict[Path, Path]:
    """Return for each of `paths`, found in `sources`, the relative path of its output.

    It is the path inside its folder; with several sources their folders' names come before it.
    Where two pictures differ in their endings alone, the second keeps its own before `suffix`.
    """
    names: Dict[Path, Path] = {}
    taken: Set[str] = set()
    for path in paths:
        inside = _inside(sources, path)
        names[path] = next(
            name for name in _candidates(inside, suffix) if str(name).lower() not in taken
        )
        taken.add(str(names[path]).lower())
    return names


def write_picture(path: Path, image: NDArray[np.uint8], mark: bytes = b"") -> None:
    """Write uint8 RGB (height, width, 3) whole or not at all; a link is replaced, not followed.

    mark: bytes behind the picture, which readers of pictures skip. Raises InvalidRequest.
    """
    from edge_agent.runtime.vision.picture_files import encode

    try:
        content = encode(path.suffix.lower(), image) + mark
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{os.getpid()}.new")
        write_atomically(path, content, mode=MODE, sync=False, fresh=fresh)
    except ValueError:
        raise InvalidRequest(
            f"{shown(path)} can't be written; known file endings: {', '.join(SUFFIXES)}."
        ) from None
    except OSError as error:
        raise InvalidRequest(f"{shown(path)} can't be written: {error.strerror}.") from None


def check_targets(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InvalidRequest when a file to write is there already, unless it ends in MARK.

    Even so it may not be one to read, by whatever name or link.
    """
    known = {identity(path): path for path in inputs}
    for target in targets:
        about = identity(target)
        if about and about in known:
            raise InvalidRequest(
                f"{shown(target)} would be written over {shown(known[about])}, which is to be "
                "read. Choose another place."
            )
        if os.path.lexists(target) and not _is_marked(target):
            raise InvalidRequest(
                f"{shown(target)} exists and isn't an overlay that detect has written. Choose "
                "another place, or remove it."
            )


def _inside(sources: Sequence[Path], path: Path) -> Path:
    for source in sources:
        if source == path:
            return Path(path.name)
        if source in path.parents:
            relative = path.relative_to(source)
            return relative if len(sources) == 1 else Path(source.resolve().name, relative)
    return Path(path.name)


def _candidates(inside: Path, suffix: str) -> Iterator[Path]:
    return chain(
        (inside.with_suffix(suffix), inside.with_name(inside.name + suffix)),
        (inside.with_name(f"{inside.stem}-{number}{suffix}") for number in count(2)),
    )


def _is_marked(path: Path) -> bool:
    if not is_file(path) or path.stat().st_size < len(MARK):
        return False
    try:
        with path.open("rb") as file:
            file.seek(-len(MARK), os.SEEK_END)
            return file.read() == MARK
    except OSError:
        return False
