"""Kinds of work for the tests, and a service that does nothing else.

`python -m tests.service.work.trivial ROOT COUNT` submits COUNT pieces of work, says so and works on
until it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Mapping

from sqlalchemy import delete, insert, select

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.faults import RecordsFailed, ValidationFailed
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import TAGS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Parameters
from edge_agent.service.work.child import progress
from edge_agent.service.work.children import Children

TRIVIAL = f"{__name__ if __name__ != '__main__' else 'tests.service.work.trivial'}:Trivial"
KINDS = {"trivial": TRIVIAL, "other": TRIVIAL}
PARTS = ("one", "two", "three")  # files of the artifact


class Trivial:
    """Keeps its records in TAGS, by the work's name: progress, finished, failed."""

    def __init__(self, root: Path, settings: ServiceSettings) -> None:
        self.root, self.settings = root, settings

    def run(self, parameters: Parameters, folder: Path) -> Mapping[str, Any]:
        with (self.root / "runs").open("a") as runs:
            runs.write(f"{parameters['name']} {os.getpid()}\n")
        action = parameters.get("action", "work")
        if action == "refuse":
            raise InvalidConfiguration("The picture is too small; take another.")
        if action == "fault":
            raise RuntimeError(f"{folder}/model.onnx failed")
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "full disk":
            raise OSError(28, "No space left on device")
        progress("Half of it is done")
        artifact = folder / "artifact"
        artifact.mkdir()
        for part in PARTS:
            (artifact / part).write_text(parameters["name"])
            time.sleep(parameters.get("seconds", 0.0))
        return {"name": parameters["name"]}

    def progressed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        self._record(parameters, "progress", message, transaction)

    def publish(self, parameters: Parameters, folder: Path) -> None:
        if parameters.get("action") == "unpublished":
            raise InvalidConfiguration("The bucket is gone; make it.")
        if parameters.get("action") == "full bucket" and not (self.root / "room").exists():
            raise ValidationFailed(f"{self.root}/buckets/b/key can't be stored: the disk is full.")

    def finished(
        self,
        parameters: Parameters,
        result: Mapping[str, Any],
        folder: Path,
        transaction: Transaction,
    ) -> None:
        if parameters.get("action") == "lost":
            raise RuntimeError("the result is lost")
        if parameters.get("action") == "busy" and not (self.root / "busy").exists():
            (self.root / "busy").touch()
            raise RecordsFailed("database is locked")
        target = self.root / "artifacts" / parameters["name"]
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            (folder / "artifact").rename(target)
        self._record(parameters, "finished", result["name"], transaction)

    def failed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        self._record(parameters, "failed", message, transaction)

    def _record(
        self, parameters: Parameters, key: str, value: str, transaction: Transaction
    ) -> None:
        name = parameters["name"]
        statement = delete(TAGS).where(TAGS.c.arn == name, TAGS.c.key == key)
        transaction.connection.execute(statement)
        transaction.connection.execute(insert(TAGS).values(arn=name, key=key, value=value))


def recorded(records: Records) -> Dict[str, Dict[str, str]]:
    """Return what the kind has recorded, by the work's name."""
    found: Dict[str, Dict[str, str]] = {}
    with records.read() as transaction:
        for row in transaction.connection.execute(select(TAGS)):
            found.setdefault(row.arn, {})[row.key] = row.value
    return found


def main() -> None:
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    records = Records(root / "records.db")
    work = Children(root=root, settings=ServiceSettings(children=2), records=records, kinds=KINDS)
    work.start()
    with records.write() as transaction:
        for number in range(count):
            work.submit("trivial", {"name": str(number), "seconds": 0.03}, transaction)
    sys.stdout.write("submitted\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
