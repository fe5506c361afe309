from __future__ import annotations

import threading
import time
from typing import Any, Iterator

import pytest

from edge_agent.runtime.rpc import handler_threads
from edge_agent.runtime.rpc.handler_threads import HandlerThreads


@pytest.fixture(autouse=True)
def _short_rest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(handler_threads, "KEEP_IDLE_S", 0.05)
    yield
    for thread in threading.enumerate():
        if thread.name == handler_threads.THREAD_NAME:
            thread.join(60)
            assert not thread.is_alive()


def test_calls_that_wait_have_a_thread_each_and_the_rest_wait_for_one() -> None:
    threads, gate, inside = HandlerThreads(2), threading.Event(), threading.Barrier(3)

    def wait() -> int:
        inside.wait(60)
        assert gate.wait(60)
        return threading.get_ident()

    first = [threads.submit(wait) for _ in range(2)]
    inside.wait(60)
    third = threads.submit(threading.get_ident)
    assert not third.done()
    gate.set()
    idents = {future.result(60) for future in first}
    assert len(idents) == 2
    assert third.result(60) in idents


def test_one_caller_after_the_other_gets_the_same_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_threads, "KEEP_IDLE_S", 1.0)
    threads = HandlerThreads(100)
    seen = set()
    for _ in range(50):
        seen.add(threads.submit(threading.get_ident).result(60))
        _until_idle(threads)
    assert len(seen) == 1


def test_a_failure_reaches_its_own_future_only() -> None:
    threads = HandlerThreads(1)
    bad, good = threads.submit(lambda: 1 // 0), threads.submit(lambda: 2)
    with pytest.raises(ZeroDivisionError):
        bad.result(60)
    assert good.result(60) == 2


def test_a_thread_ends_when_it_is_not_needed_and_another_comes_when_it_is() -> None:
    threads = HandlerThreads(1)
    first: Any = threads.submit(threading.current_thread).result(60)
    first.join(60)
    assert not first.is_alive()
    assert threads.submit(lambda: 3).result(60) == 3


def _until_idle(threads: HandlerThreads) -> None:
    end = time.monotonic() + 10.0
    while not threads._idle:
        assert time.monotonic() < end
        time.sleep(0.001)
