"""Labelled images on disk: FOLDER/normal and FOLDER/anomaly, or the lines of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Optional, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.label_manifest import (
    ALL,
    ANOMALY,
    NORMAL,
    LabelManifest,
    ManifestOptions,
)
from edge_agent.pictures.listing import (
    LeftOut,
    PictureListing,
    identity,
    is_file,
    is_folder,
    sentence,
    shown,
)


@dataclass(frozen=True)
class LabelledImages:
    """Image files by label, in order of name or of the manifest's lines.

    `remarks` are sentences for the user about labels and files; `model` is the one that captured
    the images, None where that isn't known; `left_out` is what else lies in the folders. `findings`
    are the sentences that explain why images are missing.
    """

    normal: Tuple[Path, ...]
    anomaly: Tuple[Path, ...]
    remarks: Tuple[str, ...] = ()
    model: Optional[str] = None
    left_out: Tuple[LeftOut, ...] = ()
    findings: Tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Path, options: ManifestOptions = ALL) -> LabelledImages:
        """List `source`/normal and `source`/anomaly, each perhaps with sub-folders, or a manifest.

        A missing sub-folder holds nothing. Raises InvalidConfiguration: why it can't be read.
        """
        if is_file(source):
            read = LabelManifest.read(source, options)
            normal, anomaly = read.paths(NORMAL), read.paths(ANOMALY)
            return cls(normal, anomaly, read.remarks, read.model, findings=read.findings)
        if not is_folder(source):
            raise InvalidConfiguration(
                f"{source} isn't a folder, which must hold normal/ (images), nor a manifest."
            )
        good, bad = (_listing(source / label) for label in (NORMAL, ANOMALY))
        _check_apart(good.paths, bad.paths)
        left_out = (*good.left_out, *bad.left_out)
        findings = (sentence(left_out),) if left_out else ()
        return cls(good.paths, bad.paths, left_out=left_out, findings=findings)


def _check_apart(normal: Iterable[Path], anomaly: Iterable[Path]) -> None:
    """Raise InvalidConfiguration when one file has both labels, by a link."""
    known = {identity(path): path for path in normal}
    both = next((path for path in anomaly if identity(path) in known), None)
    if both is not None:
        raise InvalidConfiguration(
            f"{shown(known[identity(both)])} and {shown(both)} are one file, which can't be "
            f"{NORMAL} and {ANOMALY}. Remove one of them."
        )


def holds(source: Path, label: str, count: int) -> str:
    """Return how many images of a label there are, as a sentence begins."""
    place = shown(source / label) if source.is_dir() else f"{shown(source)}, of class-name {label},"
    return f"{place} holds {count or 'no'} image{'' if count == 1 else 's'}"


def _listing(folder: Path) -> PictureListing:
    return PictureListing.of([folder]) if is_folder(folder) else PictureListing()
