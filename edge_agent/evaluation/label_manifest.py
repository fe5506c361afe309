"""Reads the manifests that Lookout for Vision took and exported, and the agent's of its captures.

JSON lines with `source-ref` and `anomaly-label-metadata`, whose `class-name` decides: normal,
anomaly, or anything else for an image without a label (developer guide, "Defining JSON lines for
image classification"). Masks are not read. A `source-ref` is a path relative to the manifest, an
absolute one, a file:// or an s3:// URI.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import unquote

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import parse_json

NORMAL, ANOMALY = "normal", "anomaly"
S3, FILE = "s3://", "file://"


@dataclass(frozen=True)
class ManifestOptions:
    """Which lines of a manifest to read, and where its images are.

    images: the folder that holds what the bucket of its s3:// URIs holds. model: only frames that
    were captured with this one; None: all, unless several models captured.
    """

    images: Optional[Path] = None
    model: Optional[str] = None


ALL = ManifestOptions()


@dataclass(frozen=True)
class LabelEntry:
    """One line: an image, its label ("" for none), whether a person gave it, whose capture."""

    reference: str
    label: str
    confirmed: bool
    model: str

    @classmethod
    def of(cls, line: Mapping[str, object]) -> LabelEntry:
        """Read a line that has a source-ref."""
        label = _group(line, "anomaly-label-metadata")
        name = label.get("class-name")
        return cls(
            reference=str(line["source-ref"]),
            label=str(name) if name in (NORMAL, ANOMALY) else "",
            confirmed=label.get("human-annotated") == "yes",
            model=str(_group(line, "edge-agent").get("model", "")),
        )


@dataclass(frozen=True)
class LabelManifest:
    """Entries by image file, without those that have no label or no file.

    `model` captured them, None where that isn't known; `remarks` are sentences for the user.
    """

    entries: Dict[Path, LabelEntry]
    model: Optional[str]
    remarks: Tuple[str, ...]

    @classmethod
    def read(cls, source: Path, options: ManifestOptions) -> LabelManifest:
        """Read a file; of lines about one image the last counts.

        Raises InvalidConfiguration: which line can't be read, or what must be chosen or fetched.
        """
        found = list(_entries(source))
        model = _model(source, found, options.model)
        if model:
            found = [entry for entry in found if entry.model == model]
        entries = {_path(source, entry.reference, options.images): entry for entry in found}
        labelled = {path: entry for path, entry in entries.items() if entry.label}
        there = {path: entry for path, entry in labelled.items() if path.is_file()}
        missing = [path for path in labelled if path not in there]
        remarks = _remarks(source, len(entries) - len(labelled), missing, list(there.values()))
        return cls(there, model, tuple(remarks))

    def paths(self, label: str) -> Tuple[Path, ...]:
        """Return the images with that label, in the order of the lines."""
        return tuple(path for path, entry in self.entries.items() if entry.label == label)


def _entries(source: Path) -> Iterator[LabelEntry]:
    for number, raw in enumerate(source.read_bytes().splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            line = parse_json(raw)
        except ValueError as error:
            raise InvalidConfiguration(f"{source}, line {number}, isn't JSON: {error}.") from None
        if not isinstance(line, dict) or not isinstance(line.get("source-ref"), str):
            raise InvalidConfiguration(
                f"{source}, line {number}, names no image; each line of a manifest must be a JSON "
                "object with source-ref."
            )
        yield LabelEntry.of(line)


def _model(source: Path, entries: List[LabelEntry], requested: Optional[str]) -> Optional[str]:
    known = sorted({entry.model for entry in entries if entry.model})
    if requested is not None and requested not in known:
        raise InvalidConfiguration(
            f"{source} has no captures of {requested!r}; models in it: "
            f"{', '.join(known) or 'none'}."
        )
    if requested is None and len(known) > 1:
        raise InvalidConfiguration(
            f"{source} holds captures of several models; choose one with --model: "
            f"{', '.join(known)}."
        )
    return requested or (known[0] if known else None)


def _path(source: Path, reference: str, images: Optional[Path]) -> Path:
    if reference.startswith(S3):
        bucket, _, key = reference[len(S3) :].partition("/")
        if images is None:
            raise InvalidConfiguration(
                f"{source} names images in S3 ({reference}). Download them first: "
                f"aws s3 sync s3://{bucket} FOLDER; then add --images FOLDER."
            )
        return images / key
    if reference.startswith(FILE):
        return Path(unquote(reference[len(FILE) :]))
    return source.parent / reference


def _remarks(
    source: Path, unlabelled: int, missing: List[Path], used: List[LabelEntry]
) -> Iterator[str]:
    if unlabelled:
        yield (
            f"{unlabelled} images of {source} have no label (class-name normal or anomaly) and are "
            "left out."
        )
    if missing:
        yield (
            f"{len(missing)} image files that {source} names do not exist and are left out: "
            f"{missing[0]} ..."
        )
    guessed = sum(not entry.confirmed for entry in used)
    if guessed:
        yield (
            f"{guessed} of {len(used)} labels in {source} are verdicts of a model that no person "
            "has confirmed; check these images and correct class-name where it is wrong."
        )


def _group(line: Mapping[str, object], key: str) -> Mapping[str, object]:
    group = line.get(key)
    return group if isinstance(group, dict) else {}
