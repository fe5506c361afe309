"""What a migration finds and writes: one line a thing, and files that are written at the end."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, List, Sequence, Set, Tuple

from typing_extensions import Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.json_document import Document

# maps: works as it is. changed: ours says it otherwise. person: somebody must do something.
Status = Literal["maps", "changed", "person"]


@dataclass(frozen=True)
class MigrationNote:
    """What became of one thing; `commands` are shell lines that do what the message says."""

    status: Status
    source: str  # the file it stands in
    thing: str
    message: str
    commands: Tuple[str, ...] = ()


@dataclass
class Migration:
    """Findings and files so far.

    `versions` has the new version of each component whose recipe was read; `models` names those
    that are models, `refused` the components whose recipe can't be migrated.
    """

    out: Path  # where the files will be
    agent: str  # our agent's component
    target: str = ""  # ARN that deployments without one go to
    findings: List[MigrationNote] = field(default_factory=list)
    files: Dict[str, bytes] = field(default_factory=dict)
    versions: Dict[str, str] = field(default_factory=dict)
    models: Set[str] = field(default_factory=set)
    refused: Set[str] = field(default_factory=set)

    def write(self, name: str, content: bytes) -> None:
        """Add a file to the output folder. Raises InvalidConfiguration when it is there."""
        if self.files.get(name, content) != content:
            raise InvalidConfiguration(
                f"Two of the files given would become {name}; migrate them one by one."
            )
        self.files[name] = content

    def path(self, name: str) -> str:
        """Return where a file of that name will be."""
        return str(self.out / name)

    def of(self, source: str) -> Notes:
        """Return a place for what is found in `source`."""
        return Notes(self, source)

    @property
    def needs_a_person(self) -> bool:
        """Whether anything can't be done here."""
        return any(finding.status == "person" for finding in self.findings)

    @property
    def paths(self) -> List[str]:
        """Where the files will be."""
        return [self.path(name) for name in sorted(self.files)]

    def to_json(self) -> Document:
        """Return the report as plain values."""
        return {"findings": [asdict(note) for note in self.findings], "files": self.paths}


@dataclass(frozen=True)
class Notes:
    """Adds findings of one file."""

    migration: Migration
    source: str

    def maps(self, thing: str, message: str) -> None:
        """Note what works as it is."""
        self._add("maps", thing, message)

    def changed(self, thing: str, message: str, *commands: Sequence[str]) -> None:
        """Note what ours says otherwise."""
        self._add("changed", thing, message, *commands)

    def person(self, thing: str, message: str, *commands: Sequence[str]) -> None:
        """Note what somebody must do."""
        self._add("person", thing, message, *commands)

    def _add(self, status: Status, thing: str, message: str, *commands: Sequence[str]) -> None:
        lines = tuple(" ".join(map(shlex.quote, words)) for words in commands)
        self.migration.findings.append(MigrationNote(status, self.source, thing, message, lines))


def without_values(error: Exception) -> str:
    """Return the sentence of an error, without the values it cites, as those may be secret."""
    text = re.sub(r" \(it is .*?(?:\)(?=;|\.?$)|\Z)", "", str(error), flags=re.DOTALL)
    return text if text.endswith(".") else f"{text}."
