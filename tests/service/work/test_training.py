"""How the result of a training becomes visible, at whatever moment the service is killed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Dict

import pytest
from sqlalchemy import Row, insert, select

from edge_agent.service.faults import ServiceFault
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.evaluation_files import FILES
from edge_agent.service.work.evaluation_files import RESULT as RESULT_FILE
from edge_agent.service.work.training import PACKAGE, Training
from tests.service.calls import ACCOUNT

PARAMETERS: Dict[str, Any] = {
    "model_id": 1,
    "account": ACCOUNT,
    "project": "plates",
    "version": "1",
    "arn": "arn",
    "bucket": "output",
    "prefix": "",
}
RESULT = {"message": "Done.", "performance": {"F1Score": 1.0}, "ended": 7.0}


@pytest.fixture(autouse=True)
def _model(records: Records) -> None:
    """Record the model that is being trained."""
    project: Dict[str, Any] = {"account": ACCOUNT, "name": "plates", "arn": "", "created": 0}
    trained = {"project_id": 1, "version": 1, "arn": "arn", "created": 0, "status": "TRAINING"}
    with records.write() as transaction:
        transaction.connection.execute(insert(PROJECTS).values(**project))
        transaction.connection.execute(insert(MODELS).values(**trained, output_bucket="output"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the work, with a package in it."""
    made = tmp_path / "work" / "1" / PACKAGE
    made.mkdir(parents=True)
    (made / "model.onnx").write_bytes(b"model")
    return made.parent


@pytest.fixture
def kind(tmp_path: Path) -> Training:
    return Training(tmp_path, ServiceSettings())


def model(records: Records) -> Row[Any]:
    with records.read() as transaction:
        return transaction.connection.execute(select(MODELS)).one()


def package(root: Path) -> Path:
    return root / "models" / ACCOUNT / "plates" / "1"


def move_without_record(kind: Training, records: Records, folder: Path) -> None:
    with suppress(ConnectionError), records.write() as transaction:
        kind.finished(PARAMETERS, RESULT, folder, transaction)
        raise ConnectionError  # as if the service were killed here


def test_a_result_that_was_moved_but_not_recorded_is_recorded_the_second_time(
    tmp_path: Path, records: Records, folder: Path, kind: Training
) -> None:
    move_without_record(kind, records, folder)
    assert model(records).status == "TRAINING"
    with records.write() as transaction:
        kind.finished(PARAMETERS, RESULT, folder, transaction)
    found = model(records)
    assert (found.status, found.message, found.evaluation_ended) == ("TRAINED", "Done.", 7.0)
    assert found.evaluation_result == {"Bucket": "output", "Key": "EvaluationResult-plates-1.json"}
    assert [path.name for path in package(tmp_path).iterdir()] == ["model.onnx"]


def test_a_model_is_not_trained_without_its_package(
    records: Records, folder: Path, kind: Training
) -> None:
    (folder / PACKAGE / "model.onnx").unlink()
    (folder / PACKAGE).rmdir()
    with pytest.raises(OSError, match="package is gone"), records.write() as transaction:
        kind.finished(PARAMETERS, RESULT, folder, transaction)
    assert model(records).status == "TRAINING"


def test_a_failure_after_the_move_leaves_no_package(
    tmp_path: Path, records: Records, folder: Path, kind: Training
) -> None:
    move_without_record(kind, records, folder)
    with records.write() as transaction:
        kind.failed(PARAMETERS, "It failed.", transaction)
    assert (model(records).status, model(records).message) == ("TRAINING_FAILED", "It failed.")
    assert not package(tmp_path).exists()


def test_evaluation_files_appear_both_or_not_at_all(
    tmp_path: Path, folder: Path, kind: Training
) -> None:
    output = tmp_path / "buckets" / "output"
    output.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    stray = output / f"{RESULT_FILE}-plates-1.json"
    stray.mkdir()  # the second one can't be written
    with pytest.raises(ServiceFault, match="can't be stored"):
        kind.publish(PARAMETERS, folder)
    assert list(output.iterdir()) == [stray]
    stray.rmdir()
    for _ in range(2):  # again, as after a service that was killed
        kind.publish(PARAMETERS, folder)
        found = {path.name: path.read_text() for path in output.iterdir()}
        assert found == {f"{name}-plates-1.json": name for name in FILES}


def test_progress_and_failures_do_not_change_a_model_that_is_trained(
    tmp_path: Path, records: Records, folder: Path, kind: Training
) -> None:
    with records.write() as transaction:
        kind.finished(PARAMETERS, RESULT, folder, transaction)
        kind.progressed(PARAMETERS, "Late.", transaction)
    assert model(records).message == "Done."
    assert package(tmp_path).exists()
