"""Durability and bounds: what was offered is there after whatever happens to the process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.spool.database import Dropped, StoredEvent
from edge_agent.runtime.results.spool.journal import (
    FILE_NAME,
    Journal,
    journal_locations,
)
from edge_agent.runtime.results.spool.pending import PendingEvents
from edge_agent.runtime.system.machine_clock import THIS_MACHINE, MachineClock
from tests.runtime.results.outboxes import SINK, Drops, make, open_outbox, wait_until

MIB = 1024 * 1024


def everything(outbox: Outbox, model: str = "bolts", sink: str = SINK) -> List[StoredEvent]:
    found: List[StoredEvent] = []
    while True:
        more = outbox.read(sink, model, found[-1].sequence if found else 0, 500)
        if not more:
            return found
        found += more


def wait_for(outbox: Outbox, count: int, model: str = "bolts") -> List[StoredEvent]:
    wait_until(lambda: len(everything(outbox, model)) >= count)
    return everything(outbox, model)


def wait_for_stored(outbox: Outbox, event: EventDraft) -> None:
    wait_until(lambda: any(entry.id == event.id for entry in everything(outbox)))


def test_events_are_numbered_and_come_back_in_order(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    events = [make(model) for model in ("bolts", "nuts") * 50]

    for event in events:
        outbox.offer(event)
    bolts, nuts = wait_for(outbox, 50), wait_for(outbox, 50, "nuts")
    outbox.close(5)

    assert [entry.id for entry in bolts] == [event.id for event in events[::2]]
    first = bolts[0].sequence
    assert [entry.sequence for entry in nuts] == list(range(first + 1, first + 101, 2))
    assert json.loads(bolts[0].body)["sequence"] == first


def test_an_event_may_be_sent_only_once_it_is_on_disk(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as disk:
        for _ in range(200):
            outbox.offer(make())
            for entry in outbox.read(SINK, "bolts", 0, 1000):
                row = disk.execute("SELECT id FROM normal WHERE sequence = ?", (entry.sequence,))
                assert row.fetchone() == (entry.id,)
        wait_for(outbox, 200)
    outbox.close(5)


def test_delivered_events_are_gone_after_a_restart_and_others_are_not(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(10):
        outbox.offer(make())
    entries = wait_for(outbox, 10)
    outbox.mark_delivered(SINK, [entry.sequence for entry in entries[:4]])
    outbox.close(5)

    outbox = open_outbox(tmp_path)
    left = everything(outbox)
    outbox.offer(make())
    last = wait_for(outbox, 7)[-1]
    outbox.close(5)

    assert [each.id for each in left] == [each.id for each in entries[4:]]
    assert [each.made for each in left] == pytest.approx([each.made for each in entries[4:]])
    assert last.sequence == entries[-1].sequence + 1


def test_each_sink_gets_every_event_and_what_waits_for_an_absent_one_stays(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, sinks=("a", "b"))
    outbox.offer(make())
    wait_until(lambda: bool(everything(outbox, sink="b")))
    first = everything(outbox, sink="a")[0].sequence
    outbox.mark_delivered("a", [first])
    outbox.close(5)

    outbox = open_outbox(tmp_path, sinks=("c", "a"))  # b isn't configured any more
    assert not everything(outbox, sink="a")
    assert not everything(outbox, sink="c")  # it came later than the event
    outbox.offer(make())
    wait_until(lambda: len(everything(outbox, sink="a")) == len(everything(outbox, sink="c")) == 1)
    outbox.mark_delivered("a", [everything(outbox, sink="a")[0].sequence])
    outbox.close(5)

    outbox = open_outbox(tmp_path, sinks=("a", "b"))
    assert [e.sequence for e in everything(outbox, sink="b")] == [first]
    assert not everything(outbox, sink="a")
    outbox.close(5)

    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM normal").fetchone() == (2,)


CHILD = """
import sys, time
from pathlib import Path
from edge_agent.runtime.system.machine_clock import THIS_MACHINE, MachineClock
from tests.runtime.results.outboxes import make, open_outbox
outbox = open_outbox(Path(sys.argv[1]), commit_every_s=float(sys.argv[2]))
while True:
    event = make()
    outbox.offer(event)
    print(event.id, flush=True)
"""


@pytest.mark.parametrize("commit_every_s", [0.01, 30.0])
def test_every_event_offered_before_kill_9_is_there_afterwards(
    tmp_path: Path, commit_every_s: float
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(commit_every_s)]
    told: List[str] = []
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told += [child.stdout.readline().strip() for _ in range(500)]
        child.send_signal(signal.SIGKILL)
        told += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.wait(10)
        child.stdout.close()

    outbox = open_outbox(tmp_path)
    ids = [entry.id for entry in wait_for(outbox, len(told))]
    outbox.close(5)

    assert set(told) <= set(ids)
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)  # ids rise with time
    assert len(ids) - len(told) <= 3  # offered, and killed before it was told


def test_a_record_cut_off_by_the_kill_costs_no_record_behind_it(tmp_path: Path) -> None:
    ids: List[str] = []
    for _ in range(3):
        pending = PendingEvents(tmp_path, threading.Lock())
        drafts = [make() for _ in range(5)]
        for draft in drafts:
            pending.add(len(ids), draft)
            ids.append(draft.id)
        pending.close(stored=False)
        with (journal_locations(tmp_path)[0].path / FILE_NAME).open("ab") as file:
            file.write(b"000000ff12345678[17,and then nothing")  # a write ends at a page

    left = PendingEvents(tmp_path, threading.Lock())
    assert [event.draft.id for event in left.events] == ids
    left.remove(range(len(ids)))
    left.close(stored=True)


def test_offering_never_waits_for_the_disk(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    blocker = sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    outbox.offer(make())  # its commit hangs
    done = threading.Event()

    def offer() -> None:
        for _ in range(100):
            outbox.offer(make())
        done.set()

    threading.Thread(target=offer, daemon=True).start()

    assert done.wait(2.0)  # the commit waits for up to 5 s
    blocker.execute("COMMIT")
    blocker.close()
    wait_for(outbox, 101)
    outbox.close(5)


def test_a_full_outbox_drops_the_oldest_normal_results_and_anomalies_last(tmp_path: Path) -> None:
    drops = Drops()
    outbox = open_outbox(tmp_path, drops, limit_mib=1)
    offered = [make(anomalous=n % 10 == 0, size=1000) for n in range(3000)]
    for event in offered:
        outbox.offer(event)
        if event is offered[len(offered) // 2]:
            wait_for_stored(outbox, event)
    wait_for_stored(outbox, offered[-1])
    left = everything(outbox)
    outbox.close(5)

    ids = {entry.id for entry in left}
    normal = [event for event in offered if event.verdict == "normal"]
    gone = [event for event in normal if event.id not in ids]
    assert all(event.id in ids for event in offered if event.verdict == "anomaly")
    assert gone == normal[: len(gone)]  # the oldest
    assert drops.total == Dropped(normal=len(gone), others=0)
    assert len(left) + len(gone) == 3000
    assert drops.reasons == {"outbox full"}
    assert (tmp_path / "outbox.db").stat().st_size < 4 * MIB  # the limit and one commit


def test_anomalies_are_dropped_when_nothing_else_is_left(tmp_path: Path) -> None:
    drops = Drops()
    outbox = open_outbox(tmp_path, drops, limit_mib=1)
    offered = [make(anomalous=True, size=1000) for _ in range(2000)]
    for event in offered:
        outbox.offer(event)
    wait_for_stored(outbox, offered[-1])
    left = everything(outbox)
    outbox.close(5)

    assert 0 < len(left) < 2000
    assert drops.total == Dropped(normal=0, others=2000 - len(left))
    assert [entry.id for entry in left] == [event.id for event in offered[-len(left) :]]


class Machine:
    """Clocks that the test sets; a day is 86,400 s."""

    def __init__(self, wall: float = 0.0) -> None:
        self.wall, self.uptime_s, self.boot = wall, 7.0, "first"
        self.clock = MachineClock(lambda: self.wall, lambda: self.uptime_s, lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime_s += seconds

    def boots(self, wall: float) -> None:
        self.wall, self.uptime_s, self.boot = wall, 9.0, self.boot + "+"

    def run(self, folder: Path, *, new: bool = False) -> Tuple[List[str], Drops]:
        """Run an agent's outbox for a moment, in which a result may be made; what waits then."""
        drops = Drops()
        outbox = open_outbox(folder, drops, clock=self.clock, max_age_h=1.0)
        last = make()._replace(made=self.wall) if new else make("", anomalous=True)
        outbox.offer(last)
        wait_until(lambda: last.id in [each.id for each in everything(outbox, last.model)])
        waiting = [entry.id for entry in everything(outbox)]
        outbox.close(5)
        return waiting, drops


NOW = 1_800_000_000.0


def test_events_that_are_too_old_are_dropped_and_counted(tmp_path: Path) -> None:
    machine = Machine(NOW)
    assert len(machine.run(tmp_path, new=True)[0]) == 1
    machine.passes(3500.0)
    assert len(machine.run(tmp_path, new=True)[0]) == 2
    machine.passes(200.0)
    left, drops = machine.run(tmp_path)
    assert len(left) == 1
    assert drops.total == Dropped(normal=1)
    assert drops.reasons == {"too old"}


@pytest.mark.parametrize(
    ("first", "then"), [(5.0, NOW), (NOW, 5.0), (NOW - 9e6, NOW), (NOW, NOW - 9e6), (NOW, NOW)]
)
@pytest.mark.parametrize("boots", [False, True], ids=["restart", "reboot"])
def test_only_time_that_passed_makes_results_old_whatever_the_clock_showed(
    tmp_path: Path, first: float, then: float, boots: bool
) -> None:
    machine = Machine(first)
    machine.run(tmp_path, new=True)
    machine.passes(3000.0)
    machine.run(tmp_path, new=True)
    machine.boots(then) if boots else setattr(machine, "wall", then)
    left, drops = machine.run(tmp_path, new=True)
    assert (len(left), drops.total) == (3, Dropped())
    machine.passes(601.0)
    assert machine.run(tmp_path)[1].total == Dropped(normal=1)  # 3,601 s old, without the power cut
    machine.passes(3000.0)
    assert machine.run(tmp_path)[1].total == Dropped(normal=2)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0 * 365 * 56])
def test_setting_the_clock_while_it_runs_drops_nothing_and_keeps_order(
    tmp_path: Path, jump_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine, drops = Machine(NOW), Drops()
    outbox = open_outbox(tmp_path, drops, clock=machine.clock, max_age_h=1.0)
    for _ in range(5):
        outbox.offer(make())
    wait_for(outbox, 5)
    machine.wall += jump_s
    for _ in range(5):
        outbox.offer(make())
    entries = wait_for(outbox, 10)
    machine.passes(10.0)
    assert [outbox.age_s(entry) for entry in entries] == [pytest.approx(10.0)] * 10
    outbox.close(5)
    assert not drops.total
    first = entries[0].sequence
    assert [entry.sequence for entry in entries] == list(range(first, first + 10))
    assert caplog.text.count("The clock was set by") == 1


def test_what_a_killed_agent_left_in_the_journal_is_as_old_as_the_restart(tmp_path: Path) -> None:
    machine = Machine(5.0)
    pending = PendingEvents(tmp_path, threading.Lock())
    pending.add(1, make()._replace(made=5.0))
    machine.wall = NOW
    left, drops = machine.run(tmp_path)
    assert (len(left), drops.total) == (1, Dropped())


@pytest.mark.parametrize("note", ["", "{}", "[1]", '{"boot": "first", "uptime_s": 1e999}'])
def test_results_of_an_earlier_version_begin_to_age_with_the_update(
    tmp_path: Path, note: str
) -> None:
    machine = Machine(5.0)
    machine.run(tmp_path, new=True)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db, db:
        db.execute("UPDATE notes SET text = ? WHERE name = 'age'", (note,))
        db.execute("UPDATE notes SET text = '-77' WHERE name = 'clock_correction_s'")
    machine.wall = NOW
    left, drops = machine.run(tmp_path)
    assert (len(left), drops.total) == (1, Dropped())
    machine.passes(3601.0)
    assert machine.run(tmp_path)[1].total == Dropped(normal=1, others=1)


def test_an_earlier_version_finds_the_ages_that_it_understands(tmp_path: Path) -> None:
    """After a rollback: its age is wall clock - note - made."""
    machine = Machine(5.0)
    machine.run(tmp_path, new=True)
    machine.passes(60.0)
    machine.wall += NOW
    machine.run(tmp_path)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db, db:
        (ahead_s,) = db.execute(
            "SELECT text FROM notes WHERE name = 'clock_correction_s'"
        ).fetchone()
        (made,) = db.execute("SELECT made FROM normal").fetchone()
    assert machine.wall - float(ahead_s) - made == pytest.approx(60.0, abs=1.0)


def test_numbers_rise_over_a_damaged_store_and_a_clock_that_is_behind(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(300):
        outbox.offer(make())
    before = wait_for(outbox, 300)
    outbox.close(5)
    file = tmp_path / "outbox.db"
    file.write_bytes(file.read_bytes()[:-4096] + b"\xff" * 4096)

    outbox = open_outbox(tmp_path, clock=THIS_MACHINE._replace(wall=lambda: time.time() - 86_400.0))
    assert outbox.damage
    fresh = make()
    outbox.offer(fresh)
    wait_for_stored(outbox, fresh)
    assert everything(outbox)[-1].id == fresh.id
    assert everything(outbox)[-1].sequence > before[-1].sequence
    outbox.close(5)


def test_deliveries_are_noted_though_nothing_new_comes(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.offer(make())
    outbox.mark_delivered(SINK, [wait_for(outbox, 1)[0].sequence])

    with closing(sqlite3.connect(tmp_path / "outbox.db")) as disk:
        wait_until(lambda: disk.execute("SELECT COUNT(*) FROM normal").fetchone() == (0,))
    outbox.close(5)


def test_a_full_outbox_keeps_every_anomaly_that_fits(tmp_path: Path) -> None:
    drops = Drops()
    outbox = open_outbox(tmp_path, drops, limit_mib=2)
    anomalies = []
    for n in range(5000):
        event = make(anomalous=n % 2 == 0)
        anomalies += [event.id] if n % 2 == 0 else []
        outbox.offer(event)
        if n % 500 == 499:
            wait_for_stored(outbox, event)
    left = {entry.id for entry in everything(outbox)}
    outbox.close(5)

    assert set(anomalies) <= left
    assert drops.total.others == 0 < drops.total.normal


def test_two_agents_cannot_use_one_folder(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)

    with pytest.raises(InvalidConfiguration, match="in use by another agent"):
        open_outbox(tmp_path)

    outbox.close(5)


def test_notes_outlive_the_process(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.set_note("statistics", "twelve")
    outbox.close(5)

    outbox = open_outbox(tmp_path)
    assert outbox.get_note("statistics") == "twelve"
    assert outbox.get_note("nothing") == ""
    outbox.close(5)


def test_a_closed_outbox_leaves_no_journal(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.offer(make())
    outbox.close(5)

    assert not any(place.path.exists() for place in journal_locations(tmp_path))


def test_a_lost_note_of_the_sinks_loses_no_event(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    events = [make() for _ in range(20)]
    for event in events:
        outbox.offer(event)
    wait_for(outbox, 20)
    outbox.close(5)
    for damage in ("DELETE FROM notes", "UPDATE notes SET text = '?'"):
        with closing(sqlite3.connect(tmp_path / "outbox.db")) as db, db:
            db.execute(damage)

        outbox = open_outbox(tmp_path)
        assert [entry.id for entry in everything(outbox)] == [event.id for event in events]
        outbox.close(5)


def test_an_event_that_cannot_be_written_as_json_is_counted_and_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drops = Drops()
    outbox = open_outbox(tmp_path, drops)
    outbox.offer(EventDraft("bad", "alarm", "bolts", time.time(), {"what": {1, 2}}))
    outbox.offer(make())

    assert len(wait_for(outbox, 1)) == 1
    assert outbox.waiting(SINK) == 1
    outbox.close(5)
    assert drops.total == Dropped(others=1)
    assert "bad" in caplog.text


def test_a_journal_of_another_user_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(journal_locations(tmp_path)[0])
    journal.append((1, make()))
    journal.close(remove=False)
    try:
        os.chown(journal.location.path, 1, 1)
    except PermissionError:
        pytest.skip("giving a file away needs root")

    outbox = open_outbox(tmp_path)
    outbox.offer(make())
    assert len(wait_for(outbox, 1)) == 1
    outbox.close(5)
    assert "belongs to user 1 " in caplog.text
    assert journal.location.path.exists()


def test_a_journal_that_was_removed_meanwhile_stops_no_close(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    shutil.rmtree(journal_locations(tmp_path)[0].path)
    outbox.offer(make())
    wait_for(outbox, 1)
    outbox.close(5)
