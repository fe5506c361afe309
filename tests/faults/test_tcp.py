"""TCP: with certificates of both sides, and never in plaintext beyond this machine."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Iterator, Tuple

import grpc
import pytest

from edge_agent.client import Client
from tests.contract.calls import Caller, defective, plain
from tests.contract.generations import RUNNING
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port
from tests.faults.test_process import refusal


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """Make a certificate authority: `name`.key and `name`.pem."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "1", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip


def certificate(folder: Path, issuer: str, name: str) -> None:
    """Make `name`.key and `name`.pem for localhost, signed by `issuer`."""
    openssl(
        folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem",
        "-CAkey", f"{issuer}.key", "-set_serial", "7", "-days", "1", "-extfile", "names",
        "-out", f"{name}.pem",
    )  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    authority(folder, "ca")
    authority(folder, "stranger")
    certificate(folder, "ca", "server")
    certificate(folder, "ca", "client")
    certificate(folder, "stranger", "intruder")
    return folder


def tls(keys: Path) -> Tuple[str, ...]:
    return (
        "--set", f"server.tls_certificate={keys / 'server.pem'}",
        "--set", f"server.tls_key={keys / 'server.key'}",
        "--set", f"server.tls_client_ca={keys / 'ca.pem'}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Tuple[Agent, str]]:
    """An agent that asks for client certificates, and its TCP address."""
    address = f"localhost:{free_port()}"
    agent = Agent(tmp_path_factory.mktemp("tls"), "--set", f"server.tcp={address}", *tls(keys))
    micro.write(agent.models / "seg", "segmentation")
    with agent:
        agent.run("seg")
        yield agent, address


def credentials(keys: Path, name: str = "") -> grpc.ChannelCredentials:
    pair = (
        [(keys / f"{name}{end}").read_bytes() for end in (".key", ".pem")] if name else [None] * 2
    )
    return grpc.ssl_channel_credentials((keys / "ca.pem").read_bytes(), *pair)


def test_a_client_with_a_certificate_is_served(served: Tuple[Agent, str], keys: Path) -> None:
    agent, address = served
    with grpc.secure_channel(address, credentials(keys, "client")) as channel:
        over_tcp = Caller(channel).detect("seg", defective(640, 480))
    with agent.channel() as channel:
        assert Caller(channel).detect("seg", defective(640, 480)) == over_tcp


def test_the_python_client_takes_credentials(served: Tuple[Agent, str], keys: Path) -> None:
    with Client(served[1], credentials=credentials(keys, "client")) as client:
        found = client.detect("seg", defective(640, 480), transport="bytes")
    assert found.is_anomalous
    assert found.mask is not None
    assert found.mask.shape == (480, 640, 3)


@pytest.mark.parametrize("name", ["", "intruder"])
def test_a_client_without_a_certificate_of_the_right_authority_is_refused(
    served: Tuple[Agent, str], keys: Path, name: str
) -> None:
    agent, address = served
    with grpc.secure_channel(address, credentials(keys, name)) as channel:
        call = Caller(channel).detect_later("seg", plain(255), timeout=5)
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    with agent.channel() as channel:
        assert Caller(channel).detect("seg", plain(255)).is_anomalous


def test_a_client_in_plaintext_is_refused_where_certificates_are_asked_for(
    served: Tuple[Agent, str],
) -> None:
    with grpc.insecure_channel(served[1]) as channel:
        call = Caller(channel).detect_later("seg", plain(255), timeout=5)
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_plaintext_on_the_loopback_address_is_served(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    agent = Agent(tmp_path, "--set", f"server.tcp={address}", "--autostart")
    micro.write(agent.models / "cls", "classification")
    with agent, grpc.insecure_channel(address) as channel:
        Caller(channel).wait("cls", RUNNING)
        assert Caller(channel).detect("cls", plain(255)).is_anomalous
        assert f"listens on {agent.address}, {address}" in agent.log()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost.example.com"])
def test_plaintext_on_any_other_address_is_refused(tmp_path: Path, host: str) -> None:
    text = refusal(Agent(tmp_path, "--set", f"server.tcp={host}:50051"))
    assert "plaintext only on localhost" in text
    assert "tls_certificate" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"tls_certificate": "none.pem", "tls_key": "server.key"},
            "none.pem can't be read: No such file",
        ),
        ({"tls_certificate": "server.key", "tls_key": "server.pem"}, "Can't listen on"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused(
    tmp_path: Path, keys: Path, settings: dict, words: str
) -> None:
    values = {name: str(keys / value) for name, value in settings.items()}
    values["tcp"] = f"localhost:{free_port()}"
    words_given = [f"server.{name}={value}" for name, value in values.items()]
    arguments = [part for word in words_given for part in ("--set", word)]
    assert words in refusal(Agent(tmp_path, *arguments))


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = Agent(tmp_path, "--set", f"server.tcp={address}")
        assert f"Can't listen on {address}" in refusal(agent)
    assert not agent.socket.exists()
