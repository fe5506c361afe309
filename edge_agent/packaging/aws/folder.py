"""A component folder as `package` and `component build` make it, read to be published.

recipes/NAME-VERSION.json           the recipe; its artifacts lie at s3://BUCKET_NAME/NAME/VERSION/…
artifacts/NAME/VERSION/FILE         the files it names
tags.json                           {"key": "value"}, for the component in the cloud; may be missing
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Tuple

from edge_agent.captures.upload import S3Location
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging import json_document
from edge_agent.packaging.json_document import Document, objects
from edge_agent.packaging.recipe import check

PLACEHOLDER = "s3://BUCKET_NAME/"
TAGS_FILE = "tags.json"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ComponentFolder:
    """One component in one version."""

    path: Path
    name: str
    version: str
    recipe: Document

    @classmethod
    def read(cls, path: Path) -> ComponentFolder:
        """Read the recipe. Raises InvalidConfiguration."""
        found = sorted(path.glob("recipes/*.json"))
        if len(found) != 1:
            raise InvalidConfiguration(
                f"{path} has {len(found)} recipes; expected recipes/NAME-VERSION.json, as "
                "edge-agent package writes it."
            )
        content = found[0].read_bytes()
        recipe = check(content)
        return cls(path, recipe.ComponentName, recipe.ComponentVersion, json.loads(content))

    def artifacts(self) -> Dict[str, Path]:
        """Return the files to upload by NAME/VERSION/FILE. Raises InvalidConfiguration."""
        root = self.path / "artifacts"
        keys = [key for _, key in _own_artifacts(self.recipe)]
        for key in keys:
            file = root / key
            if root.resolve() not in file.resolve().parents:
                raise InvalidConfiguration(f"The recipe names {key!r}, which isn't in {root}.")
            if not file.is_file():
                raise InvalidConfiguration(f"The recipe names {file}, which isn't there.")
        return {key: root / key for key in keys}

    def recipe_at(self, place: S3Location) -> bytes:
        """Return the recipe (JSON) for artifacts at `place`. Raises InvalidConfiguration."""
        recipe = json.loads(json.dumps(self.recipe))
        for entry, key in _own_artifacts(recipe):
            entry["URI"] = place.uri(key)
        content = (json.dumps(recipe, indent=2, ensure_ascii=False) + "\n").encode()
        check(content)  # longer addresses may make it too big for nucleus lite
        return content

    def tags(self) -> Dict[str, str]:
        """Return the tags that it was packaged with. Raises InvalidConfiguration."""
        file = self.path / TAGS_FILE
        if not file.exists():
            return {}
        tags = json_document.read(file)
        texts = {key: value for key, value in tags.items() if isinstance(value, str)}
        if len(texts) < len(tags):
            raise InvalidConfiguration(f'{file}: expected an object such as {{"line": "4"}}.')
        return texts


def _own_artifacts(recipe: Document) -> Iterator[Tuple[Document, str]]:
    """Yield the artifacts that the folder holds, with NAME/VERSION/FILE; others lie elsewhere."""
    for manifest in objects(recipe, "Manifests"):
        for entry in objects(manifest, "Artifacts"):
            uri = str(entry["URI"])
            if uri.startswith(PLACEHOLDER):
                yield entry, uri[len(PLACEHOLDER) :]


def digest(file: Path) -> str:
    """Return the sha-256 of a file, in hex."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
            found.update(chunk)
    return found.hexdigest()
