"""A broker that is down for more results than the outbox holds, and what comes when it is back.

`python -m tests.runtime.results.overflow --results 1000000 --limit-mib 64` is the long form of the
test in `test_overflow.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

from edge_agent.config import OutboxSettings
from edge_agent.runtime.results.delivery import Delivery
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.mqtt import MqttSink
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.spool.database import Dropped
from tests.fakes import broker, certificates
from tests.runtime.results.mqtt_sinks import THING, settings
from tests.runtime.results.outboxes import Drops, make, wait_until
from tests.runtime.results.watcher import watching

LIVE = 60
LIVE_EVERY_S = 0.1


@dataclass
class Report:
    """Counts of events; ages in seconds from being offered to being received."""

    offered: int
    arrived: int
    announced: Dropped
    dropped: Dropped
    oldest_first: bool  # the dropped ones are the oldest of their kind
    live_oldest_s: float
    live_before_backlog: bool  # the last live result came while the backlog was still draining
    drain_s: float
    store_mib: float


class Arrivals:
    """Ids by arrival, with the time."""

    def __init__(self) -> None:
        self.at: Dict[str, float] = {}

    def take(self, event: Dict[str, Any]) -> None:
        self.at.setdefault(event["id"], time.time())


def overflow(
    folder: Path,
    results: int,
    limit_mib: int,
    drain_per_s: float,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Offer `results` while the broker is down, then LIVE more while it drains."""
    keys = certificates.every(folder)
    server = broker.Broker(folder, keys)
    with (folder / "broker.conf").open("a") as conf:
        conf.write("max_queued_messages 0\nmax_inflight_messages 0\n")
    drops = Drops()
    options = OutboxSettings(limit_mib=limit_mib, drain_per_s=drain_per_s, commit_every_s=0.2)
    outbox = Outbox(options, folder / "outbox", THING, ["mqtt"], drops)
    outbox.start()
    delivery = Delivery(
        MqttSink(settings(server.port, keys), THING), outbox, options,
        lambda *_: True, lambda _: None,
    )  # fmt: skip
    delivery.start()
    try:
        offered: List[EventDraft] = []
        for number in range(results):
            offered.append(make(anomalous=number % 20 == 0, size=600))
            outbox.offer(offered[-1])
            if number % 1000 == 999:  # as fast as it is stored
                wait_until(lambda: offered[-1000].id <= outbox_last(outbox))
        wait_until(lambda: outbox_last(outbox) >= offered[-1].id)
        say(f"{results} offered; announced: {drops.total}")
        store_mib = (folder / "outbox" / "outbox.db").stat().st_size / 2**20
        arrivals = Arrivals()
        with server, watching(server, f"edge-agent/{THING}/+/result", arrivals.take):
            began = time.monotonic()
            wait_until(lambda: bool(arrivals.at), 90)
            live: List[EventDraft] = []
            made: Dict[str, float] = {}
            for _ in range(LIVE):
                live.append(make(anomalous=True, size=600))
                made[live[-1].id] = time.time()
                outbox.offer(live[-1])
                time.sleep(LIVE_EVERY_S)
            wait_until(lambda: all(event.id in arrivals.at for event in live))
            last_live = max(arrivals.at[event.id] for event in live)
            wait_until(lambda: outbox.waiting("mqtt") == 0, 3000)
            drained_s = time.monotonic() - began
            kept = results - drops.total.normal - drops.total.others
            wait_until(lambda: len(arrivals.at) >= kept + LIVE)
    finally:
        delivery.close(5)
        outbox.close(5)
    gone = {
        v: [e.id not in arrivals.at for e in offered if e.verdict == v]
        for v in ("normal", "anomaly")
    }
    ages = [arrivals.at[id_] - since for id_, since in made.items()]
    return Report(
        offered=results + LIVE,
        arrived=len(arrivals.at),
        announced=drops.total,
        dropped=Dropped(sum(gone["normal"]), sum(gone["anomaly"])),
        oldest_first=all(flags == sorted(flags, reverse=True) for flags in gone.values()),
        live_oldest_s=max(ages),
        live_before_backlog=last_live < max(arrivals.at.values()),
        drain_s=drained_s,
        store_mib=store_mib,
    )


def outbox_last(outbox: Outbox) -> str:
    return outbox.get_note("last_id")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--limit-mib", type=int, default=64)
    parser.add_argument("--drain-per-s", type=float, default=1000.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def say(text: str) -> None:
            sys.stdout.write(text + "\n")

        report = overflow(Path(folder), given.results, given.limit_mib, given.drain_per_s, say)
        say(str(report))


if __name__ == "__main__":
    main()
