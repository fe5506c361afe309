"""What is deployed on this device: one registration a model, from a folder of packages and from
records in `models.d`.

A record is one JSON file: {"model_component": NAME, "package": PATH, "autostart": false,
"model_arn": "", "decision": {...}}; `decision` replaces single values of the package's own.
"""  # noqa: D205

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.config import ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import FILE_NAME, NAME_PATTERN, Decision, Manifest
from edge_agent.runtime.package import Package, stamp

log = logging.getLogger(__name__)


class Record(Strict):
    """The content of a registration record."""

    model_component: Annotated[str, Field(pattern=NAME_PATTERN)]
    package: Annotated[str, Field(pattern=r"^/")]
    autostart: bool = False
    model_arn: str = ""
    decision: Dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Registration:
    """A deployed model; equal to an earlier one only when nothing about it changed."""

    name: str
    package: Path
    stamp: Tuple[int, ...]
    autostart: bool = False
    arn: str = ""
    decision: str = "{}"  # JSON of the values that replace the manifest's

    def apply(self, manifest: Manifest) -> Manifest:
        """Return the manifest with this registration's decision values in it."""
        values = {**manifest.decision.model_dump(mode="json"), **json.loads(self.decision)}
        try:
            decision = read_json(Decision, json.dumps(values).encode())
        except ValueError as error:
            raise InvalidPackage(f"Registration of {self.name!r}: decision.{error}") from None
        return manifest.model_copy(update={"decision": decision})


class Store:
    """Reads what is deployed, anew on each `scan`; unusable entries are logged once, left out."""

    def __init__(self, settings: ModelsSettings) -> None:
        self._settings = settings
        self._complained: Dict[Path, Tuple[int, ...]] = {}
        self._arns: Dict[Path, Tuple[Tuple[int, ...], str]] = {}

    def scan(self) -> Dict[str, Registration]:
        """Return the registrations by name. A record wins over a folder entry of the same name."""
        found = {entry.name: entry for entry in self._from_folder()}
        found.update((entry.name, entry) for entry in self._from_records())
        return found

    def _from_folder(self) -> Iterator[Registration]:
        folder = self._settings.folder
        for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            name = path.stem if path.suffix == ".zip" else path.name
            if not (path.suffix == ".zip" and path.is_file()) and not (path / FILE_NAME).is_file():
                continue
            if not re.match(NAME_PATTERN, name):
                self._complain(path, f"its name must match {NAME_PATTERN}")
                continue
            package_stamp = stamp(path)
            arn = self._arn(path, package_stamp)
            yield Registration(name, path, package_stamp, self._settings.autostart, arn)

    def _from_records(self) -> Iterator[Registration]:
        folder = self._settings.records
        for path in sorted(folder.glob("*.json")) if folder and folder.is_dir() else ():
            try:
                record = read_json(Record, path.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                self._complain(path, str(error))
                continue
            package = Path(record.package)
            package_stamp = stamp(package)
            if not package_stamp:
                self._complain(path, f"its package {package} isn't there")
                continue
            yield Registration(
                record.model_component,
                package,
                package_stamp,
                record.autostart,
                record.model_arn or self._arn(package, package_stamp),
                json.dumps(record.decision, sort_keys=True),
            )

    def _arn(self, package: Path, package_stamp: Tuple[int, ...]) -> str:
        known = self._arns.get(package)
        if known is None or known[0] != package_stamp:
            try:
                arn = Package(package).manifest.model_arn
            except EdgeAgentError:
                arn = ""  # said in full when the model is started
            known = self._arns[package] = (package_stamp, arn)
        return known[1]

    def _complain(self, path: Path, why: str) -> None:
        try:
            facts = path.stat()
        except OSError:
            return  # gone since it was listed
        version = (facts.st_mtime_ns, facts.st_size)
        if self._complained.get(path) != version:
            self._complained[path] = version
            log.warning("%s is left out: %s", path, why)
