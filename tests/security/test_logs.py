"""Nobody fills the disk with log lines, forges one, or steers the terminal that shows them."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import struct
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from edge_agent import logs
from edge_agent.errors import InferenceFailed
from edge_agent.logs import JsonFormatter, LimitedHandler, TextFormatter, printable
from edge_agent.runtime.rpc import status
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port
from tests.security.http2 import Connection

CALLS = 1000
MOST_BYTES = 40_000  # of log for as many bad calls; 7 MB before

LIST, DETECT = (
    f"/AWS.LookoutVision.EdgeAgent/{name}" for name in ("ListModels", "DetectAnomalies")
)
EVIL = "\n\r\x00\x1b[2J\x7f\x85\x9b\u2028\u2029\u202e\u2066\ud800\u200b"
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A handler as the agent's own, on a stream in memory."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.clock, self.stream = Clock(), io.StringIO()
        self.handler = LimitedHandler(self.stream, self.clock)
        self.handler.setFormatter(formatter)

    def write(self, name: str, line: int, text: object, *values: object, level: int = 30) -> None:
        self.handler.handle(logging.LogRecord(name, level, "x.py", line, text, values, None))

    def fail(self, name: str, error: BaseException, text: str = "It failed.") -> None:
        try:
            raise error
        except type(error) as caught:
            facts = (type(caught), caught, caught.__traceback__)
            self.handler.handle(logging.LogRecord(name, 40, "x.py", 1, text, (), facts))

    def lines(self) -> List[str]:
        return self.stream.getvalue().split("\n")[:-1]


@pytest.fixture
def log() -> Iterator[Log]:
    found = Log(JsonFormatter())
    yield found
    found.handler.close()


@pytest.fixture
def on_a_terminal() -> Iterator[Log]:
    found = Log(TextFormatter())
    yield found
    found.handler.close()


# The agent under attack


def test_bad_headers_write_a_bounded_log(tmp_path: Path) -> None:
    """gRPC's own logger wrote each header with a traceback: up to 7 KB a call."""
    attacks = [
        (CALLS // 2, (b"camera-id", b"\xff\xfe" + b"A" * 3000)),
        (CALLS // 2, (b"x-any", b"\xe9" * 1500)),
        (10, (b"grpc-timeout", b"banana")),  # gRPC takes its time for these
        (10, (b"x-bin", b"!not base 64!")),
    ]
    with Agent(tmp_path) as agent:
        before = len(agent.log())
        for count, header in attacks:
            with Connection(agent.socket) as connection:
                connection.greet()
                for number in range(count):
                    connection.call(LIST if number % 2 else DETECT, header, content=b"\x08\xff")
        assert len(agent.log()) - before < MOST_BYTES
        assert agent.stop() == 0
    assert re.search(r"\d+ more lines like this one .* were left out", agent.log())
    assert max(map(len, agent.log().splitlines())) < 10_000


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" + b"x" * 512, b"\xff" * 100]
)
def test_garbage_on_the_socket_writes_no_log(tmp_path: Path, garbage: bytes) -> None:
    with Agent(tmp_path) as agent:
        before = len(agent.log())
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(agent.socket))
                connection.sendall(garbage)
        assert agent.stop() == 0
    assert len(agent.log()) - before < 2000


def test_connections_to_the_metrics_that_are_reset_write_a_bounded_log(tmp_path: Path) -> None:
    """Python's HTTP server printed a traceback for each."""
    port = free_port()
    with Agent(tmp_path, "--set", f"server.metrics=localhost:{port}") as agent:
        before = len(agent.log())
        for _ in range(400):
            with socket.create_connection(("localhost", port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(b"GET /met")
        assert agent.stop() == 0
    assert "Traceback" not in agent.log()[before:]
    assert len(agent.log()) - before < 60_000


def test_calls_that_fail_on_the_agents_side_write_a_bounded_log(log: Log) -> None:
    root = logging.getLogger()
    root.addHandler(log.handler)
    try:
        for number in range(10_000):
            status.of(InferenceFailed(f"The engine failed on frame {number}."))
            status.of(ValueError("x" * 5000))
    finally:
        root.removeHandler(log.handler)
    assert len(log.stream.getvalue()) < 3_000_000  # 10,000 lines were 60 MB
    written = len(log.lines())
    log.clock.now += 60.0
    log.write("edge_agent.other", 1, "Another line.")
    summaries = log.lines()[written:-1]
    assert [json.loads(line)["message"] for line in summaries if "9800 more lines" in line]


# How much


def test_a_foreign_logger_has_ten_lines_and_then_a_few_a_minute(log: Log) -> None:
    for second in range(600):
        log.clock.now = 1000.0 + second
        log.write("grpc._server", 7, "Bad %d", second)
    plain = [line for line in log.lines() if "Bad" in line]
    assert 10 <= len(plain) <= 10 + 5 * 10
    assert sum("more lines like this one" in line for line in log.lines()) <= 10


def test_one_place_that_floods_silences_no_other(log: Log) -> None:
    for number in range(1000):
        log.write("grpc._server", 7, "Flood %d", number)
    log.write("grpc._server", 8, "Something else.")
    log.write("edge_agent.runtime.app", 9, "Something of ours.")
    assert "Something else." in log.stream.getvalue()
    assert "Something of ours." in log.stream.getvalue()


def test_what_was_left_out_is_said_at_the_end(log: Log) -> None:
    for number in range(322):
        log.write("urllib3", 7, f"Retry {number}")
    log.handler.close()
    assert "312 more lines like this one" in log.lines()[-1]


def test_logger_names_without_number_use_no_memory_without_bound(log: Log) -> None:
    for number in range(50_000):
        log.write(f"foreign.{number}", number, "A line.")
    assert len(log.handler._buckets) <= logs.MOST_PLACES + 1
    assert len(log.lines()) < logs.MOST_PLACES + 50


@pytest.mark.parametrize(
    ("name", "most"), [("grpc._cython.cygrpc", 2500), ("edge_agent.runtime.app", 9000)]
)
def test_a_line_has_a_greatest_length_its_traceback_included(
    log: Log, name: str, most: int
) -> None:
    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("y" * 100_000)

    log.write(name, 1, "x" * 1_000_000)
    try:
        deep(300)
    except ValueError as error:
        log.fail(name, error, "z" * 100_000)
    assert [line for line in log.lines() if len(line) > most] == []
    assert "characters left out" in log.stream.getvalue()


# What


@pytest.mark.parametrize("name", ["grpc._server", "edge_agent.runtime.app", "root"])
def test_no_control_character_of_a_stranger_reaches_a_line(
    log: Log, on_a_terminal: Log, name: str
) -> None:
    for each in (log, on_a_terminal):
        each.write(name, 1, "A call of %s failed.", EVIL)
        each.write(name, 2, f"A call of {EVIL} failed.")
        each.write(name, 3, ValueError(EVIL))
        each.fail(name, ValueError(EVIL))
        assert not any(UNPRINTABLE.search(line) for line in each.lines())
    told = [json.loads(line) for line in log.lines()]
    assert len(told) == 4
    assert all(not UNPRINTABLE.search(each["message"]) for each in told)
    assert "\\x1b[2J" in told[0]["message"]
    assert not UNPRINTABLE.search(told[3]["error"].replace("\n", ""))
    assert EVIL.count("\n") + 3 > told[3]["error"].count("\n")  # only the traceback's own


class Unspeakable(ValueError):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_librarys_fault_in_logging_is_a_line_and_nothing_on_standard_error(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write("grpc", 1, "Of %d and %d.", "a", "b")
    log.write("grpc", 2, "Of %s.", Unspeakable())
    log.fail("grpc", Unspeakable())
    assert len(log.lines()) == 3
    assert "TypeError" in log.lines()[0]
    assert capsys.readouterr().err == ""


def test_escapes_dont_lengthen_a_line(log: Log) -> None:
    log.write("grpc", 1, "\U000e0001" * 100_000)
    assert len(log.lines()[0]) < 3000


def test_a_stranger_forges_no_line_on_a_terminal(on_a_terminal: Log) -> None:
    on_a_terminal.fail("grpc", ValueError("x\n12:00:00 ERROR   The line is safe.\n"))
    first, *rest = on_a_terminal.lines()
    assert first.endswith("It failed.")
    assert all(line.startswith("    ") for line in rest)


def test_facts_are_escaped_too(log: Log) -> None:
    record = logging.LogRecord("edge_agent", 40, "x.py", 1, "A fault.", (), None)
    record.facts = {"fault": EVIL, "count": 3}
    log.handler.handle(record)
    (line,) = log.lines()
    assert not UNPRINTABLE.search(json.loads(line)["fault"])
    assert json.loads(line)["count"] == 3


def test_plain_text_of_every_language_stays_as_it_is() -> None:
    for text in ("Größe µ 部品 деталь", "a\\b", "it's 100 %"):
        assert printable(text) == text


def test_exceptions_that_end_a_thread_go_through_the_log(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints them past every limit otherwise."""
    monkeypatch.setattr(threading, "excepthook", logs._log_of_thread)
    root = logging.getLogger()
    root.addHandler(log.handler)
    try:
        for _ in range(100):
            thread = threading.Thread(target=_fail)
            thread.start()
            thread.join(10)
    finally:
        root.removeHandler(log.handler)
    assert 1 <= len(log.lines()) <= 11
    assert not any(UNPRINTABLE.search(line) for line in log.lines())


def _fail() -> None:
    # Without a surrogate: pytest hands on what is logged as UTF-8.
    raise ValueError(EVIL.replace("\ud800", ""))


@pytest.mark.parametrize("word", ["\x1b[31mmodel", "a\nedge-agent: all is well"])
def test_a_sentence_of_the_command_line_is_one_line(
    word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from edge_agent import cli

    file = tmp_path / "settings.json"
    file.write_text(json.dumps({word: 1}))
    assert cli.main(["serve", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not UNPRINTABLE.search(said[:-1])


def test_the_operators_own_verbosity_of_grpc_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_agent.runtime import app, serve_command

    seen: List[Any] = []
    stop: Callable[..., int] = lambda *_: seen.append(os.environ["GRPC_VERBOSITY"]) or 0  # noqa: E731
    monkeypatch.setattr(app, "run", stop)
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    from edge_agent.config import Settings

    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    serve_command._serve(Settings())
    monkeypatch.delenv("GRPC_VERBOSITY")
    serve_command._serve(Settings())
    monkeypatch.delenv("GRPC_VERBOSITY")
    assert seen == ["DEBUG", "NONE"]
