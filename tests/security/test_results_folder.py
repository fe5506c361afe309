"""Attacks on the folder of the results and the files in it, by other users of the device."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Dict, Iterator

import pytest

from edge_agent.config import build
from edge_agent.doctor import agent as doctor_agent
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime import app
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results.dead_letters import DeadLetters
from edge_agent.runtime.results.lines import LinesSink
from edge_agent.runtime.results.pipeline import ResultsPipeline
from edge_agent.runtime.results.sink import Message, SinkUnavailable
from edge_agent.runtime.results.spool.database import StoredEvent
from edge_agent.runtime.results.spool.folder_lock import FolderLock
from edge_agent.runtime.results.status import StatusFile
from edge_agent.runtime.system.files import write_atomically
from tests.runtime.results.conftest import _journals_go  # noqa: F401 - used by every test here
from tests.runtime.results.outboxes import make, open_outbox
from tests.runtime.results.test_outbox import wait_for
from tests.security.test_journal import as_stranger, needs_root

ENTRY = StoredEvent(1, "id", "bolts", "result", "normal", 1.0, b"{}")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp, where every user may create files."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-test-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def modes(folder: Path) -> Dict[str, int]:
    """Modes of what is in a folder, which itself is "."; what a test needs none for is left out."""
    found = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}
    return {".": stat.S_IMODE(folder.stat().st_mode), **found}


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_whatever_the_agent_keeps_of_results_is_its_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    values = f"results.folder={folder}", f"results.lines={tmp_path / 'lines.jsonl'}"
    room = ResultsPipeline(build({}, {}, values).results, Metrics(), pytest.fail)
    room.start()
    room.publish_due()
    DeadLetters(folder).add("sink", ENTRY, "why", 1.0)
    while_it_runs = modes(folder)
    room.close(5.0)

    for found in (while_it_runs, modes(folder)):
        assert found.pop(".") == 0o700
        assert {"outbox.db", "status.json", "dead-letters.jsonl"} <= set(found)
        assert set(found.values()) == {0o600}
    assert {"outbox.db-wal", "outbox.db-shm"} <= set(while_it_runs)


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    outbox = open_outbox(folder)
    outbox.offer(make())
    wait_for(outbox, 1)
    outbox.close(5)
    others = [value for name, value in vars(app).items() if name.endswith("_FILE")]
    assert {"running.json", "versions.json"} <= set(others)
    for name in ("dead-letters.jsonl.1", *others):
        (folder / name).write_text("")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)

    outbox = open_outbox(folder)
    assert len(wait_for(outbox, 1)) == 1
    outbox.close(5)

    found = modes(folder)
    assert found.pop(".") == 0o700
    assert set(found.values()) == {0o600}


def test_a_folder_with_other_things_in_it_stays_readable_and_is_closed_to_writing(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o775)
    (tmp_path / "models").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "notes.txt").chmod(0o644)

    claim = FolderLock(tmp_path)
    claim.take()
    claim.release()

    found = modes(tmp_path)
    assert found["."] == 0o755
    assert found["notes.txt"] == 0o644


def refused(folder: Path) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        open_outbox(folder)
    assert "results.folder" in str(caught.value)
    return str(caught.value)


@needs_root
def test_a_folder_that_another_user_made_is_refused(shared: Path) -> None:
    as_stranger(f"mkdir -m 0777 {shared}/results")

    assert "belongs to user 61001" in refused(shared / "results")
    assert not list((shared / "results").iterdir())


@needs_root
def test_a_link_that_another_user_made_is_refused(shared: Path, tmp_path: Path) -> None:
    as_stranger(f"ln -s {tmp_path} {shared}/results")

    assert "belongs to user 61001" in refused(shared / "results")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_shared_by_all_is_refused(shared: Path) -> None:
    (shared / "somebody's").write_text("")

    assert "is shared by all users" in refused(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


PLANTS = {
    "outbox.db": "mkfifo {0}",
    "outbox.db-wal": "echo mine > {0}",
    "outbox.lock": "mkfifo {0}",
    "status.json.new": "ln -s /etc/passwd {0}",
    "dead-letters.jsonl": "ln -s /nonexistent {0}",
    "decisions.json": "echo {{}} > {0}",
    "journal.v1": "mkfifo {0}",
}


@needs_root
@pytest.mark.parametrize("name", PLANTS)
def test_what_another_user_put_into_an_open_folder_is_named_and_not_used(
    shared: Path, name: str
) -> None:
    folder = shared / "results"
    folder.mkdir()
    folder.chmod(0o777)
    assert as_stranger(PLANTS[name].format(folder / name)).returncode == 0

    assert f"{folder / name} isn't a file of the agent's user" in refused(folder)


@needs_root
def test_another_user_cannot_claim_the_folder_first(shared: Path) -> None:
    folder = shared / "results"
    folder.mkdir(0o755)
    (folder / "models").mkdir()  # it stays readable
    command = ["/bin/sh", "-c", f"exec 9<{folder}; flock 9 && echo locked && read line"]
    stranger = subprocess.Popen(
        command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        preexec_fn=lambda: os.setuid(61001),
    )  # fmt: skip
    assert stranger.stdout is not None
    assert stranger.stdin is not None
    try:
        assert stranger.stdout.readline() == b"locked\n"
        outbox = open_outbox(folder)
        outbox.offer(make())
        assert wait_for(outbox, 1)
        outbox.close(5)
    finally:
        stranger.communicate(b"\n", timeout=10)


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("status.json", "status.json.new", "dead-letters.jsonl", "file.new"):
        (folder / name).symlink_to(target)

    StatusFile(folder).update("the disk is full", {})
    kept = DeadLetters(folder).add("sink", ENTRY, "why", 1.0)
    write_atomically(folder / "file", b"content")

    assert target.read_text() == "mine"
    assert not kept
    assert not (folder / "status.json").is_symlink()
    assert (folder / "file").read_bytes() == b"content"


def test_a_fifo_in_the_place_of_the_dead_letters_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dead-letters.jsonl")
    done = threading.Event()

    def add() -> None:
        DeadLetters(tmp_path).add("sink", ENTRY, "why", 1.0)
        done.set()

    threading.Thread(target=add, daemon=True).start()
    assert done.wait(10.0)


MESSAGE = Message("id", "bolts", "result", "normal", b"{}")


def test_a_fifo_that_nobody_reads_holds_no_results_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lines")
    sink, failures = LinesSink(str(tmp_path / "lines")), []

    def send() -> None:
        try:
            sink.send(MESSAGE)
        except SinkUnavailable as error:
            failures.append(str(error))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(10.0)
    assert failures


@needs_root
@pytest.mark.parametrize("plant", ["ln -s {1} {0}", "mkfifo -m 0666 {0}"])
def test_lines_are_not_written_where_another_user_leads_them(
    shared: Path, tmp_path: Path, plant: str
) -> None:
    lines, target = shared / "lines.jsonl", tmp_path / "target"
    target.write_text("mine")
    assert as_stranger(plant.format(lines, target)).returncode == 0
    end = lines if plant.startswith("mkfifo") else target
    reader = os.open(end, os.O_RDONLY | os.O_NONBLOCK)  # somebody who stops when he likes

    # the kernel itself refuses where fs.protected_fifos is set
    with pytest.raises(SinkUnavailable, match=r"belongs to user 61001|Permission denied"):
        LinesSink(str(lines)).send(MESSAGE)

    os.close(reader)
    assert target.read_text() == "mine"


@needs_root
def test_the_doctor_of_another_user_says_that_it_may_not_read_the_status(shared: Path) -> None:
    folder = shared / "results"
    open_outbox(folder).close(5)
    StatusFile(folder).update("", {})
    settings = build({}, {}, [f"results.folder={folder}", "results.lines=-"]).results

    os.seteuid(61001)
    try:
        found = {result.what: result.detail for result in doctor_agent.results(settings)}
    finally:
        os.seteuid(0)
    assert "Permission denied" in found["results"]
