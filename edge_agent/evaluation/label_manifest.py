"""Reads the manifests that Lookout for Vision took and exported, and the agent's of its captures.

JSON lines with `source-ref` and a label, as labelling jobs write them (developer guide, "Defining
JSON lines for image classification"). Masks are not read. A `source-ref` is a path relative to the
manifest, an absolute one, a file:// or an s3:// URI.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.image_places import ImagePlace, places
from edge_agent.evaluation.label_words import ANOMALY, NORMAL, Label, known_words, label_of
from edge_agent.fields import parse_json
from edge_agent.pictures.listing import is_folder, shown

__all__ = ["ALL", "ANOMALY", "NORMAL", "LabelEntry", "LabelManifest", "ManifestOptions"]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it at the beginning


@dataclass(frozen=True)
class ManifestOptions:
    """Which lines of a manifest to read, and where its images are.

    images: the folder that holds what the bucket of its s3:// URIs holds. model: only frames that
    were captured with this one; None: all, unless several models captured. label_attribute: the
    labelling job that counts; None: all, as long as they agree.
    """

    images: Optional[Path] = None
    model: Optional[str] = None
    label_attribute: Optional[str] = None


ALL = ManifestOptions()
MOST_REASONS = 5  # why labels aren't understood, that are shown


@dataclass(frozen=True)
class LabelEntry:
    """One line: an image, its label, whose capture it is."""

    reference: str
    label: Label
    model: str

    @classmethod
    def of(cls, line: Mapping[str, object], label_attribute: Optional[str]) -> LabelEntry:
        """Read a line that has a source-ref."""
        own = line.get("edge-agent")
        model = own.get("model", "") if isinstance(own, dict) else ""
        return cls(str(line["source-ref"]), label_of(line, label_attribute), str(model))


@dataclass(frozen=True)
class LabelManifest:
    """Entries by image file, without those that have no label or no file.

    `model` captured them, None where that isn't known. Sentences for the user: `findings` on images
    that are left out, `remarks` on those and on the labels.
    """

    entries: Dict[Path, LabelEntry]
    model: Optional[str]
    remarks: Tuple[str, ...]
    findings: Tuple[str, ...]

    @classmethod
    def read(cls, source: Path, options: ManifestOptions) -> LabelManifest:
        """Read a file; of lines about one image the last counts.

        Raises InvalidConfiguration: which line can't be read, or what must be chosen or fetched.
        """
        found = list(_entries(source, options.label_attribute))
        model = _model(source, found, options.model)
        if model:
            found = [entry for entry in found if entry.model == model]
        where = places(source, (entry.reference for entry in found), options.images)
        entries = {where[entry.reference]: entry for entry in found}
        labelled = {place: entry for place, entry in entries.items() if entry.label.name}
        there = {place.path: entry for place, entry in labelled.items() if place.is_there}
        missing = [place.path for place in labelled if not place.is_there]
        findings = (*_unlabelled(source, entries), *_missing(source, missing))
        pairs = [(where[entry.reference], entry) for entry in found]
        remarks = (
            *findings,
            *_relabelled(source, pairs),
            *_unconfirmed(source, list(there.values())),
        )
        return cls(there, model, remarks, findings)

    def paths(self, label: str) -> Tuple[Path, ...]:
        """Return the images with that label, in the order of the lines."""
        return tuple(path for path, entry in self.entries.items() if entry.label.name == label)


def _entries(source: Path, label_attribute: Optional[str]) -> Iterator[LabelEntry]:
    for number, raw in enumerate(_content(source).splitlines(), start=1):
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
        yield LabelEntry.of(line, label_attribute)


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


def _content(source: Path) -> bytes:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise InvalidConfiguration(f"{source} can't be read: {error.strerror}.") from None
    return content[content.startswith(BYTE_ORDER_MARK) and len(BYTE_ORDER_MARK) :]


def _unlabelled(source: Path, entries: Mapping[ImagePlace, LabelEntry]) -> Iterator[str]:
    without = {place: entry for place, entry in entries.items() if not entry.label.name}
    if not without:
        return
    first: Dict[str, Path] = {}
    counts = Counter(entry.label.reason for entry in without.values())
    for place, entry in without.items():
        first.setdefault(entry.label.reason, place.path)
    reasons = "; ".join(
        f"{_images(count)}: {reason} (first: {shown(first[reason])})"
        for reason, count in counts.most_common(MOST_REASONS)
    )
    has, is_ = ("has", "is") if len(without) == 1 else ("have", "are")
    yield (
        f"{_images(len(without))} of {source} {has} no label that is understood and {is_} left "
        f"out: {reasons}. Understood are {known_words()}."
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _missing(source: Path, missing: List[Path]) -> Iterator[str]:
    folders = [path for path in missing if is_folder(path)]
    gone = [path for path in missing if path not in folders]
    for paths, one, several in (
        (gone, "does not exist and is", "do not exist and are"),
        (folders, "is a folder and is", "are folders and are"),
    ):
        if paths:
            files = "1 image file" if len(paths) == 1 else f"{len(paths)} image files"
            yield (
                f"{files} that {source} names {one if len(paths) == 1 else several} left out: "
                f"{shown(paths[0])}{' ...' if len(paths) > 1 else ''}"
            )


def _relabelled(source: Path, pairs: Iterable[Tuple[ImagePlace, LabelEntry]]) -> Iterator[str]:
    labels: Dict[ImagePlace, Set[str]] = {}
    for place, entry in pairs:
        labels.setdefault(place, set()).add(entry.label.name)
    several = [place.path for place, names in labels.items() if len(names) > 1]
    if several:
        yield (
            f"{_images(len(several))} of {source} {'has' if len(several) == 1 else 'have'} several "
            f"lines with different labels, of which the last counts (first: {shown(several[0])})."
        )


def _unconfirmed(source: Path, used: List[LabelEntry]) -> Iterator[str]:
    guessed = sum(not entry.label.confirmed for entry in used)
    if guessed:
        are = "is a verdict" if guessed == 1 else "are verdicts"
        yield (
            f"{guessed} of {len(used)} labels in {source} {are} of a model that no person "
            "has confirmed; check these images and correct class-name where it is wrong."
        )
