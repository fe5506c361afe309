"""Registration records: JSON files in `models.d`, one a model, written by hand or by a component.

{"model_component": NAME, "package": PATH, "autostart": false, "model_arn": "", "decision": {...},
"signed_as": "", "allow_downgrade": false, "component_stopped": false, "withdrawn": false}.
`decision` replaces single
values of the package's own. `signed_as`: the component that the package was signed as, if it isn't
the model's own name. `allow_downgrade`: an older version than one served before may serve.
`component_stopped`: the model's component wrote the record and has stopped since. `withdrawn`: an
agent saw that it stopped, and lets the model go; the next agent goes on with it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Dict, Optional

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN
from edge_agent.runtime.system.files import replacing

LIMIT_BYTES = 1024 * 1024


class Record(Strict):
    """The content of a registration record."""

    model_component: Annotated[str, Field(pattern=NAME_PATTERN)]
    package: Annotated[str, Field(pattern=r"^/")]
    autostart: bool = False
    model_arn: str = ""
    decision: Dict[str, object] = Field(default_factory=dict)
    signed_as: Optional[Annotated[str, Field(pattern=NAME_PATTERN)]] = None
    allow_downgrade: bool = False
    component_stopped: bool = False
    withdrawn: bool = False


def is_record(path: Path) -> bool:
    """Whether a file of this name is read; editors and copies in progress use hidden names."""
    return path.suffix.lower() == ".json" and not path.name.startswith(".")


def read(path: Path) -> Record:
    """Read a record. Raises OSError, ValueError: a sentence for everything that is wrong."""
    path.stat()
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("it isn't a plain file")
    with path.open("rb") as file:
        content = file.read(LIMIT_BYTES + 1)
    if len(content) > LIMIT_BYTES:
        raise ValueError(f"it has more than {LIMIT_BYTES} bytes")
    if not content.strip():
        raise ValueError("it is empty")
    return read_json(Record, content)


def note_withdrawn(path: Path, record: Record) -> None:
    """Write `withdrawn` into the record; where that can't be, only this agent knows of it."""
    noted = record.model_copy(update={"withdrawn": True}).model_dump_json(exclude_defaults=True)
    with suppress(OSError), replacing(path, fresh=path.with_name(f".{path.name}")) as file:
        os.fchmod(file.fileno(), 0o644)  # the component may be another user
        file.write(noted.encode())
