"""The labelled images that a model is trained and tested with, fetched from their buckets."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from edge_agent.errors import EdgeAgentError, InvalidConfiguration
from edge_agent.evaluation.label_words import ANOMALY, NORMAL, label_of
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.faults import ValidationFailed

TEST_SHARE = 5  # of a single dataset, one image of so many of each label is for the test
MOST_IMAGE_BYTES = 64 * 2**20  # of an image or mask; the original took 8 MB
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
    def of(cls, text: str) -> Image:
        """Read a line of a manifest that has a source-ref and a label."""
        line: Dict[str, Any] = json.loads(text)
        return cls(line, line["source-ref"], label_of(line).name)


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

    def failure(self, error: EdgeAgentError, manifest: Path, dataset: str) -> InvalidConfiguration:
        """Return an error about the files in the words of the API: images by their URIs."""
        text = str(error).replace(str(manifest), f"The {dataset}")
        for path, image in self.images.items():
            text = text.replace(str(path), image.source)
        return InvalidConfiguration(" ".join([text, *self.left_out[:1]]))


def parts(train: Sequence[str], test: Sequence[str], is_single: bool) -> Tuple[List[Image], ...]:
    """Return the images for training and those for the test.

    A single dataset is split: of each label one in five is for the test, by the names of the images
    alone, so that the same ones are it in every version. Raises InvalidConfiguration when there are
    too few of a label.
    """
    first, second = [Image.of(line) for line in train], [Image.of(line) for line in test]
    if not is_single:
        check_counts(TRAIN, first)
        check_counts(TEST, second)
        return first, second
    check_counts(WHOLE, first)
    chosen = {image.source for label in (NORMAL, ANOMALY) for image in _chosen(first, label)}
    return (
        [image for image in first if image.source not in chosen],
        [image for image in first if image.source in chosen],
    )


def check_counts(dataset: str, images: Iterable[Image]) -> None:
    """Raise InvalidConfiguration when the dataset has fewer images than training needs."""
    counts = Counter(image.label for image in images)
    fewest = FEWEST[dataset]
    if any(counts[label] < count for label, count in fewest.items()):
        needed = " and ".join(f"{count} {label}" for label, count in fewest.items() if count)
        raise InvalidConfiguration(
            f"The {dataset} has {counts[NORMAL]} normal and {counts[ANOMALY]} anomaly images that "
            f"are labelled; at least {needed} images are needed. Add or label images, then create "
            "another model."
        )


def fetch(images: Iterable[Image], account: str, buckets: Buckets, folder: Path) -> Fetched:
    """Return the images in files; those that can't be had are left out."""
    fetched = Fetched()
    for image in images:
        try:
            fetched.images[fetch_object(image.source, account, buckets, folder)] = image
        except ValidationFailed as fault:
            fetched.left_out.append(str(fault))
    return fetched


def fetch_object(source: str, account: str, buckets: Buckets, folder: Path) -> Path:
    """Return a file with an s3://bucket/key. Raises ValidationFailed."""
    bucket, key = S3Name.of_uri(source)
    return buckets.fetch(account, bucket, key, folder, MOST_IMAGE_BYTES)


def _chosen(images: Iterable[Image], label: str) -> List[Image]:
    found = sorted((image for image in images if image.label == label), key=_rank)
    return found[: round(len(found) / TEST_SHARE)]


def _rank(image: Image) -> str:
    return hashlib.sha256(image.source.encode(errors="surrogatepass")).hexdigest()
