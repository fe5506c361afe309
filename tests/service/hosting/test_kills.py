"""kill -9 of the service at random moments of a start; many calls with one client token."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest

from tests.conftest import children
from tests.service.hosted import PROJECT, HostingService, runtimes
from tests.service.operations.test_hosting import wait_until_ended
from tests.service.running import ACCOUNT, RunningService
from tests.service.served import Received, ask

MODEL = f"/2020-11-20/projects/{PROJECT}/models/1"
MOMENTS, LATEST_S = 15, 1.5  # after the call; a start takes about so long
CALLS, AT_A_TIME = 1000, 100
SETTINGS = {
    "unsigned": True,
    "unsigned_account": ACCOUNT,
    "quotas": {"calls_per_s": 1e6, "burst": 10**6},
}


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[Tuple[RunningService, HostingService]]:
    """A real service, to be started, and a view on its records."""
    service = RunningService(tmp_path, SETTINGS)
    view = HostingService(service.root)
    view.add_model("classification")
    yield service, view
    if service.process is not None and service.process.poll() is None:
        service.stop()
    view.records.close()


def start_model(service: RunningService, token: str) -> Received:
    headers = {"Content-Type": "application/json", "X-Amzn-Client-Token": token}
    body = json.dumps({"MinInferenceUnits": 1}).encode()
    return ask(service.port, "POST", f"{MODEL}/start", body, headers)


def settled(view: HostingService) -> Dict[str, str]:
    """Wait until the model is neither being started nor stopped; its description."""
    end = time.monotonic() + 120
    while True:
        found = view.describe()
        if found["Status"] in ("HOSTED", "HOSTING_FAILED", "TRAINED"):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def test_a_service_that_is_killed_at_any_moment_of_a_start_goes_on_with_it(
    seeded: Tuple[RunningService, HostingService],
) -> None:
    service, view = seeded
    service.start()
    moments = random.Random(19)
    for moment in range(MOMENTS):
        assert service.process is not None
        if view.status() == "TRAINED":
            assert start_model(service, f"start-{moment}").status == 202
        time.sleep(moments.uniform(0.0, LATEST_S))
        left = runtimes(service.process.pid)
        assert len(left) <= 1
        service.kill()
        wait_until_ended(left)
        assert view.status() in ("STARTING_HOSTING", "HOSTED", "SYSTEM_UPDATING")
        service.start()
        if moment % 5 == 4:  # come to an end, and begin again
            assert settled(view)["Status"] == "HOSTED"
            assert len(runtimes(service.process.pid)) == 1
            assert ask(service.port, "POST", f"{MODEL}/stop", b"").status == 202
            view.wait_for("TRAINED")


def test_many_calls_with_one_client_token_start_one_runtime(
    seeded: Tuple[RunningService, HostingService],
) -> None:
    service, view = seeded
    with service:
        assert service.process is not None
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            answers = list(pool.map(lambda _: start_model(service, "token"), range(CALLS)))
        assert Counter((each.status, each.body) for each in answers) == {
            (202, b'{"Status": "STARTING_HOSTING"}'): CALLS
        }
        view.wait_for("HOSTED")
        assert len(children("runtime_main", service.process.pid)) == 1
