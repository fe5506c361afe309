"""The labelled images that a model is trained and tested with, fetched from their buckets.

Each is a file of a plain name in the folder of the work: what is said of a file can be said of the
image, and paths of the machine stay in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Container, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple, Union

from edge_agent.errors import EdgeAgentError, InvalidConfiguration
from edge_agent.evaluation.label_words import ANOMALY, NORMAL
from edge_agent.pictures.listing import SUFFIXES
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.faults import ValidationFailed

MOST_IMAGE_BYTES = 8 * 1024**2  # the original's limit
MOST_NAMED = 3  # images that are left out
THREADS = min(os.cpu_count() or 1, 8)
MOST_BITS = 16  # a channel: whether an image can be read doesn't hang on how dark it is
TEST_SHARE = 5  # of a single dataset, one image of so many of each label is for the test
WHOLE, TRAIN, TEST = "dataset", "training dataset", "test dataset"
FEWEST: Mapping[str, Mapping[str, int]] = {  # the original's limits
    WHOLE: {NORMAL: 20, ANOMALY: 10},
    TRAIN: {NORMAL: 10, ANOMALY: 0},
    TEST: {NORMAL: 10, ANOMALY: 10},
}


class Image(NamedTuple):
    """One labelled entry of a dataset: the line of its manifest, and what is in it."""

    line: Dict[str, Any]
    source: str  # s3://bucket/key
    label: str

    @classmethod
    def of(cls, text: str, label: str) -> Image:
        """Read a line of a manifest that has a source-ref; `label`: that of its entry."""
        line: Dict[str, Any] = json.loads(text)
        return cls(line, line["source-ref"], label)


@dataclass
class Fetched:
    """Images by the files they are in, and why others are left out."""

    images: Dict[Path, Image] = field(default_factory=dict)
    left_out: List[str] = field(default_factory=list)

    def write_manifest(self, file: Path) -> None:
        """Write what `edge_agent.evaluation` reads: files and labels, nothing else."""
        with file.open("w") as manifest:
            for path, image in self.images.items():
                labelled = {"class-name": image.label, "human-annotated": "yes"}
                line = {"source-ref": str(path), "anomaly-label-metadata": labelled}
                manifest.write(json.dumps(line) + "\n")

    def __or__(self, other: Fetched) -> Fetched:
        """Return these images and others."""
        return Fetched({**self.images, **other.images})

    def select(self, sources: Container[str]) -> Fetched:
        """Return those of the images whose URI is in `sources`."""
        return Fetched({path: each for path, each in self.images.items() if each.source in sources})

    def named(self, text: str) -> str:
        """Return what is said of the files in the words of the API: images by their URIs.

        The trainer names a file by its path, or from the folder of the manifest on.
        """
        uris = {
            name: str(S3Name.of_uri(image.source))
            for path, image in self.images.items()
            for name in (str(path), f"{path.parent.name}/{path.name}")
            if name in text
        }
        names = "|".join(map(re.escape, uris))
        return re.sub(names, lambda found: uris[found[0]], text) if uris else text

    def failure(self, error: EdgeAgentError, manifest: Path, dataset: str) -> InvalidConfiguration:
        """Return an error about the files in the words of the API."""
        text = str(error).replace(str(manifest), f"The {dataset}")
        return InvalidConfiguration(self.named(text))


def check_counts(dataset: str, images: Iterable[Image], left_out: Sequence[str] = ()) -> None:
    """Raise InvalidConfiguration when the dataset has fewer images than training needs."""
    counts = Counter(image.label for image in images)
    fewest = FEWEST[dataset]
    if any(counts[label] < count for label, count in fewest.items()):
        needed = " and ".join(f"{count} {label}" for label, count in fewest.items() if count)
        usable = " and can be used" if left_out else ""
        sentences = (
            f"The {dataset} has {counts[NORMAL]} normal and {counts[ANOMALY]} anomaly images that "
            f"are labelled{usable}; at least {needed} images are needed.",
            left_out_sentence(left_out),
            "Add or label images, then create another model.",
        )
        raise InvalidConfiguration(" ".join(filter(None, sentences)))


def left_out_sentence(reasons: Sequence[str]) -> str:
    """Say how many images are left out and why the first of them; "" when none is."""
    if not reasons:
        return ""
    images = "1 image was" if len(reasons) == 1 else f"{len(reasons)} images were"
    more = len(reasons) - MOST_NAMED
    others = [f"Others: {more}."] if more > 0 else []
    return " ".join([f"{images} left out:", *reasons[:MOST_NAMED], *others])


def split(images: Fetched) -> Tuple[Fetched, Fetched]:
    """Split a single dataset: the images for training, and those for the test.

    Of each label one in five is for the test, by the names of the images alone, so that the same
    ones are it in every version.
    """
    every = images.images.values()
    tested = {each.source for label in (NORMAL, ANOMALY) for each in _chosen(every, label)}
    trained = {each.source for each in every} - tested
    return images.select(trained), images.select(tested)


def fetch(images: Iterable[Image], account: str, buckets: Buckets, folder: Path) -> Fetched:
    """Return the images in files below `folder`; those that can't be used are left out."""

    def one(numbered: Tuple[int, Image]) -> Union[Path, str]:
        number, image = numbered
        try:
            return _readable(image, account, buckets, folder / f"{number:06}")
        except ValidationFailed as fault:
            return str(fault)

    fetched, wanted = Fetched(), list(images)
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as threads:
        for image, found in zip(wanted, threads.map(one, enumerate(wanted))):
            if isinstance(found, Path):
                fetched.images[found] = image
            else:
                fetched.left_out.append(found)
    return fetched


def fetch_object(source: str, account: str, buckets: Buckets, folder: Path) -> Path:
    """Return a file with an image, s3://bucket/key. Raises ValidationFailed."""
    bucket, key = S3Name.of_uri(source)
    return buckets.fetch(account, bucket, key, folder, MOST_IMAGE_BYTES)


def _readable(image: Image, account: str, buckets: Buckets, place: Path) -> Path:
    """Return a link to an image that can be read, named `place` and what its key ends in.

    Raises ValidationFailed: why it can't be used.
    """
    from edge_agent.pictures.reader import frame_of

    file = fetch_object(image.source, account, buckets, place.parent)
    try:
        frame_of(file.read_bytes(), MOST_BITS)
    except OSError as error:
        reason = f"it can't be read: {error.strerror}"
    except ValueError as error:
        reason = str(error).rstrip(".")
    else:
        ending = Path(image.source).suffix.lower()
        link = place.with_suffix(ending if ending in SUFFIXES else "")
        link.symlink_to(file)
        return link
    raise ValidationFailed(f"{S3Name.of_uri(image.source)} can't be used: {reason}.")


def _chosen(images: Iterable[Image], label: str) -> List[Image]:
    found = sorted((image for image in images if image.label == label), key=_rank)
    return found[: round(len(found) / TEST_SHARE)]


def _rank(image: Image) -> str:
    return hashlib.sha256(image.source.encode(errors="surrogatepass")).hexdigest()
