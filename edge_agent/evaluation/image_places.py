"""Where the images lie that a manifest names: paths, file:// URIs, and downloaded s3:// URIs.

A name may be percent-encoded. What a bucket holds lies in the folder of the downloaded images, or
in one of the bucket's name inside it; where only a part of the bucket was downloaded, without the
beginning that its keys have in common. Bucket and key stay an image's identity, and a file is one
image, however it is named.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import unquote, unquote_plus

from edge_agent.errors import InvalidConfiguration
from edge_agent.pictures.listing import identity, is_file, is_folder, shown

S3, FILE = "s3://", re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)


@dataclass(frozen=True)
class ImagePlace:
    """A file, and whether it is there; it is the same for all names of a file."""

    path: Path
    is_there: bool


@dataclass(frozen=True)
class _Named:
    """Where a name leads; `literal`: what it names as it is written."""

    place: ImagePlace
    literal: str


def places(
    source: Path, references: Iterable[str], images: Optional[Path]
) -> Dict[str, ImagePlace]:
    """Return where each reference in the manifest `source` leads.

    images: the folder of what was downloaded. Raises InvalidConfiguration: what must be downloaded
    first, or that two images would be taken for one.
    """
    wanted = list(dict.fromkeys(references))
    in_buckets: Dict[str, Dict[str, str]] = {}  # bucket → reference → key
    local: Dict[str, _Named] = {}
    for reference in wanted:
        uri = FILE.match(reference)
        if reference.startswith(S3):
            bucket, key = _bucket_and_key(source, reference)
            in_buckets.setdefault(bucket, {})[reference] = key
        elif uri:
            local[reference] = _local(Path(unquote(reference[uri.end() :])))
        else:
            local[reference] = _local(*(source.parent / name for name in _spellings(reference)))
    downloaded: Dict[str, _Named] = {}
    for bucket, keys in in_buckets.items():
        found = _downloaded(source, bucket, keys, images, len(in_buckets) > 1)
        downloaded.update({name: _Named(place, name) for name, place in found.items()})
    _check_identity(source, local, ())
    _check_identity(source, downloaded, sorted(in_buckets))
    return _unified(wanted, {**local, **downloaded})


def _bucket_and_key(source: Path, reference: str) -> Tuple[str, str]:
    bucket, _, key = reference[len(S3) :].partition("/")
    if not bucket or not key:
        raise InvalidConfiguration(
            f"{source} names {reference!r}, which is no image in S3; expected s3://BUCKET/KEY."
        )
    return bucket, key.lstrip("/")


def _local(*candidates: Path) -> _Named:
    return _Named(_existing(*candidates), os.path.realpath(candidates[0]))


def _unified(wanted: Iterable[str], found: Mapping[str, _Named]) -> Dict[str, ImagePlace]:
    """Return the places; one for all names that lead to a file by links or detours."""
    places: Dict[object, ImagePlace] = {}  # device and inode → the first
    result: Dict[str, ImagePlace] = {}
    for reference in wanted:
        place = found[reference].place
        file = identity(place.path) if place.is_there else None
        result[reference] = places.setdefault(file or place.path, place)
    return result


def _spellings(name: str) -> List[str]:
    """Return a name as it is, and what it stands for when it is percent-encoded."""
    decoded = (decode(name, errors="surrogateescape") for decode in (unquote, unquote_plus))
    return list(dict.fromkeys((name, *decoded)))


def _existing(*candidates: Path) -> ImagePlace:
    there = next((path for path in candidates if is_file(path)), None)
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
    if not is_folder(images):
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


def _check_identity(source: Path, named: Mapping[str, _Named], buckets: Sequence[str]) -> None:
    """Raise InvalidConfiguration when names of two images lead to one file."""
    owners: Dict[str, Tuple[str, str]] = {}  # file → what is meant, and the name
    for reference, name in named.items():
        if not name.place.is_there:
            continue
        path = os.path.realpath(name.place.path)
        literal, first = owners.setdefault(path, (name.literal, reference))
        if literal != name.literal:
            raise InvalidConfiguration(
                f"{source} names {first} and {reference}, which are two images, but both would be "
                f"{shown(name.place.path)}. {_advice(buckets)}"
            )


def _advice(buckets: Sequence[str]) -> str:
    if len(buckets) < 2:
        return "Let each file have the very name that stands in the manifest."
    commands = "; ".join(f"aws s3 sync s3://{bucket} FOLDER/{bucket}" for bucket in buckets)
    return f"Download each bucket into a folder of its name: {commands}; then add --images FOLDER."
