"""What the comparison has in files, its command line, its clients and the end of a server."""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from edge_agent.demo.parts import draw_frame
from scripts.peers import __main__ as command
from scripts.peers import process
from scripts.peers.load import drive
from scripts.peers.process import TreeUsage
from scripts.peers.servers import FOLDER, PEERS, Launch, PeerServer
from scripts.peers.targets import KINDS, PeerTarget, open_target
from tests.conftest import left_behind, there
from tests.fakes import micro
from tests.fakes.kserve_server import Servicer, serving
from tests.runtime.results.outboxes import wait_until

IGNORES_TERM = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
end = time.process_time() + 0.2
while time.process_time() < end: pass
print("busy", flush=True)
time.sleep(60)
"""


Server = Tuple[Servicer, str]


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    servicer = Servicer()
    with serving(servicer) as address:
        yield servicer, address


def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path / "bin" / "python", tmp_path, tmp_path / "package", 4, (1, 2, 3))


@pytest.mark.parametrize("peer", list(PEERS.values()), ids=list(PEERS))
def test_every_requirement_of_a_peer_is_pinned(peer: PeerServer) -> None:
    lines = peer.requirements.read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    assert peer.version[0].isdigit()
    assert set(peer.kinds) <= set(KINDS)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.json")), ids=lambda file: file.name)
def test_every_configuration_file_is_json(file: Path) -> None:
    assert isinstance(json.loads(file.read_text()), dict)


@pytest.mark.parametrize("peer", list(PEERS.values()), ids=list(PEERS))
def test_every_command_starts_the_peer_s_python_and_modules_that_exist(
    peer: PeerServer, tmp_path: Path
) -> None:
    command = peer.prepare(launch(tmp_path))
    assert Path(command[0]).parent == tmp_path / "bin"
    if command[1] == "-m":
        file = FOLDER / peer.name / (command[2].rpartition(".")[2] + ".py")
        assert ast.parse(file.read_text(), feature_version=(3, 8))


def test_mlserver_gets_its_files_with_ports_package_and_threads(tmp_path: Path) -> None:
    PEERS["mlserver"].prepare(launch(tmp_path))
    settings = json.loads((tmp_path / "settings.json").read_text())
    model = json.loads((tmp_path / "model-settings.json").read_text())
    assert (settings["grpc_port"], settings["http_port"], settings["metrics_port"]) == (1, 2, 3)
    assert model["parameters"] == {"uri": str(tmp_path / "package"), "extra": {"threads": 4}}
    assert model["implementation"].rpartition(".")[0].endswith("peers.mlserver.runtime")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--package", "p", "--peer", "torchserve"], "invalid choice: 'torchserve'"),
        (["--package", "p", "--seconds", "0"], "0 isn't positive"),
        (["--package", "p", "--clients", "two"], "invalid positive number value: 'two'"),
        ([], "required: --package"),
    ],
)
def test_a_wrong_argument_is_named(
    words: List[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert message in capsys.readouterr().err


def test_a_package_without_a_mask_and_one_that_is_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    micro.write(tmp_path / "package", "classification")
    assert command.run(parser.parse_args(["--package", str(tmp_path / "package")])) == 2
    assert "no mask" in capsys.readouterr().err
    assert command.run(parser.parse_args(["--package", str(tmp_path / "none")])) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["KServe gRPC, raw tensor", "KServe gRPC, shared memory"])
def test_a_target_reads_score_and_mask(server: Server, kind: str) -> None:
    before = there()
    with open_target(PeerTarget(kind, server[1], (96, 64))) as connection:
        reply = connection.read(connection.call())
    frame = draw_frame(96, 64)
    assert reply.score == pytest.approx(float(frame.mean()))
    assert reply.marked == pytest.approx(float(frame.any(axis=2).mean()))
    assert server[0].regions == {}
    assert left_behind(before) == set()


def test_clients_in_processes_of_their_own_load_a_server(server: Server) -> None:
    usages = iter([TreeUsage(1.0, 5.0), TreeUsage(3.0, 6.0)])
    target = PeerTarget("KServe gRPC, raw tensor", server[1], (64, 64))
    load = drive(target, 2, 0.3, lambda: next(usages))
    assert len(load.clients) == 2
    assert all(client.latencies_s and not client.failures for client in load.clients)
    assert load.after.cpu_s - load.before.cpu_s == 2.0
    p50_ms, p99_ms = load.points_ms()
    assert 0 < p50_ms <= p99_ms


def test_clients_say_why_they_get_no_answer() -> None:
    target = PeerTarget("HTTP, raw body", "127.0.0.1:1", (64, 64))
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        drive(target, 1, 0.1, lambda: TreeUsage(0.0, 0.0))


def test_a_server_that_will_not_stop_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_WITHIN_S", 0.3)
    log = tmp_path / "log"
    command = [sys.executable, "-c", IGNORES_TERM]
    with process.running(command, tmp_path, {}, log) as server:
        deadline = time.monotonic() + 10
        while "busy" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        child = int(log.read_text().split()[0])
        assert set(process.tree(server.pid)) == {server.pid, child}
        used = process.usage(server.pid)
        assert used.cpu_s >= 0.2
        assert used.memory_mib > 1
    assert server.returncode
    wait_until(lambda: has_ended(child))  # the kernel removes a killed process a little later


def has_ended(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
