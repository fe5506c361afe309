"""A service without its HTTP side: records, hosted models, and operations called as `http` does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Optional, Set

from sqlalchemy import insert, select, update

from edge_agent.runtime.vision.picture_files import png
from edge_agent.service.call import Answer, Call
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.operations.detection import Detection
from edge_agent.service.operations.hosting import Hosting
from edge_agent.service.operations.models import Models
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from tests.conftest import children
from tests.fakes import golden, micro

ACCOUNT, OTHER_ACCOUNT, PROJECT = "123456789012", "210987654321", "cookies"
WRITING = ("start_model", "stop_model")


def picture(red: int) -> bytes:
    """A PNG of one colour, which the classification model scores red / 255."""
    return png(golden.draw_even(red))


def runtimes(service: Optional[int] = None) -> Set[int]:
    """The processes that host models of a service, by its process; of this one without any."""
    found = children("runtime_main", service)
    return {int(each.split()[1].rstrip(":")) for each in found}


class HostingService:
    """One service on a folder; as a context manager it hosts what its records say."""

    def __init__(self, root: Path, detection: Optional[Detection] = None, **settings: Any) -> None:
        self.root = root
        self.settings = ServiceSettings(**settings)
        self.records = Records(root / "records.db")
        self.hosting = HostedModels(self.records, self.settings, root)
        self._operations = (
            Hosting(self.hosting, self.settings),
            detection or Detection(self.hosting),
            Models(),
        )  # fmt: skip

    def __enter__(self) -> HostingService:
        self.hosting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hosting.close()
        self.records.close()

    def add_model(
        self,
        task: str,
        version: int = 1,
        status: str = "TRAINED",
        model: Optional[bytes] = None,
        **columns: object,
    ) -> Path:
        """Add a trained model of the project, which is made with its first one; its package."""
        package = micro.write(self.root / "models" / ACCOUNT / PROJECT / str(version), task, model)
        with self.records.write() as transaction:
            run = transaction.connection.execute
            project = run(select(PROJECTS.c.id).where(PROJECTS.c.name == PROJECT)).scalar()
            if project is None:
                values = {
                    "account": ACCOUNT,
                    "name": PROJECT,
                    "arn": f"arn:{PROJECT}",
                    "created": 0,
                }
                project = run(insert(PROJECTS).values(values).returning(PROJECTS.c.id)).scalar()
            row = insert(MODELS).values(
                project_id=project, version=version, arn=f"arn:{PROJECT}/{version}", created=0,
                status=status, output_bucket="bucket", **columns,
            )  # fmt: skip
            run(row)
        return package

    def call(
        self, operation: str, version: object = 1, account: str = ACCOUNT, **more: Any
    ) -> Answer:
        """Run an operation in its transaction, as the service does."""
        parameters: Dict[str, Any] = {"ProjectName": PROJECT, "ModelVersion": str(version), **more}
        call = Call(
            "lookoutvision", operation, account, "AKIA", "us-east-1", "1", time.time(), parameters
        )
        run = next(
            getattr(each, operation) for each in self._operations if hasattr(each, operation)
        )
        begin = self.records.write if operation in WRITING else self.records.read
        with begin() as transaction:
            answer: Answer = run(call, transaction)
        return answer

    def detect(self, picture: bytes, version: int = 1, kind: str = "image/png") -> Dict[str, Any]:
        """Return DetectAnomalyResult."""
        answer: Any = self.call("detect_anomalies", version, Body=picture, ContentType=kind)
        return dict(answer["DetectAnomalyResult"])

    def describe(self, version: int = 1) -> Dict[str, Any]:
        """Return ModelDescription."""
        answer: Any = self.call("describe_model", version)
        return dict(answer["ModelDescription"])

    def status(self, version: int = 1) -> str:
        return str(self.describe(version)["Status"])

    def set_status(self, status: str, version: int = 1) -> None:
        change = update(MODELS).where(MODELS.c.version == version).values(status=status)
        with self.records.write() as transaction:
            transaction.connection.execute(change)

    def wait_for(self, status: str, version: int = 1, within_s: float = 120.0) -> Dict[str, Any]:
        """Return the model's description once it has that status."""
        end = time.monotonic() + within_s
        while True:
            found = self.describe(version)
            if found["Status"] == status:
                return found
            assert time.monotonic() < end, f"expected {status}, found {found}"
            time.sleep(0.02)

    def host(self, version: int = 1, **units: int) -> None:
        """Start a model and wait until it is hosted."""
        self.call("start_model", version, **{"MinInferenceUnits": 1, **units})
        self.wait_for("HOSTED", version)
