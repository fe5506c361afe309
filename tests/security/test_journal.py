"""Attacks on the journal of results: by other users of the device, and by what is in its file."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import build
from edge_agent.errors import InvalidFrame
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.results.event import EventDraft, Verdict
from edge_agent.runtime.results.pipeline import ResultsPipeline
from edge_agent.runtime.results.spool import journal as journal_module
from edge_agent.runtime.results.spool.journal import (
    FILE_NAME,
    LIMIT_BYTES,
    NEW_FILE_NAME,
    NOT_A_RECORD,
    SHARED_MEMORY,
    Journal,
    JournalLocation,
    Record,
    identity,
    journal_locations,
    parse,
    write,
)
from edge_agent.runtime.results.spool.pending import PendingEvents
from edge_agent.runtime.vision.segments import Segments
from edge_agent.types import SharedMemoryHandle
from tests.conftest import alone
from tests.runtime.results.conftest import _journals_go  # noqa: F401 - used by every test here
from tests.runtime.results.outboxes import make, open_outbox, wait_until
from tests.runtime.results.test_outbox import everything, wait_for

STRANGER = 61001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' files need root")

CHILD = """
import sys
from pathlib import Path
from tests.runtime.results.outboxes import make, open_outbox
outbox = open_outbox(Path(sys.argv[1]), commit_every_s=30.0)
for number in range(200):
    draft = make()
    outbox.offer(draft)
    print(draft.id, flush=True)
sys.stdin.read()
"""


def as_stranger(command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command as another user of this device."""

    def become() -> None:
        os.setgroups([])
        os.setgid(STRANGER)
        os.setuid(STRANGER)

    return subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", preexec_fn=become, capture_output=True, check=False
    )


def killed(folder: Path) -> List[str]:
    """Ids of what an agent offered and had not stored when it was killed."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdin is not None
    ids = [child.stdout.readline().strip() for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    child.stdin.close()
    return ids


def delivered_after_a_kill(folder: Path) -> bool:
    ids = killed(folder)
    outbox = open_outbox(folder)
    found = [entry.id for entry in wait_for(outbox, len(ids))]
    outbox.close(5)
    return found == ids


def pending(folder: Path) -> PendingEvents:
    return PendingEvents(folder, threading.Lock())


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- what is in the file


class Evil:
    """What `pickle.loads` would run."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


@pytest.mark.parametrize("where", [SHARED_MEMORY, None])
def test_a_pickled_journal_of_an_earlier_version_is_never_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: Path
) -> None:
    content = pickle.dumps(Evil(tmp_path / "trace"))
    old = (where or tmp_path) / f"edge-agent-results-{identity(tmp_path)}"
    old.write_bytes(len(content).to_bytes(4, "little") + content)

    outbox = open_outbox(tmp_path)
    outbox.offer(make())
    assert wait_for(outbox, 1)
    outbox.close(5)

    assert not (tmp_path / "trace").exists()
    assert caplog.text.count("a journal of an earlier version") == 1
    assert not old.exists()


def test_a_pickle_in_the_place_of_a_record_is_damage(tmp_path: Path) -> None:
    content = pickle.dumps(Evil(tmp_path / "trace"))
    line = b"%08x%08x" % (len(content), zlib.crc32(content)) + content + b"\n"
    journal = Journal(journal_locations(tmp_path)[0])
    journal.close(remove=False)
    (journal.location.path / FILE_NAME).write_bytes(line + write((1, make())))

    left = pending(tmp_path)
    assert [event.sequence for event in left.events] == [1]
    assert not (tmp_path / "trace").exists()
    left.remove([1])
    left.close(stored=True)


texts = st.text(max_size=20)
floats = st.floats()
verdicts = st.builds(
    Verdict,
    model_version=texts,
    camera=texts,
    frame_time=floats,
    is_anomalous=st.booleans(),
    confidence=floats,
    score=floats,
    threshold=floats,
    anomalies=st.lists(st.tuples(texts, floats, texts), max_size=3).map(tuple),
    regions=st.lists(st.tuples(texts, *[st.integers(0, 4096)] * 4, floats, floats), max_size=3).map(
        tuple
    ),
    regions_found=st.integers(0, 10_000),
    camera_problems=st.lists(texts, max_size=3).map(tuple),
    times_s=st.tuples(*[floats] * 5),
    capture=texts,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
drafts = st.builds(
    EventDraft,
    id=texts,
    kind=st.sampled_from(["result", "summary", "alarm"]),
    model=texts,
    made=st.floats(allow_nan=False, allow_infinity=False),
    facts=verdicts | st.dictionaries(texts, json_values, max_size=4),
)
records = st.tuples(st.integers(0, 2**62 - 1), st.none() | drafts)


@given(records)
def test_what_is_written_is_read_back(record: Record) -> None:
    line = write(record)

    assert line.count(b"\n") == 1
    assert repr(parse(line)) == repr(record)  # NaN is NaN


@given(st.lists(records, min_size=3, max_size=6), st.data())
def test_a_flipped_bit_costs_its_record_alone(some: List[Record], data: st.DataObject) -> None:
    lines = [write(record) for record in some]
    hit = data.draw(st.integers(0, len(lines) - 1))
    changed = bytearray(lines[hit])
    index = data.draw(st.integers(0, len(changed) - 2))  # else two lines become one
    changed[index] ^= 1 << data.draw(st.integers(0, 7))
    content = b"".join([*lines[:hit], bytes(changed), *lines[hit + 1 :]])

    expected = [repr(record) for record in (*some[:hit], *some[hit + 1 :])]
    assert [repr(record) for record in whole(content)] == expected


def whole(content: bytes) -> Iterator[Record]:
    for line in io.BytesIO(content):
        with suppress(*NOT_A_RECORD):
            yield parse(line)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda raw: raw + b"\n"))
def test_garbage_is_no_record_and_no_crash(garbage: bytes) -> None:
    with pytest.raises(NOT_A_RECORD):
        parse(garbage)


def signed(content: bytes) -> bytes:
    return b"%08x%08x%b\n" % (len(content), zlib.crc32(content), content)


@pytest.mark.parametrize(
    "content",
    [
        b"null", b"{}", b"[]", b'"text"', b"[null]", b"[-1]", b"[%d]" % 2**70, b"[1e400]",
        b"[" * 20_000, b"[1" + b"0" * 20_000 + b"]", b"[1,2,3,4,5,6]", b"[1,2]",
        b'[1,"id","result","m",NaN,{}]', b'[1,"id","result","m",1e999,{}]',
        b'[1,"id","result","m",1.0,7]', b'[1,"id","result","m",1.0,[]]',
        b'[1,"id","result","m",1.0,[1,2,3,4,5,6,7,8,9,10,11,12,13]]',
        b'[1,"id","result","\\ud800",1.0,{}]', b'[1,["id"],"result","m",1.0,{}]',
        b'[1,"id","result","m",' + b"9" * 4000 + b",{}]",
    ],
)  # fmt: skip
def test_a_record_of_the_wrong_shape_is_damage_though_its_checksum_is_right(content: bytes) -> None:
    with pytest.raises(NOT_A_RECORD):
        parse(signed(content))


GIANT = b"ffffffff00000000["


DAMAGES = {
    "zeros": b"\0" * 5_000_000,
    "ones": b"\xff" * 1_000_000,
    "a giant": GIANT,
    "a giant that comes": GIANT + b"x" * 1_000_000,
    "empty lines": b"\n" * 999,
    "a length": b"7fffffff",
    "a negative length": b"-0000001deadbeef[]\n",
    "the beginning of a pickle": b"\x80\x04\x95",
    "noise": bytes(random.Random(1).choices(range(256), k=100_000)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_no_damage_loses_a_record_before_it_or_behind_its_line(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before, behind = [(n, make()) for n in range(1, 4)], [(n, make()) for n in range(4, 7)]
    place = journal_locations(tmp_path)[0]
    Journal(place).close(remove=False)
    content = b"".join([*map(write, before), damage, b"\n", *map(write, behind)])
    (place.path / FILE_NAME).write_bytes(content)

    left = pending(tmp_path)
    assert [(event.sequence, event.draft) for event in left.events] == [*before, *behind]
    assert "damaged lines" in caplog.text
    left.remove(range(7))
    left.close(stored=True)


def test_a_record_cut_off_loses_no_record_written_behind_it(tmp_path: Path) -> None:
    """Also when the journal can't be rewritten before."""
    place = journal_locations(tmp_path)[0]
    journal = Journal(place)
    journal.append((1, make()))
    os.write(journal._file, write((2, make()))[:-5])
    journal.close(remove=False)

    journal = Journal(place)
    journal.append((3, make()))
    assert [sequence for sequence, _ in journal.read()] == [1, 3]
    journal.close(remove=True)


def test_of_a_giant_file_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    place = journal_locations(tmp_path)[0]
    Journal(place).close(remove=False)
    with (place.path / FILE_NAME).open("wb") as file:
        file.write(write((1, make())))
        file.truncate(1 << 40)  # a hole

    left = pending(tmp_path)
    assert len(left.events) == 1
    assert (place.path / FILE_NAME).stat().st_size < 10_000
    left.remove([1])
    left.close(stored=True)


# ---- where it lies


def test_only_the_agents_user_may_enter_the_journals_folder(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, commit_every_s=30.0)
    outbox.offer(make())
    place = journal_locations(tmp_path)[0].path

    assert stat.S_IMODE(place.lstat().st_mode) == 0o700
    assert [stat.S_IMODE(file.lstat().st_mode) for file in place.iterdir()] == [0o600]
    if os.geteuid() == 0:
        for attack in ("ls {0}", "cat {0}/*", "touch {0}/{1}", "mv {0} {0}.x", "rmdir {0}"):
            assert as_stranger(attack.format(place, NEW_FILE_NAME)).returncode
    outbox.close(5)
    assert not place.exists()


def test_no_segment_of_a_client_can_be_the_journal(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, commit_every_s=30.0)
    outbox.offer(make())
    name = journal_locations(tmp_path)[0].name
    for attack in (name, f"/{name}", f"{name}/{FILE_NAME}", f"/{name}/{FILE_NAME}", f"{name}/"):
        for writable in (False, True):
            with pytest.raises(InvalidFrame):
                Segments().open(SharedMemoryHandle(attack, 10), writable)
    outbox.close(5)


SQUATS = {
    "a folder": "mkdir -m 0777 {0}",
    "a folder with a fifo": "mkdir -m 0777 {0} && mkfifo {0}/" + FILE_NAME,
    "a file": "touch {0} && chmod 666 {0}",
    "a fifo": "mkfifo -m 666 {0}",
    "a link to a folder": "ln -s /var {0}",
    "a link to nowhere": "ln -s /nonexistent {0}",
    "a link to itself": "ln -s {0} {0}",
}


@needs_root
@pytest.mark.parametrize("squat", SQUATS)
def test_what_another_user_puts_in_the_place_is_not_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, squat: str
) -> None:
    place = journal_locations(tmp_path)[0].path
    assert as_stranger(SQUATS[squat].format(place)).returncode == 0
    try:
        assert delivered_after_a_kill(tmp_path)
        assert [p.name for p in place.glob("*")] in ([], [FILE_NAME]) or squat.startswith("a link")
    finally:
        remove(place)

    (line,) = [r for r in caplog.records if "journal of results is in" in r.message]
    assert str(place) in line.message
    assert "remove it" in line.message
    assert not (tmp_path / "journal").exists()  # all is stored


@needs_root
@pytest.mark.parametrize("make_it", ["touch {0}", "mkfifo {0}", "ln -s /etc/passwd {0}"])
def test_no_name_beside_the_journal_stops_its_compaction(tmp_path: Path, make_it: str) -> None:
    old = SHARED_MEMORY / f"edge-agent-results-{identity(tmp_path)}"
    new = journal_locations(tmp_path)[0].path
    names = [f"{old}", f"{old}.new", f"{new}.new", f"{SHARED_MEMORY}/{FILE_NAME}"]
    with alone("journal"):  # the last name is the same for all who run these tests
        try:
            for name in names:
                assert as_stranger(make_it.format(name)).returncode == 0
            assert compacts(tmp_path, new / FILE_NAME)
        finally:
            for name in names:
                remove(Path(name))


def compacts(folder: Path, journal: Path) -> bool:
    """Whether the journal is about empty again once all is stored."""
    outbox = open_outbox(folder)
    for count in range(500, 2001, 500):
        for _ in range(500):
            outbox.offer(make(size=1000))
        wait_for(outbox, count)
    wait_until(lambda: journal.stat().st_size < 1000)
    problem = outbox.journal_problem
    outbox.close(5)
    return not problem


def test_a_folder_that_others_could_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = journal_locations(tmp_path)[0].path
    place.mkdir()
    place.chmod(0o777)
    (place / FILE_NAME).write_bytes(write((1, make())))
    try:
        outbox = open_outbox(tmp_path)
        outbox.offer(make())
        assert len(wait_for(outbox, 1)) == 1
        outbox.close(5)
        assert "has mode 0777" in caplog.text
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("what", ["fifo", "folder", "link"])
def test_what_lies_in_the_place_of_the_file_itself_stops_nothing(tmp_path: Path, what: str) -> None:
    place = journal_locations(tmp_path)[0].path
    for name in (FILE_NAME, NEW_FILE_NAME):
        place.mkdir(0o700)
        path, secret = place / name, tmp_path / f"secret-{name}"
        secret.write_text("mine")
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            (path / "inner").mkdir(parents=True)
        else:
            path.symlink_to(secret)
        outbox = open_outbox(tmp_path)
        outbox.offer(make())
        assert wait_for(outbox, 1)
        outbox.close(5)
        assert secret.read_text() == "mine"
        shutil.rmtree(place, ignore_errors=True)


# ---- no place, no room


@contextmanager
def shared_memory(folder: Path, options: str) -> Iterator[Path]:
    """A /dev/shm of its own, as small as the test likes."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=-3, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    filler = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(filler, b"x" * 4096)
    os.close(filler)


def test_without_shared_memory_the_journal_lies_in_the_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_module, "SHARED_MEMORY", tmp_path / "missing")
    outbox = open_outbox(tmp_path / "outbox", commit_every_s=30.0)
    outbox.offer(make())
    journal = tmp_path / "outbox" / "journal"

    assert [file.name for file in journal.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE(journal.stat().st_mode) == 0o700
    assert str(journal) in caplog.text
    outbox.close(5)
    assert not journal.exists()


@pytest.mark.parametrize("options", ["size=64k,mode=1777", "size=64k,mode=1777,ro", "mode=0777"])
def test_a_full_or_unsafe_shared_memory_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    with shared_memory(tmp_path / "shm", options) as memory:
        monkeypatch.setattr(journal_module, "SHARED_MEMORY", memory)
        if options == "size=64k,mode=1777":
            fill(memory)
        offered = [(n, make()) for n in range(1, 50)]
        first = pending(tmp_path / "outbox")
        (tmp_path / "outbox").mkdir(exist_ok=True)
        first.rewrite()
        for sequence, draft in offered:
            first.add(sequence, draft)
        first.close(stored=False)

        second = pending(tmp_path / "outbox")
        assert [(each.sequence, each.draft) for each in second.events] == offered
        second.remove(range(100))
        second.close(stored=True)
        assert not list(memory.glob("edge-agent-*"))


def test_a_shared_memory_that_becomes_full_is_left_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    with shared_memory(tmp_path / "shm", "size=256k,mode=1777") as memory:
        monkeypatch.setattr(journal_module, "SHARED_MEMORY", memory)
        first = pending(outbox)
        first.add(1, make())
        fill(memory)
        for sequence in range(2, 100):
            first.add(sequence, make())
        assert "No space" in first.journal_problem
        first.rewrite()
        assert not first.journal_problem
        assert not list(memory.glob("edge-agent-*"))
        first.add(100, make())
        first.close(stored=False)

        second = pending(outbox)
        assert second.sequences() == list(range(1, 101))
        second.remove(range(101))
        second.close(stored=True)


def test_what_lies_in_every_place_is_taken_over_once(tmp_path: Path) -> None:
    in_memory, on_disk = journal_locations(tmp_path)
    some = [(n, make()) for n in range(1, 8)]
    for place, part in ((in_memory, some[2:]), (on_disk, some[:5])):
        journal = Journal(place)
        for record in reversed(part):
            journal.append(record)
        journal.close(remove=False)

    left = pending(tmp_path)
    assert [(each.sequence, each.draft) for each in left.events] == some
    assert not on_disk.path.exists()
    left.remove(range(10))
    left.close(stored=True)
    assert not in_memory.path.exists()


def no_rewrite(*_: Any, **__: Any) -> None:
    raise PermissionError("not today")


def test_a_journal_that_cannot_be_compacted_is_bounded_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 50_000
    monkeypatch.setattr(journal_module, "LIMIT_BYTES", limit)
    outbox = open_outbox(tmp_path)
    monkeypatch.setattr(Journal, "prepare", no_rewrite)
    file = journal_locations(tmp_path)[0].path / FILE_NAME
    with caplog.at_level(logging.ERROR):
        for count in range(100, 501, 100):
            for _ in range(100):
                outbox.offer(make(size=1000))
            wait_for(outbox, count)
            assert file.stat().st_size <= limit
        wait_until(lambda: bool(outbox.journal_problem))
    assert len(everything(outbox)) == 500

    monkeypatch.undo()
    said = [r for r in caplog.records if "journal of results can't be written" in r.message]
    assert len(said) == 1
    outbox.close(5)


def test_the_operator_sees_that_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.jsonl"
    values = (
        f"results.folder={tmp_path / 'outbox'}", f"results.lines={lines}",
        "results.outbox.commit_every_s=0.02",
    )  # fmt: skip
    monkeypatch.setattr(Journal, "prepare", no_rewrite)
    room = ResultsPipeline(build({}, {}, values).results, Metrics(), pytest.fail)
    room.start()
    room.publish_due()
    wait_until(lambda: lines.exists() and b"outbox-disk" in lines.read_bytes())
    status = json.loads((tmp_path / "outbox" / "status.json").read_text())
    room.close(5.0)

    alarm = json.loads(lines.read_text().splitlines()[0])
    assert (alarm["alarm"], alarm["state"]) == ("outbox-disk", "raised")
    assert "journal" in alarm["message"]
    assert "not today" in status["outbox"]["trouble"]


def test_two_agents_of_one_user_have_journals_of_their_own(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    ids = {folder: killed(folder) for folder in folders}
    for folder in folders:
        outbox = open_outbox(folder)
        assert [entry.id for entry in wait_for(outbox, 200)] == ids[folder]
        outbox.close(5)


def test_appending_takes_microseconds(tmp_path: Path) -> None:
    journal, record = Journal(JournalLocation(tmp_path, "journal")), (1, make())
    best_s = min(timed(lambda: journal.append(record)) for _ in range(200))
    journal.close(remove=True)
    assert best_s < 0.001


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_the_limit_is_what_the_documents_say() -> None:
    assert LIMIT_BYTES == 32 * 1024 * 1024
