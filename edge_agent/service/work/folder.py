"""The folder of a piece of work: the task that its child process finds, the outcome it leaves.

Both files are there whole or not at all. The kind may make any others in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from edge_agent.runtime.system.files import write_atomically
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Parameters

TASK, OUTCOME = "task.json", "outcome.json"


@dataclass(frozen=True)
class Task:
    """What is to be done. `root` and `settings` are the service's."""

    parameters: Parameters
    root: Path
    settings: ServiceSettings

    def write(self, folder: Path) -> None:
        """Leave it in `folder`. Raises OSError."""
        settings = self.settings.model_dump(mode="json")
        content = {"parameters": self.parameters, "root": str(self.root), "settings": settings}
        write_atomically(folder / TASK, json.dumps(content).encode(), sync=False)

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Take it from `folder`."""
        content: Dict[str, Any] = json.loads((folder / TASK).read_bytes())
        settings = ServiceSettings.model_validate_json(json.dumps(content["settings"]))
        return cls(content["parameters"], Path(content["root"]), settings)


@dataclass(frozen=True)
class TaskOutcome:
    """How it ended: with a result, or with a sentence that says what failed."""

    result: Optional[Mapping[str, Any]] = None
    failure: str = ""

    def write(self, folder: Path) -> None:
        """Leave it in `folder`, on disk for sure. Raises OSError."""
        write_atomically(folder / OUTCOME, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Optional[TaskOutcome]:
        """Take it from `folder`; None: the process didn't get so far."""
        try:
            return cls(**json.loads((folder / OUTCOME).read_bytes()))
        except FileNotFoundError:
            return None
