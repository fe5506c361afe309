"""The Python client against a real agent."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, List

import numpy as np
import pytest

from edge_agent import types
from edge_agent.client import Client
from edge_agent.errors import (
    AgentUnavailable,
    InvalidFrame,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
)
from edge_agent.types import Priority
from tests.contract.calls import plain, until
from tests.fakes import micro
from tests.fakes.agent import Agent

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = ("--set", "engine.threads=1", "--set", "engine.queue_length=1")
    running = Agent(tmp_path_factory.mktemp("agent"), *settings)
    micro.write(running.models / "map", "anomaly_map")
    once = {"batch_sizes": [1]}
    micro.write(running.models / "slow", "classification", micro.slow(8), runtime=once)
    with running:
        running.run("map")
        running.run("slow")
        yield running


def test_a_stream_answers_every_image_in_order_with_its_mask(agent: Agent) -> None:
    images = [plain(6 * n, 80 + n, 70) for n in range(40)]
    with agent.client() as client:
        answers = list(client.stream("map", images, max_in_flight=1))
    assert [answer.frame_id for answer in answers] == list(range(40))
    for answer, image in zip(answers, images):
        assert answer.prediction is not None, answer.error
        assert answer.prediction.mask is not None
        assert answer.prediction.mask.shape == image.shape
        assert answer.prediction.score == pytest.approx(6 * answer.frame_id / 255, abs=0.01)


def test_a_frame_of_a_stream_that_fails_has_its_own_error(agent: Agent) -> None:
    images = [plain(1), np.zeros((32, 64, 3), np.uint8), plain(2)]
    with agent.client() as client:
        answers = list(client.stream("map", images, max_in_flight=1))
    assert [type(answer.error) for answer in answers] == [type(None), InvalidFrame, type(None)]
    assert "64x32" in str(answers[1].error)


def test_live_video_skips_what_a_newer_frame_overtook(agent: Agent) -> None:
    with agent.client() as client:
        images = [plain(255)] * 20
        answers = list(client.stream("slow", images, max_in_flight=1, newest_frame_wins=True))
    assert [answer.frame_id for answer in answers] == list(range(20))
    skipped = [a for a in answers if a.prediction is None and a.error is None]
    assert answers[0].prediction is not None
    assert answers[-1].prediction is not None
    assert skipped


def test_a_stream_may_be_left_in_the_middle(agent: Agent) -> None:
    with agent.client() as client:
        for answer in client.stream("map", (plain(n % 250) for n in range(10**6))):
            if answer.frame_id == 5:
                break
        assert client.detect("map", plain(255)).is_anomalous


@pytest.mark.parametrize("image", [np.zeros((64, 64), np.uint8), "map", None])
def test_a_wrong_image_is_refused_before_it_is_sent(agent: Agent, image: Any) -> None:
    with agent.client() as client, pytest.raises(InvalidFrame, match=r"expected (uint8|a numpy)"):
        client.detect("map", image)


def test_a_stream_to_an_unknown_model_says_so_for_every_frame(agent: Agent) -> None:
    with agent.client() as client:
        answers = list(client.stream("no-such", [plain(1), plain(2)]))
    assert [type(answer.error) for answer in answers] == [ModelNotFound] * 2


@pytest.mark.parametrize(
    "use", [Client.models, lambda client: client.detect("map", plain(1, 2, 3))]
)
def test_a_closed_client_says_so(agent: Agent, use: Callable[[Client], Any]) -> None:
    before = set(Path("/dev/shm").iterdir())
    with agent.client() as client:
        client.models()
    with pytest.raises(InvalidRequest, match="is closed; make another Client"):
        use(client)
    mine = f"_{os.getpid()}_"
    assert not [path for path in set(Path("/dev/shm").iterdir()) - before if mine in path.name]


def test_a_client_gets_through_as_soon_as_the_agent_is_there(tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def answered(client: Client) -> bool:
        try:
            return client.models() == []
        except AgentUnavailable:
            return False

    with agent.client() as client:
        assert not answered(client)
        for _ in range(2):
            with agent:
                assert answered(client)
            assert not answered(client)


def test_after_waiting_in_vain_the_first_call_gets_through(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    with agent.client() as client:
        with pytest.raises(AgentUnavailable, match="there is no such file"):
            client.wait_ready(0.2)
        with agent:
            assert client.models() == []
            client.wait_ready(60)


def test_an_overloaded_agent_tells_the_client_when_to_come_back(agent: Agent) -> None:
    refusals: List[Overloaded] = []
    with agent.client() as client:
        client.detect("slow", plain(255))  # so that the agent knows how long a frame takes
        for answer in client.stream("slow", [plain(255)] * 12, max_in_flight=12):
            if isinstance(answer.error, Overloaded):
                refusals.append(answer.error)
    assert refusals
    assert "retry after" in str(refusals[0])


def test_a_client_may_name_its_camera_and_its_priority(agent: Agent) -> None:
    with Client(agent.address, camera_id="left", priority=Priority.RESCORING) as client:
        assert client.detect("map", plain(255)).is_anomalous
    with Client(agent.address, lane=types.Lane.RESCORING) as client:  # as up to version 1.3
        assert client.detect("map", plain(255)).is_anomalous


def test_a_client_whose_segments_are_removed_takes_fresh_ones_and_goes_on(agent: Agent) -> None:
    """A session manager does so when the user has no session left (logind.conf(5), RemoveIPC)."""

    def remove() -> None:
        for file in Path("/dev/shm").glob(f"edge-agent-*-{os.getpid()}-*"):
            file.unlink()

    def removing(count: int) -> Iterator[NDArray[np.uint8]]:
        for level in range(count):
            if level == 6:
                remove()
            yield plain(10 * level)

    with agent.client() as client:
        for level in (10, 200):
            assert client.detect("map", plain(level)).score == pytest.approx(level / 255, abs=0.01)
            remove()
        found = list(client.stream("map", removing(16), max_in_flight=1))
        remove()
    assert [answer.error for answer in found] == [None] * 16
    scores = [answer.prediction.score for answer in found if answer.prediction]
    assert scores == pytest.approx([10 * level / 255 for level in range(16)], abs=0.01)


def test_the_agent_removes_the_segment_of_a_client_that_was_killed(agent: Agent) -> None:
    code = "from edge_agent.client.segment import FrameSegment as S; print(S(9)._path, flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; os._exit(9)"], capture_output=True, text=True
    )
    left = Path(ended.stdout.strip())
    assert left.name.startswith("edge-agent-")
    until(lambda: not left.exists())


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix://{folder}/none.sock", "there is no such file. Start the agent"),
        ("unix:{folder}/none.sock", "there is no such file. Start the agent"),
        ("unix://{folder}/dead.sock", "nobody listens at this socket any more"),
        ("unix://{folder}/file", "isn't a socket"),
        ("localhost:{free}", "nobody listens at that port"),
        ("127.0.0.1:{free}", "nobody listens at that port"),
        ("no-such-host.invalid:5000", "the name 'no-such-host.invalid' isn't known"),
        ("127.0.0.1:{silent}", "what listens there doesn't talk to this client without TLS"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        Client.models,
        lambda client: list(client.stream("map", [plain(1)])),
        lambda client: client.wait_ready(0.2),
    ],
)
def test_without_an_agent_a_sentence_says_why(
    tmp_path: Path, address: str, words: str, call: Callable[[Client], object]
) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with socket.socket() as free, socket.socket() as silent:
        for port in (free, silent):
            port.bind(("127.0.0.1", 0))
        silent.listen(9)
        threading.Thread(target=hang_up, args=(silent,), daemon=True).start()
        given = {"free": free.getsockname()[1], "silent": silent.getsockname()[1]}
        address = address.format(folder=tmp_path, **given)
        with Client(address, timeout_s=20) as client, pytest.raises(AgentUnavailable) as caught:
            call(client)
    assert str(caught.value).startswith(f"No agent answers at {address}: ")
    assert words in str(caught.value)


def hang_up(listener: socket.socket) -> None:
    """Close each connection, as a program that speaks another protocol."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/tmp/agent.sock", "Do you mean unix:///tmp/agent.sock?"), ("localhost", "host:port"),
        ("localhost:99999", "A port is 1 to 65535"), ("unix://agent.sock", "an absolute path"),
        ("http://localhost:50051", "host:port"), ("", "expected unix:///path or host:port"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        Client(address)


def test_an_agent_that_ends_during_a_call_is_said_to_have_ended(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent, agent.client() as client:
        assert client.models() == []
        agent.kill()
        with pytest.raises(AgentUnavailable, match="nobody listens at this socket any more"):
            client.models()


def test_a_proxy_of_the_environment_isnt_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with Agent(tmp_path, "--set", f"server.tcp=localhost:{port}"):
        for host in ("localhost", "127.0.0.1", "[::1]"):
            with Client(f"{host}:{port}", timeout_s=30) as client:
                assert client.models() == []
