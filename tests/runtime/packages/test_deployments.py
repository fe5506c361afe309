"""One entry that can't be looked at leaves the others as they are."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from edge_agent.config import ModelsSettings
from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FileEntry
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.package import Package
from tests.fakes import micro, signatures

NOBODY = 65534


def scanned_as_nobody(store: Store) -> List[str]:
    """The names that a user without rights of its own sees."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    os.seteuid(NOBODY)
    try:
        return sorted(store.scan())
    finally:
        os.seteuid(0)


def closed(folder: Path) -> str:
    """A package below a folder that only its owner may enter."""
    package = micro.write(folder / "closed" / "p", "classification")
    package.parent.chmod(0o700)
    return str(package)


def too_long(_folder: Path) -> str:
    return "/" + "a" * 300


@pytest.fixture(name="place")
def _place() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own isn't."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("package", [closed, too_long])
def test_a_record_of_a_package_that_cant_be_reached_is_left_out(
    place: Path, package: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    good = micro.write(place / "good", "classification")
    records = place / "models.d"
    records.mkdir()
    for name, path in (("bad", package(place)), ("good", str(good))):
        record = {"model_component": name, "package": path}
        (records / f"{name}.json").write_text(json.dumps(record))

    found = scanned_as_nobody(Store(ModelsSettings(records=records)))
    assert found == ["good"]
    assert "bad.json is ignored" in caplog.text


def test_a_folder_that_cant_be_entered_is_left_out(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    micro.write(place / "models" / "good", "classification")
    closed(place / "models")

    found = scanned_as_nobody(Store(ModelsSettings(folder=place / "models")))
    assert found == ["good"]
    assert "it can't be read (Permission denied)" in caplog.text


def test_a_package_is_signed_where_a_trusted_key_was_asked_for(tmp_path: Path) -> None:
    key = signatures.key(tmp_path, "plant")
    signatures.signed(micro.write(tmp_path / "models" / "m", "classification"), key)
    trusting = ModelsSettings(folder=tmp_path / "models", trusted_keys=tmp_path / "plant.pem")
    trusts_none = ModelsSettings(folder=tmp_path / "models")

    signed, unknown = (Store(each).scan()["m"].open() for each in (trusting, trusts_none))
    assert (signed.is_signed, unknown.is_signed) == (True, False)


def test_a_file_that_nothing_reads_is_verified_as_well(tmp_path: Path) -> None:
    model = micro.graph("classification")
    files = [FileEntry.of("model.onnx", model), FileEntry.of("report.txt", b"AUROC 0.98")]
    package = micro.write(
        tmp_path / "p", "classification", model, files=[entry.model_dump() for entry in files]
    )
    (package / "report.txt").write_bytes(b"AUROC 0.98")
    Package(package).verify()
    (package / "report.txt").write_bytes(b"AUROC 0.99")

    with pytest.raises(InvalidPackage, match=r"report\.txt was altered"):
        Package(package).verify()
