"""Where the images lie that a manifest names: paths, file:// URIs, and downloaded s3:// URIs.

A name may be percent-encoded. What a bucket holds lies in the folder of the downloaded images, or
in one of the bucket's name inside it; where only a part of the bucket was downloaded, without the
beginning that its keys have in common. The bucket stays a part of an image's identity.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import unquote, unquote_plus

from edge_agent.errors import InvalidConfiguration
from edge_agent.pictures.listing import shown

S3, FILE = "s3://", "file://"


@dataclass(frozen=True)
class ImagePlace:
    """A file, and whether it is there."""

    path: Path
    is_there: bool


def places(
    source: Path, references: Iterable[str], images: Optional[Path]
) -> Dict[str, ImagePlace]:
    """Return where each reference in the manifest `source` leads.

    images: the folder of what was downloaded. Raises InvalidConfiguration: what must be downloaded
    first, or that two images would be taken for one.
    """
    wanted = list(dict.fromkeys(references))
    in_buckets: Dict[str, Dict[str, str]] = {}  # bucket → reference → key
    found: Dict[str, ImagePlace] = {}
    for reference in wanted:
        if reference.startswith(S3):
            bucket, _, key = reference[len(S3) :].partition("/")
            in_buckets.setdefault(bucket, {})[reference] = key.lstrip("/")
        elif reference.startswith(FILE):
            found[reference] = _existing(Path(unquote(reference[len(FILE) :])))
        else:
            found[reference] = _existing(*(source.parent / name for name in _spellings(reference)))
    for bucket, keys in in_buckets.items():
        found.update(_downloaded(source, bucket, keys, images, len(in_buckets) > 1))
    _check_identity(source, in_buckets, found)
    return {reference: found[reference] for reference in wanted}


def _spellings(name: str) -> List[str]:
    """Return a name as it is, and what it stands for when it is percent-encoded."""
    decoded = (decode(name, errors="surrogateescape") for decode in (unquote, unquote_plus))
    return list(dict.fromkeys((name, *decoded)))


def _existing(*candidates: Path) -> ImagePlace:
    there = next((path for path in candidates if path.is_file()), None)
    return ImagePlace(there or candidates[0], there is not None)


def _downloaded(
    source: Path, bucket: str, keys: Mapping[str, str], images: Optional[Path], several: bool
) -> Dict[str, ImagePlace]:
    """Return the places of a bucket's images: the folder and the beginning that fit most."""
    if images is None:
        raise InvalidConfiguration(
            f"{source} names images in S3 ({next(iter(keys))}). Download them first: "
            f"aws s3 sync s3://{bucket} FOLDER{'/' + bucket if several else ''}; "
            "then add --images FOLDER."
        )
    if not images.is_dir():
        raise InvalidConfiguration(f"--images {shown(images)} isn't a folder.")
    roots = [images / bucket, images] if several else [images, images / bucket]
    fits = [_fits(root, keys.values()) for root in roots]
    most = max(max(fit.values()) for fit in fits)
    root, fit = next(pair for pair in zip(roots, fits) if max(pair[1].values()) == most)
    starts = sorted((start for start in fit if fit[start] == most), key=len)
    if most and len(starts) > 1:
        raise InvalidConfiguration(
            f"Whether {shown(root)} holds what begins with {starts[0]!r} or with {starts[1]!r} in "
            f"the bucket of {source} can't be seen. Download it with all its folders: "
            f"aws s3 sync s3://{bucket} FOLDER."
        )
    return {reference: _without(root, key, starts[0]) for reference, key in keys.items()}


def _fits(root: Path, keys: Iterable[str]) -> Counter[str]:
    """Count the images that are there below `root` without each beginning of their keys."""
    fits: Counter[str] = Counter()
    for key in keys:
        for start in _beginnings(key):
            fits[start] += _without(root, key, start).is_there
    return fits


def _beginnings(key: str) -> List[str]:
    """Return "", and each folder that the key lies in, with a slash at the end."""
    parents = [str(parent) for parent in PurePosixPath(key).parents]
    return [*(f"{parent}/" for parent in parents if parent not in (".", "/")), ""]


def _without(root: Path, key: str, start: str) -> ImagePlace:
    if not key.startswith(start):
        return ImagePlace(root / key, is_there=False)
    return _existing(*(root / name for name in _spellings(key[len(start) :])))


def _check_identity(
    source: Path, in_buckets: Mapping[str, Mapping[str, str]], found: Mapping[str, ImagePlace]
) -> None:
    """Raise InvalidConfiguration when images of two buckets would be the same file."""
    owners: Dict[Path, Tuple[str, str]] = {}
    for bucket, keys in in_buckets.items():
        for reference in keys:
            place = found[reference]
            other, first = owners.setdefault(place.path, (bucket, reference))
            if place.is_there and other != bucket:
                raise InvalidConfiguration(
                    f"{source} names {first} and {reference}, which are two images, but both would "
                    f"be {shown(place.path)}. Download each bucket into a folder of its name: "
                    f"{_commands(sorted(in_buckets))}; then add --images FOLDER."
                )


def _commands(buckets: Sequence[str]) -> str:
    return "; ".join(f"aws s3 sync s3://{bucket} FOLDER/{bucket}" for bucket in buckets)
