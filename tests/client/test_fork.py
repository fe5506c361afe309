"""A client that was used is inherited by processes that are forked from its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Iterator, List

import pytest

from tests.fakes import micro
from tests.fakes.agent import Agent

# Each process judges frames of its own brightness, which is the score, and counts what is mixed up.
COMMON = """
import faulthandler, json, multiprocessing, os, sys, threading
import numpy as np
from edge_agent.client import Client
from edge_agent.errors import EdgeAgentError
faulthandler.dump_traceback_later(40, exit=True)

def plain(level):
    return np.full((64, 64, 3), level, np.uint8)

def judge(client, level, times=20):
    wrong = 0
    for _ in range(times):
        found = client.detect("map", plain(level))
        answers = list(client.stream("map", [plain(level)] * 3)) if _ % 10 == 0 else []
        scores = [found.score, *(answer.prediction.score for answer in answers)]
        wrong += any(abs(score - level / 255) > 0.01 for score in scores)
    return wrong

def worker(client, level, results, nested=0):
    try:
        wrong = judge(client, level)
        if nested:
            fork(worker, client, level + 7, results, nested - 1).join(30)
            wrong += judge(client, level)
        client.close()
        results.put(wrong)
    except EdgeAgentError as error:
        results.put(str(error))

context = multiprocessing.get_context("fork")
def fork(*words):
    process = context.Process(target=words[0], args=words[1:])
    process.start()
    return process

client, results = Client(sys.argv[1], timeout_s=30), context.Queue()
"""
WORKERS = """
judge(client, 200, 1)
children = [fork(worker, client, level, results, nested) for level, nested in ((10, 0), (60, 2))]
wrong = judge(client, 200)
found = [wrong, *(results.get(timeout=40) for _ in range(4))]
for child in children:
    child.join(30)
found += [judge(client, 210), *(child.exitcode for child in children)]
"""
THREADS = """
results, stop = context.Queue(), threading.Event()
def work():
    with Client(sys.argv[1], timeout_s=30) as own:
        wrong = 0
        while not stop.is_set():
            wrong += judge(own, 150, 1)
        results.put(wrong)
judge(client, 200, 1)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
children = [fork(worker, client, level, results) for level in (10, 60, 110)]
for child in children:
    child.join(30)
stop.set()
for thread in threads:
    thread.join(30)
found = [results.get(timeout=30) for _ in range(5)]
"""
STREAM = """
answers = client.stream("map", [plain(200)] * 6)
next(answers)
def child():
    refused = ""
    try:
        next(answers)
    except EdgeAgentError as error:
        refused = str(error)
    answers.close()
    results.put([refused, judge(client, 60)])
process = fork(child)
found = [results.get(timeout=40), sum(abs(a.prediction.score - 200 / 255) > 0.01 for a in answers)]
process.join(30)
found += [judge(client, 210), process.exitcode]
"""
END = """
client.close()
print(json.dumps(found))
sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    micro.write(running.models / "map", "anomaly_map")
    with running:
        running.run("map")
        yield running


def printed(agent: Agent, script: str, **environment: str) -> List[Any]:
    """What the program prints; it leaves no segment behind."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + script + END, agent.address],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1", **environment},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found: List[Any] = json.loads(ended.stdout)
    return found


def test_forked_workers_and_their_own_children_get_their_own_verdicts(agent: Agent) -> None:
    assert printed(agent, WORKERS) == [0] * 8


def test_workers_that_are_forked_while_threads_call_get_their_own_verdicts(agent: Agent) -> None:
    assert printed(agent, THREADS) == [0] * 5


def test_a_stream_stays_with_the_process_that_opened_it(agent: Agent) -> None:
    (refused, wrong), *others = printed(agent, STREAM)
    assert "Open another stream here" in refused
    assert [wrong, *others] == [0] * 4


def test_where_grpc_cant_work_after_a_fork_that_is_said(agent: Agent) -> None:
    texts = printed(agent, WORKERS.replace("range(4)", "range(2)"), GRPC_ENABLE_FORK_SUPPORT="0")
    assert texts[0] == texts[3] == 0
    assert all("GRPC_ENABLE_FORK_SUPPORT is off" in text for text in texts[1:3])
