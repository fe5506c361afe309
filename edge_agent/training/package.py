"""Writes a model package in one step: it is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Iterable, Mapping

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import FILE_NAME, Manifest
from edge_agent.pictures.listing import shown


def check_target(out: Path) -> None:
    """Raise InvalidConfiguration when `out` is no package, or when no folder can be made there."""
    if out.is_symlink() or (out.exists() and not (out / FILE_NAME).is_file()):
        raise InvalidConfiguration(
            f"{out} exists and isn't a model package (it has no {FILE_NAME}); choose another --out."
        )
    folder = next(each for each in out.absolute().parents if each.exists())
    try:
        Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=folder)).rmdir()
    except OSError as error:
        raise InvalidConfiguration(
            f"{shown(out)} can't be made in {shown(folder)}: {error.strerror}. Choose another "
            "--out, or correct that."
        ) from None


def check_inputs(out: Path, images: Iterable[Path]) -> None:
    """Raise InvalidConfiguration when `images` lie in `out`, which is replaced as a whole."""
    folder = out.resolve()
    inside = next((path for path in images if folder in path.resolve().parents), None)
    if inside is not None:
        raise InvalidConfiguration(
            f"{shown(inside)} lies in {shown(out)}, which the new package replaces. Choose another "
            "--out."
        )


def write(out: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write the folder `out`, in place of an earlier package there; `files` by path inside it."""
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        fresh, old = workplace / "new", workplace / "old"
        fresh.mkdir()
        for path, content in {**files, FILE_NAME: manifest.to_json()}.items():
            (fresh / path).parent.mkdir(exist_ok=True)
            (fresh / path).write_bytes(content)
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(workplace)
