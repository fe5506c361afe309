"""What is deployed, look by look: what can't be used changes nothing, what was removed goes."""

from __future__ import annotations

import codecs
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from queue import SimpleQueue
from typing import Callable, Dict, Iterator, List, Tuple

import pytest

from edge_agent.config import ModelsSettings
from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FileEntry
from edge_agent.runtime.packages import awaited_packages, sources
from edge_agent.runtime.packages.background_scan import BackgroundScan
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.packages.registration import Registration
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


class Disk:
    """Two models, looked at before anything happens to them: `boxes` a package in the folder of
    models, `cups` a record of a package elsewhere.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.models, self.records = place, place / "models", place / "models.d"
        self.records.mkdir()
        self.boxes = micro.write(self.models / "boxes", "classification")
        self.cups = micro.write(place / "packages" / "cups", "classification")
        self.record = self.write_record("cups.json", "cups")
        self.settings = ModelsSettings(
            folder=self.models, records=self.records, remove_after_s=3600.0
        )
        self.store = Store(self.settings)
        self.before = self.store.scan()

    def write_record(self, file: str, name: str) -> Path:
        path = self.records / file
        path.write_text(json.dumps({"model_component": name, "package": str(self.cups)}))
        return path

    def look(self) -> Dict[str, Registration]:
        """As a user without rights of its own; until nothing changes any more."""
        os.seteuid(NOBODY) if os.geteuid() == 0 else None
        try:
            found = self.store.scan()
            while self.store.is_waiting:
                found = self.store.scan()
        finally:
            os.seteuid(0) if os.getuid() == 0 else None
        return found

    def removed(self) -> List[str]:
        """What is gone once the time is over."""
        self.look()
        self.store.remove_after_s = 0.0
        self.look()
        return sorted(self.before.keys() - self.look().keys())


@pytest.fixture(name="disk")
def _disk(place: Path) -> Disk:
    return Disk(place)


def away(path: Path) -> Path:
    return path.rename(path.with_name("elsewhere"))


def unmounted(path: Path) -> None:
    """The folder below the one that was mounted there."""
    away(path)
    path.mkdir()


def unreadable(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    path.chmod(0)


def a_file(path: Path) -> None:
    away(path)
    path.write_text("")


RECORD = '{"model_component": "cups", "package": "/x"'
FAULTS: Dict[str, Tuple[str, Callable[[Disk], object], str]] = {
    "half written": ("cups", lambda disk: disk.record.write_text(RECORD), "Expecting"),
    "emptied": ("cups", lambda disk: disk.record.write_text(""), "it is empty"),
    "no text": ("cups", lambda disk: disk.record.write_bytes(b"\xff\xfe{"), "codec"),
    "a list": ("cups", lambda disk: disk.record.write_text("[]"), "whole document"),
    "wrong type": ("cups", lambda disk: disk.record.write_text(RECORD + ', "autostart": 1}'),
                   "autostart"),
    "a key twice": ("cups", lambda disk: disk.record.write_text(RECORD + ', "package": "/y"}'),
                    "appears twice"),
    "no package": ("cups", lambda disk: disk.record.write_text(RECORD + "}"), "/x doesn't exist"),
    "record locked": ("cups", lambda disk: unreadable(disk.record), "Permission denied"),
    "record a folder": ("cups", lambda disk: (away(disk.record), disk.record.mkdir()),
                        "isn't a plain file"),
    "package away": ("cups", lambda disk: away(disk.cups), "doesn't exist"),
    "package locked": ("cups", lambda disk: unreadable(disk.cups), "Permission denied"),
    "records away": ("cups", lambda disk: away(disk.records), "models.records"),
    "records unmounted": ("cups", lambda disk: unmounted(disk.records), "another folder"),
    "records locked": ("cups", lambda disk: unreadable(disk.records), "Permission denied"),
    "models away": ("boxes", lambda disk: away(disk.models), "models.folder"),
    "models unmounted": ("boxes", lambda disk: unmounted(disk.models), "another folder"),
    "models locked": ("boxes", lambda disk: unreadable(disk.models), "Permission denied"),
    "models a file": ("boxes", lambda disk: a_file(disk.models), "is a file"),
    "model locked": ("boxes", lambda disk: unreadable(disk.boxes), "Permission denied"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_removes_no_model_and_is_reported_once_where_people_look(
    disk: Disk, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, happen, why = FAULTS[fault]
    caplog.set_level(logging.INFO)
    happen(disk)

    for _ in range(3):
        assert disk.look() == disk.before  # the same package, stamp, decision
    assert why in disk.look()[name].note
    assert not disk.removed()
    assert [finding.is_fault for finding in disk.store.findings] == [True]
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert why in errors[0]
    assert name in errors[0]


def test_what_is_said_of_a_path_that_isnt_utf_8_can_be_sent(disk: Disk) -> None:
    disk.record.rename(disk.records / "\udcff.json")
    disk.write_record("\udcff.json", "cups")
    assert disk.look() == disk.before
    (disk.records / "\udcff.json").write_text("{")
    note = disk.look()["cups"].note
    assert r"\udcff.json can't be used" in note
    assert note in [finding.sentence for finding in disk.store.findings]


def test_a_component_that_stopped_before_the_agent_began_withdraws_nothing(disk: Disk) -> None:
    record = json.loads(disk.record.read_bytes())
    stopped = json.dumps({**record, "component_stopped": True})
    disk.record.write_text(stopped)
    store = Store(disk.settings)
    store.remove_after_s = 0.0
    for _ in range(3):
        assert "cups" in store.scan()
    gone = away(disk.cups)  # now the nucleus has removed it
    late = Store(disk.settings)  # or its disk is mounted after the agent has begun
    assert "cups" not in late.scan()
    gone.rename(disk.cups)
    while "cups" not in late.scan():  # once it is whole
        assert not [each for each in late.findings if each.is_fault]
    away(disk.cups)
    assert "cups" in store.scan()
    assert "cups" not in store.scan()
    assert not disk.record.exists()

    disk.record.write_text(stopped)  # of a component that came and went meanwhile
    for _ in range(2):
        assert disk.record.exists()
        assert "cups" not in store.scan()
    assert not disk.record.exists()


def test_a_withdrawal_that_was_seen_outlives_the_agent_unless_the_component_is_back(
    disk: Disk,
) -> None:
    content = disk.record.read_bytes()
    disk.record.write_text(json.dumps({**json.loads(content), "component_stopped": True}))
    assert "cups" in disk.store.scan()
    assert disk.record.stat().st_mode & 0o777 == 0o644
    both, agent = Store(disk.settings), Store(disk.settings)  # what begins again
    both.remove_after_s = agent.remove_after_s = 0.0
    for _ in range(2):
        assert "cups" in agent.scan()
    assert "cups" in both.scan()
    disk.record.write_bytes(content)
    for _ in range(4):
        assert "cups" in both.scan()
    disk.record.write_text(json.dumps({**json.loads(content), "component_stopped": True}))
    assert "cups" not in agent.scan()
    assert not disk.record.exists()


def test_a_disk_that_does_not_answer_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answers: SimpleQueue[Dict[str, Registration]] = SimpleQueue()
    scan = BackgroundScan(answers.get)
    assert [scan.look(0.01), scan.look(0.01), scan.is_late] == [None, None, True]
    assert len(caplog.records) == 1
    answers.put({})
    while scan.look(0.01) is None:
        time.sleep(0.001)
    answers.put({})
    assert (scan.look(60.0), scan.is_late) == ({}, False)


def levels(caplog: pytest.LogCaptureFixture) -> List[int]:
    """Of what needs somebody; an earlier test may have asked for more."""
    return [record.levelno for record in caplog.records if record.levelno > logging.INFO]


def test_a_record_that_is_being_written_is_one_error(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    content = disk.record.read_bytes()
    for _ in chunks(disk.record, content):
        assert disk.look() == disk.before
    assert not disk.look()["cups"].note
    assert levels(caplog) == [logging.ERROR]


@pytest.mark.parametrize("folder", ["models", "records"])
def test_a_folder_that_is_back_is_in_order_again(
    disk: Disk, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path: Path = getattr(disk, folder)
    gone = away(path)
    disk.look()
    gone.rename(path)

    found = disk.look()
    assert (found, disk.store.findings) == (disk.before, [])
    assert not any(each.note for each in found.values())
    assert f"{path} is in order again" in caplog.text


ORDERS: Dict[str, Tuple[str, Callable[[Disk], object]]] = {
    "record deleted": ("cups", lambda disk: disk.record.unlink()),
    "package deleted": ("boxes", lambda disk: shutil.rmtree(disk.boxes)),
    "name changed": ("cups", lambda disk: disk.write_record("cups.json", "mugs")),
    "put aside": ("boxes", lambda disk: disk.boxes.rename(disk.models / ".boxes")),
}


@pytest.mark.parametrize("order", ORDERS)
def test_what_was_removed_from_a_healthy_folder_goes_in_time(
    disk: Disk, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, remove = ORDERS[order]
    caplog.set_level(logging.INFO)
    remove(disk)

    assert disk.look().items() >= disk.before.items()
    assert f"Model {name} goes after 3600 s" in caplog.text
    assert disk.removed() == [name]
    assert logging.ERROR not in levels(caplog)


def test_a_model_waits_for_a_moment_without_its_record_before_the_folders_serves(
    disk: Disk,
) -> None:
    micro.write(disk.models / "cups", "classification", version="folder")
    assert disk.look() == disk.before
    disk.record.unlink()
    assert disk.look() == disk.before
    disk.removed()
    assert disk.look()["cups"].package == disk.models / "cups"


def chunks(path: Path, content: bytes) -> Iterator[None]:
    """Write as a slow copy does."""
    with path.open("wb") as file:
        for start in range(0, len(content), 1 + len(content) // 3):
            file.write(content[start : start + 1 + len(content) // 3])
            file.flush()
            yield


@pytest.mark.parametrize(
    "order", [["manifest.json", "model.onnx"], ["model.onnx", "manifest.json"]]
)
@pytest.mark.parametrize("is_removed", [True, False])
def test_a_copy_in_progress_is_awaited_without_an_error(
    disk: Disk, order: List[str], is_removed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    new = micro.write(
        disk.place / "new", "classification", micro.graph("classification", 32), version="2"
    )
    caplog.set_level(logging.INFO)
    if is_removed:
        shutil.rmtree(disk.boxes)
        assert disk.store.scan() == disk.before
        disk.boxes.mkdir()
    digests = [disk.before["boxes"].digest, Package(new).digest]
    seen = [
        disk.store.scan()["boxes"].digest
        for name in order
        for _ in chunks(disk.boxes / name, (new / name).read_bytes())
    ]
    assert seen == digests[:1] * len(seen)

    found = disk.look()["boxes"]
    assert (found.digest, found.note) == (digests[1], "")
    assert not levels(caplog)
    assert caplog.text.count("is being copied") == 1


def test_a_copy_that_never_gets_whole_is_taken_as_it_is(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaited_packages, "STILL_S", 0.0)
    (disk.boxes / "model.onnx").write_bytes(b"half")
    found = disk.look()["boxes"]
    with pytest.raises(InvalidPackage, match=r"model\.onnx"):
        found.open().verify()
    shutil.copyfile(disk.cups / "model.onnx", disk.boxes / "model.onnx")
    disk.look()["boxes"].open().verify()


def test_nothing_is_removed_while_something_beside_it_is_copied(disk: Disk) -> None:
    shutil.rmtree(disk.boxes)
    (disk.models / "plates").mkdir()
    (disk.models / "plates" / "manifest.json").write_text("{")
    disk.store.remove_after_s = 0.0
    for _ in range(3):
        assert "boxes" in disk.store.scan()
    shutil.rmtree(disk.models / "plates")
    assert disk.removed() == ["boxes"]


def test_a_copy_without_end_is_a_fault_that_holds_up_no_removal(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(awaited_packages, "WHOLE_WITHIN_S", 0.0)
    (disk.models / "plates").mkdir()
    (disk.models / "plates" / "manifest.json").write_text("{")
    shutil.rmtree(disk.boxes)
    disk.store.remove_after_s = 0.0
    for size in range(3):
        (disk.models / "plates" / "log").write_bytes(b"." * size)
        found = disk.store.scan()
    assert sorted(found) == ["cups"]
    assert [each.is_fault for each in disk.store.findings] == [True]
    assert "never gets whole" in caplog.text
    assert levels(caplog) == [logging.ERROR]

    shutil.rmtree(disk.models / "plates")
    micro.write(disk.models / "plates", "classification")
    assert sorted(disk.look()) == ["cups", "plates"]
    assert not disk.store.findings


@pytest.mark.parametrize("target", ["odd", "model.onnx/odd", "/nowhere", "too long"])
def test_a_link_that_leads_nowhere_in_a_package_is_left_alone(disk: Disk, target: str) -> None:
    new = micro.write(disk.models / "plates", "classification", version="2")
    for package in (disk.boxes, new):
        (package / "odd").symlink_to(target.replace("too long", "n" * 300))
    assert sorted(Store(disk.settings).scan()) == ["boxes", "cups", "plates"]
    assert disk.look()["plates"].digest == Package(new).digest
    assert not disk.store.findings


@pytest.mark.parametrize("where", ["", "pictures"])
def test_pictures_beside_the_models_cost_no_look_each(disk: Disk, where: str) -> None:
    folder = disk.models / where
    folder.mkdir(exist_ok=True)

    def looks(pictures: int) -> int:
        for number in range(pictures):
            (folder / f"{number}.png").touch()
        names: List[str] = []
        sys.setprofile(lambda _frame, event, what: names.append(getattr(what, "__name__", event)))
        try:
            disk.store.scan()
        finally:
            sys.setprofile(None)
        return sum(name in ("stat", "lstat", "is_dir") for name in names)

    few, many = looks(sources.MOST_INNER), looks(4 * sources.MOST_INNER)
    assert 0 < many < few + sources.MOST_INNER  # a first look may take some more


def test_a_link_to_another_package_is_an_update(disk: Disk) -> None:
    link = disk.models / "plates"
    link.symlink_to(disk.boxes)
    first = disk.look()["plates"]
    link.unlink()
    link.symlink_to(micro.write(disk.place / "new", "classification", version="2"))
    assert disk.look()["plates"].digest != first.digest


IGNORED: Dict[str, Tuple[str, Callable[[Path], object], str]] = {
    "a backup": ("boxes.bak", lambda path: micro.write(path, "classification"), "put aside"),
    "an old one": ("boxes.old.2", lambda path: micro.write(path, "classification"), "put aside"),
    "an editor's": ("boxes~", lambda path: micro.write(path, "classification"), "put aside"),
    "a copy": ("boxes (1)", lambda path: micro.write(path, "classification"), "name must match"),
    "too deep": ("new", lambda path: micro.write(path / "boxes", "classification"), "too deep"),
    "no package": ("docs", lambda path: path.mkdir(), "holds no manifest.json"),
    "an archive": ("cups.tar.gz", lambda path: path.write_bytes(b""), "only .zip is read"),
    "a lone graph": ("cups.onnx", lambda path: path.write_bytes(b""), "alone is no package"),
    "a dead link": ("cups", lambda path: path.symlink_to("/nowhere"), "which isn't there"),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_what_serves_nothing_is_named_with_the_reason(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, make, why = IGNORED[kind]
    make(tmp_path / name)
    store = Store(ModelsSettings(folder=tmp_path))
    assert not store.scan()
    assert not store.scan()
    lines = [record.message for record in caplog.records if str(tmp_path / name) in record.message]
    assert len(lines) == 1
    assert why in lines[0]


@pytest.mark.parametrize("suffix", [".zip", ".ZIP"])
def test_of_two_with_one_name_the_log_says_which_serves(
    disk: Disk, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    archive = disk.models / f"boxes{suffix}"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in disk.boxes.iterdir():
            bundle.write(path, path.name)
    second = disk.write_record("second.json", "cups")

    codecs.lookup("cp437")  # which another user can't find
    found = disk.look()
    assert (found["boxes"].package, found["cups"].package) == (archive, disk.cups)
    serving = {archive: disk.boxes, second: disk.record}
    for winner, other in serving.items():
        assert (
            f"{other} doesn't serve: model {winner.stem.replace('second', 'cups')} is served "
            f"from {winner}" in caplog.text
        )
    assert levels(caplog) == [logging.WARNING] * 2
    assert not disk.look().keys() - disk.before.keys()
    assert levels(caplog) == [logging.WARNING] * 2


EMPTY: Dict[str, Tuple[str, Callable[[Path], object], str]] = {
    "mistyped": (
        "modells",
        lambda path: (path.parent / "models").mkdir(),
        "models? Expected is for each model",
    ),
    "a package": ("p", lambda path: micro.write(path, "classification"), "a model package itself"),
    "a lone graph": (
        "p.onnx",
        lambda path: path.write_bytes(b""),
        "is a file, and no folder. Expected",
    ),
    "empty": ("models", lambda path: path.mkdir(), "holds no model package. Expected"),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_folder_without_models_is_told_with_what_is_expected(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, make, why = EMPTY[kind]
    make(tmp_path / name)
    store = Store(ModelsSettings(folder=tmp_path / name))
    store.scan()
    store.scan()
    assert [why in record.message for record in caplog.records] == [True]


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
