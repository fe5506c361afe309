"""Files written for pictures: a name of its own for each, below one folder, and never an input's.

Names are compared without case, as some file systems do.
"""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from typing import Dict, Iterable, Iterator, Sequence, Set, Tuple

from edge_agent.errors import InvalidRequest
from edge_agent.pictures.listing import shown

Identity = Tuple[int, int]  # device and inode


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


def check_targets(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InvalidRequest when a file to write is one to read, by whatever name or link."""
    known = {identity: path for path in inputs for identity in _identities(path)}
    for target in targets:
        for identity in _identities(target):
            if identity in known:
                raise InvalidRequest(
                    f"{shown(target)} would be written over {shown(known[identity])}, which is to "
                    "be read. Choose another place."
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


def _identities(path: Path) -> Iterator[Identity]:
    try:
        about = path.stat()
    except OSError:
        return
    yield about.st_dev, about.st_ino
