"""A model package on its way into a component: its manifest, and its files where they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.manifest import MODEL_FILE, FileEntry, Manifest
from edge_agent.packaging.graph import inferred_manifest, tensor_files
from edge_agent.packaging.graph.adapt import adapt
from edge_agent.runtime.packages import external_data
from edge_agent.runtime.packages.package import Package

ONNX_SUFFIX = ".onnx"


@dataclass(frozen=True)
class PackageDraft:
    """`read` returns the verified content of a file that the manifest lists.

    assumptions: sentences about what the manifest takes for granted.
    """

    manifest: Manifest
    read: Callable[[str], bytes]
    assumptions: Tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The sha-256 of the manifest, which holds those of all files."""
        return hashlib.sha256(self.manifest.to_json()).hexdigest()

    def read_model(self) -> bytes:
        """Return the ONNX file; it refers to nothing outside itself. Raises InvalidPackage."""
        model = self.read(MODEL_FILE)
        external_data.check(model)
        return model

    def change(self, **values: object) -> PackageDraft:
        """Return it with these values in the manifest; `Manifest` checks them when it is read."""
        return replace(self, manifest=self.manifest.model_copy(update=values))

    def add(self, files: Dict[str, bytes]) -> PackageDraft:
        """Return it with more files. Raises InvalidPackage when there is one of that name."""
        taken = sorted(set(files) & {entry.path for entry in self.manifest.files})
        if taken:
            raise InvalidPackage(
                f"The package lists a file {taken[0]} already; a component has its own. Package "
                "the model as it was trained, not a component made of it."
            )
        added = tuple(FileEntry.of(name, content) for name, content in sorted(files.items()))

        def read(name: str) -> bytes:
            return files[name] if name in files else self.read(name)

        return replace(self.change(files=self.manifest.files + added), read=read)


def open_draft(path: Path, given: Optional[Path]) -> PackageDraft:
    """Open a model package or an ONNX file, whose manifest is completed by the file `given`.

    An ONNX file is adapted to what the agent supplies and reads, as far as that is possible.

    Raises InvalidPackage, InvalidConfiguration.
    """
    if path.suffix.lower() != ONNX_SUFFIX:
        if given is not None:
            raise InvalidConfiguration(
                f"--manifest is for ONNX files; {path} is a model package with a manifest.json."
            )
        package = Package(path)
        return PackageDraft(package.manifest, package.read)
    exported = tensor_files.merged(path)
    external_data.check(exported)
    model, values, remarks = adapt(exported, inferred_manifest.read_given(given))
    manifest = inferred_manifest.manifest_for(model, values)
    assumptions = (*remarks, *inferred_manifest.assumptions(manifest))
    return PackageDraft(manifest, {MODEL_FILE: model}.__getitem__, assumptions)
