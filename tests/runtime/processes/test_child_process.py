"""A child process from its start to its end."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytest

from edge_agent.runtime.processes.child_process import MOST_LINES, ChildProcess, Exit

CONNECTED = """
import os, sys, time
from edge_agent.runtime.processes.parent import connect
channel = connect(sys.argv)
"""


def start(code: str, **options: Any) -> ChildProcess:
    limits = {"within_s": 30.0, "late": "it was late", "ends_within_s": 20.0, **options}
    return ChildProcess((sys.executable, "-c", code), name="Test", **limits)


@pytest.fixture(autouse=True)
def _modules_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))


def test_a_message_to_who_has_gone_doesnt_hide_why_it_went() -> None:
    process = start("raise SystemExit(3)")
    assert list(process.messages()) == []
    process.send({"do": "run"})
    assert str(process.end()) == "ended with exit status 3"


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        (Exit(7, None), "can't be ended (process 7): the driver holds it"),
        (Exit(7, -9, "it hung."), "was ended because it hung"),
        (Exit(7, 0), "ended with exit status 0"),
        (Exit(7, 3, "", "bye"), "ended with exit status 3; its last line: bye"),
        (Exit(7, -11, "", "bye"), "was ended by SIGSEGV (Segmentation fault); its last line: bye"),
        (Exit(7, -40), "was ended by signal 40"),
    ],
)
def test_an_ending_is_a_sentence(ending: Exit, sentence: str) -> None:
    assert str(ending) == sentence


def test_a_pulse_comes_while_there_is_nothing_else() -> None:
    code = CONNECTED + "time.sleep(0.5); channel.send({'last': True})"
    with start(code) as process:
        messages = list(process.messages(pulse_s=0.05))
        assert process.end().code == 0
    assert messages[-1] == {"last": True}
    assert {} in messages


def test_output_does_not_keep_a_pulse_back() -> None:
    code = CONNECTED + "while True: print('busy', flush=True); time.sleep(0.01)"
    with start(code) as process:
        assert next(process.messages(pulse_s=0.5)) == {}


def test_a_time_limit_counts_until_it_is_lifted() -> None:
    with start("import time; time.sleep(1000)", within_s=0.3) as process:
        assert list(process.messages()) == []
        assert process.end().why == "it was late"
    with start(CONNECTED + "time.sleep(0.5)", within_s=0.3) as process:
        process.lift_limit()
        assert list(process.messages()) == []
        assert process.end().code == 0


def test_who_leaves_it_in_an_error_leaves_no_process() -> None:
    began = time.monotonic()
    with pytest.raises(KeyError), start("import time; time.sleep(1000)") as process:
        raise KeyError
    assert time.monotonic() - began < 15.0
    process.kill("it was ended before")  # does nothing
    assert process.end().why == "nobody waits for it any more"


def test_only_so_many_lines_of_libraries_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    ours = '{"level": "INFO", "message": "ours"}'
    code = f"for _ in range({2 * MOST_LINES}): print('theirs')\nprint({ours!r})"
    with caplog.at_level(logging.DEBUG), start(code) as process:
        list(process.messages())
        process.end()
    shown = [(each.levelname, each.getMessage().partition(": ")[2]) for each in caplog.records]
    assert shown.count(("WARNING", "theirs")) == MOST_LINES
    assert shown.count(("DEBUG", "theirs")) == MOST_LINES
    assert shown[-1] == ("INFO", "ours")
