"""Bills of materials: what a component is made of, as CycloneDX 1.5 JSON.

Format: https://cyclonedx.org/docs/1.5/json/. The same parts give the same bytes: there is no time
in it, and its serial number is made of its content.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Dict, List, Mapping, Sequence

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import MODEL_FILE, FileEntry, Manifest
from edge_agent.packaging.json_document import Document

FILE_NAME = "bom.cdx.json"
UNKNOWN: List[Document] = [{"license": {"name": "unknown"}}]
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # at the start of a requirement, PEP 508
_OPTIONAL = re.compile(r";.*\bextra\b")


def of_model(manifest: Manifest) -> bytes:
    """Return the bill of a model package: the model, its files and what it was trained with.

    A bill that the package lists already isn't part of it.
    """
    files = [entry for entry in manifest.files if entry.path != FILE_NAME]
    model: Document = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "hashes": [_hash(entry.sha256) for entry in files if entry.path == MODEL_FILE],
        "licenses": UNKNOWN,
        "modelCard": {"modelParameters": _parameters(manifest)},
    }
    parts = [_file(entry) for entry in sorted(files, key=lambda entry: entry.path)]
    return _bill(model, parts, {"model": [str(part["bom-ref"]) for part in parts]})


def of_agent(name: str, version: str, wheels: Sequence[Path]) -> bytes:
    """Return the bill of the agent component, made of `wheels`.

    Several wheels may be of one distribution, for other versions of Python. Raises
    InvalidConfiguration when a file isn't a wheel, OSError.
    """
    agent: Document = {"type": "application", "bom-ref": "agent", "name": name, "version": version}
    read = [_Wheel.read(path) for path in sorted(wheels, key=lambda path: path.name)]
    needs = {"agent": [wheel.file for wheel in read]}
    for wheel in read:
        needs[wheel.file] = [other.file for other in read if other.name in wheel.requirements]
    return _bill(agent, [wheel.part() for wheel in read], needs)


def _bill(subject: Document, parts: List[Document], needs: Mapping[str, List[str]]) -> bytes:
    bill: Document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": parts,
        "dependencies": [{"ref": ref, "dependsOn": on} for ref, on in needs.items()],
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(bill))}"
    return (json.dumps(bill, indent=2, sort_keys=True) + "\n").encode()


def _hash(sha256: str) -> Dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _file(entry: FileEntry) -> Document:
    return {
        "type": "file",
        "bom-ref": f"file:{entry.path}",
        "name": entry.path,
        "hashes": [_hash(entry.sha256)],
    }


def _parameters(manifest: Manifest) -> Document:
    parameters: Document = {"task": manifest.task}
    if manifest.source_digest:
        digest = {"name": "sha256", "value": manifest.source_digest}
        data = {"type": "dataset", "name": "training images", "contents": {"properties": [digest]}}
        parameters["datasets"] = [data]
    return parameters


@dataclass(frozen=True)
class _Wheel:
    """A wheel of the Python packaging standards: https://packaging.python.org, PEP 427 and 566."""

    file: str
    sha256: str
    name: str  # normalised as by PEP 503
    metadata: Message

    @classmethod
    def read(cls, path: Path) -> _Wheel:
        metadata = wheel_metadata(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(path.name, digest, normalised(metadata["Name"]), metadata)

    @property
    def requirements(self) -> List[str]:
        """Normalised names of what it needs by itself, wherever it is installed."""
        found = self.metadata.get_all("Requires-Dist", ())
        names = [_NAME.match(text) for text in found if not _OPTIONAL.search(text)]
        return [normalised(name[0]) for name in names if name]

    def part(self) -> Document:
        version = self.metadata["Version"]
        return {
            "type": "library",
            "bom-ref": self.file,
            "name": self.name,
            "version": version,
            "purl": f"pkg:pypi/{self.name}@{version.replace('+', '%2B')}",
            "hashes": [_hash(self.sha256)],
            "licenses": _licenses(self.metadata),
            "properties": [{"name": "edge-agent:file", "value": self.file}],
        }


def wheel_metadata(path: Path) -> Message:
    """Return a wheel's METADATA. Raises InvalidConfiguration when it isn't a wheel, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next(filter(_METADATA.fullmatch, archive.namelist()), "METADATA")
            metadata = message_from_bytes(archive.read(inside))
    except (zipfile.BadZipFile, KeyError):
        metadata = Message()
    if metadata["Name"] is None:
        raise InvalidConfiguration(f"{path} isn't a wheel: no METADATA is in it.")
    return metadata


def normalised(name: str) -> str:
    """Return a distribution's name as all spellings of it are compared, PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _licenses(metadata: Message) -> List[Document]:
    """From the most exact source there is: SPDX expression (PEP 639), one line, classifiers."""
    expression = metadata["License-Expression"]
    if expression:
        return [{"expression": expression}]
    line = str(metadata["License"] or "").strip()
    if line and "\n" not in line and line != "UNKNOWN":
        return [{"license": {"name": line.split(" :: ")[-1]}}]
    classifiers = metadata.get_all("Classifier", ())
    names = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License :: ")]
    return [{"license": {"name": name}} for name in names] or UNKNOWN
