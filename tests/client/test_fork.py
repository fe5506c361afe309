"""A client that was used is inherited by processes that are forked from its own.

Each program here ends within LIMIT_S with all that it forked, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Iterator, List

import pytest

from edge_agent.client import fork_gate
from edge_agent.client.fork_gate import ForkGate
from tests.fakes import micro
from tests.fakes.agent import Agent

LIMIT_S = 120  # generous; a hang ends here

# Each process judges frames of its own brightness, which is the score, and counts what is mixed up.
COMMON = """
import faulthandler, json, multiprocessing, os, signal, socket, sys, threading, time
import numpy as np
from edge_agent.client import Client
from edge_agent.errors import EdgeAgentError
faulthandler.dump_traceback_later(100, exit=True)

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

def bounded(work, *words):
    signal.alarm(60)  # ends a child that hangs, and its own are ended with the program's group
    work(*words)

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
    process = context.Process(target=bounded, args=words)
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
            wrong += abs(own.detect("map", plain(150)).score - 150 / 255) > 0.01
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
WAITING = """
stop = threading.Event()
def wait():
    while not stop.is_set():
        with Client("unix:///none.sock") as nobodys:
            try:
                nobodys.wait_ready(0.2)
            except EdgeAgentError:
                pass
judge(client, 200, 1)
thread = threading.Thread(target=wait)
thread.start()
found = []
for level in (10, 60, 110, 160):
    child = fork(worker, client, level, results)
    found += [results.get(timeout=60), judge(client, 200, 1)]
    child.join(60)
stop.set()
thread.join(60)
"""
STREAM = """
def work():
    refused = []
    for call in (lambda: next(answers), lambda: client.detect("map", plain(9))):
        try:
            call()
        except EdgeAgentError as error:
            refused.append(str(error))
    answers.close()
    client.close()
    results.put(refused)
def images():
    while not stop.is_set():
        yield plain(70)
def run():
    with Client(sys.argv[1]) as own:
        for answer in own.stream("map", images()):
            wrong.append(abs(answer.prediction.score - 70 / 255) > 0.01)
stop, wrong = threading.Event(), []
answers = client.stream("map", [plain(200)] * 6)
first = next(answers)
thread = threading.Thread(target=run)
thread.start()
refusals = []
for _ in range(4):
    child = fork(work)
    refusals.append(results.get(timeout=60))
    child.join(60)
    seen = len(wrong)
    while thread.is_alive() and len(wrong) == seen:  # the other stream goes on
        time.sleep(0.01)
stop.set()
thread.join(60)
scores = [answer.prediction.score for answer in [first, *answers]]
wrong += [abs(score - 200 / 255) > 0.01 for score in scores]
child = fork(worker, client, 60, results)  # no stream is open any more
found = [refusals, sum(wrong), results.get(timeout=60), judge(client, 210)]
child.join(60)
"""
HANDLER = """
judge(client, 200, 1)
silent = socket.socket()
silent.bind(("127.0.0.1", 0))
silent.listen(9)
children = []
def forks(*_):
    children.append(fork(worker, client, 10, results))
    children[0].join(60)
signal.signal(signal.SIGUSR1, forks)
def interrupt():
    held.append(silent.accept())
    os.kill(os.getpid(), signal.SIGUSR1)
held, thread = [], threading.Thread(target=interrupt)
with Client("127.0.0.1:%d" % silent.getsockname()[1], timeout_s=2) as hanging:
    thread.start()
    try:
        hanging.models()
    except EdgeAgentError:
        pass
thread.join(60)
found = [len(children), results.get(timeout=60), judge(client, 200)]
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
    """What the program prints. It is ended with all that it forked after LIMIT_S."""
    inherited = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    program = subprocess.Popen(
        [sys.executable, "-c", COMMON + script + END, agent.address],
        env={**inherited, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed, said = program.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()
    assert program.returncode == 0, said
    found: List[Any] = json.loads(printed)
    return found


def test_forked_workers_and_their_own_children_get_their_own_verdicts(agent: Agent) -> None:
    assert printed(agent, WORKERS) == [0] * 8


def test_workers_that_are_forked_while_threads_call_get_their_own_verdicts(agent: Agent) -> None:
    assert printed(agent, THREADS) == [0] * 5


def test_workers_that_are_forked_while_a_thread_waits_for_an_agent_work(agent: Agent) -> None:
    assert printed(agent, WAITING) == [0] * 8


def test_a_child_that_is_forked_while_a_stream_is_open_is_refused_in_words(agent: Agent) -> None:
    """The streams of its parent go on, and a child that is forked after them works."""
    refusals, *wrong = printed(agent, STREAM)
    for of_stream, of_call in refusals:
        assert "Open streams in the process that reads them" in of_stream
        assert "while its parent had a stream open" in of_call
    assert [len(refusals), *wrong] == [4, 0, 0, 0]


def test_a_signals_handler_forks_within_a_call_of_its_own_thread(agent: Agent) -> None:
    taken, refused, wrong = printed(agent, HANDLER)
    assert "waited for an answer: no call can work here" in refused
    assert [taken, wrong] == [1, 0]


def test_a_fork_waits_briefly_for_calls_of_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one that hangs only WAIT_S, here none; and not at all for those of its own thread."""
    gate, inside, end = ForkGate(), threading.Event(), threading.Event()

    def call() -> None:
        with gate.call():
            inside.set()
            end.wait(60)

    thread = threading.Thread(target=call)
    with gate.call():
        gate.before_fork()
        gate.after_in_parent()
    thread.start()
    assert inside.wait(60)
    monkeypatch.setattr(fork_gate, "WAIT_S", 0)
    gate.before_fork()
    gate.after_in_parent()
    end.set()
    thread.join(60)
    monkeypatch.setattr(fork_gate, "WAIT_S", 60)
    stream = gate.opened()
    gate.before_fork()
    gate.after_in_child()
    assert gate.cut_off
    gate.ended(stream)


def test_where_grpc_cant_work_after_a_fork_that_is_said(agent: Agent) -> None:
    texts = printed(agent, WORKERS.replace("range(4)", "range(2)"), GRPC_ENABLE_FORK_SUPPORT="0")
    assert texts[0] == texts[3] == 0
    assert all("GRPC_ENABLE_FORK_SUPPORT is off" in text for text in texts[1:3])
