"""Certificates over real TLS: every wrong one is refused, the right one works beside them.

`tests/faults/test_tcp.py` has the plainest cases: no certificate, another authority, plaintext.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.contract.calls import Caller, plain
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class Holder:
    """A key and its certificate, of `issuer` or of its own making."""

    def __init__(
        self,
        name: str,
        issuer: Optional[Holder] = None,
        is_ca: bool = False,
        usage: Any = None,
        starts: datetime.datetime = NOW - DAY,
        ends: datetime.datetime = NOW + DAY,
        host: str = "localhost",
        signed_by: Any = None,
    ) -> None:
        """`signed_by`: another key than the issuer's, which the certificate claims all the same."""
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        above = issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(above.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(_identifier(self.key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()),
                critical=False,
            )
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        self.certificate = builder.sign(signed_by or above.key, hashes.SHA256())
        self.is_between = False  # an issuer whose certificate travels along
        self.chain: bytes = self.pem + (issuer.chain if issuer and issuer.is_between else b"")

    @property
    def pem(self) -> bytes:
        return bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def key_pem(self) -> bytes:
        kind, lock = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return bytes(self.key.private_bytes(serialization.Encoding.PEM, kind, lock))


def _identifier(key: Any) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


class Plant:
    """The authority that the agent trusts, its server's certificate, and clients of all kinds."""

    def __init__(self) -> None:
        self.ca = Holder("plant", is_ca=True)
        self.server = Holder("agent", self.ca, usage=SERVER)
        self.good = Holder("camera", self.ca, usage=CLIENT)
        leaf = Holder("leaf", self.ca)
        leaf.is_between = True
        limited = Holder("limited", self.ca, usage=CLIENT)
        limited.is_between = True
        stranger = Holder("plant", is_ca=True)  # of the same name
        late = Holder("late", self.ca, is_ca=True, ends=NOW - datetime.timedelta(hours=1))
        late.is_between = True
        self.wrong: Dict[str, Holder] = {
            "of another authority of the same name": Holder("camera", stranger, usage=CLIENT),
            "of its own making": Holder("camera"),
            "of its own making, an authority": Holder("plant", is_ca=True),
            "signed by another key": Holder(
                "camera", self.ca, usage=CLIENT, signed_by=stranger.key
            ),
            "expired": Holder("camera", self.ca, ends=NOW - datetime.timedelta(minutes=5)),
            "not yet valid": Holder("camera", self.ca, starts=NOW + datetime.timedelta(hours=1)),
            "for servers only": Holder("camera", self.ca, usage=SERVER),
            "for signing code only": Holder(
                "camera", self.ca, usage=ExtendedKeyUsageOID.CODE_SIGNING
            ),
            "issued by a leaf": Holder("camera", leaf, usage=CLIENT),
            "issued by a client": Holder("camera", limited, usage=CLIENT),
            "issued by an authority that expired": Holder("camera", late, usage=CLIENT),
        }


@pytest.fixture(scope="module")
def plant() -> Plant:
    return Plant()


def files(folder: Path, plant: Plant) -> Dict[str, Path]:
    found = {
        "tls_certificate": folder / "server.pem",
        "tls_key": folder / "server.key",
        "tls_client_ca": folder / "ca.pem",
    }
    found["tls_certificate"].write_bytes(plant.server.pem)
    found["tls_key"].write_bytes(plant.server.key_pem)
    found["tls_client_ca"].write_bytes(plant.ca.pem)
    return found


class Served(Agent):
    """An agent on TCP that asks for certificates; `port` is its own."""

    def __init__(self, folder: Path, plant: Plant) -> None:
        self.port = free_port()
        self.files = files(folder, plant)
        settings = [f"server.{name}={path}" for name, path in self.files.items()]
        settings += [f"server.tcp=localhost:{self.port}", "engine.threads=1"]
        super().__init__(folder, *(word for value in settings for word in ("--set", value)))

    def ask(
        self, roots: bytes, client: Optional[Holder], name: str = "localhost", within_s: float = 10
    ) -> grpc.StatusCode:
        """How a call ends that shows the certificate of `client`, and calls the agent `name`."""
        pair = (client.key_pem, client.chain) if client else (None, None)
        named = [("grpc.ssl_target_name_override", name), ("grpc.enable_retries", 0)]
        credentials = grpc.ssl_channel_credentials(roots, *pair)
        with grpc.secure_channel(f"localhost:{self.port}", credentials, named) as channel:
            return Caller(channel).detect_later("cls", plain(255), timeout=within_s).code()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, plant: Plant) -> Iterator[Served]:
    agent = Served(tmp_path_factory.mktemp("tls"), plant)
    micro.write(agent.models / "cls", "classification")
    with agent:
        agent.run("cls")
        while agent.ask(plant.ca.pem, plant.good) is not grpc.StatusCode.OK:
            assert "FAILED" not in agent.log()
        yield agent
        assert agent.stop() == 0


KINDS = sorted(Plant().wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_certificate_is_refused_and_the_right_one_works_after_it(
    served: Served, plant: Plant, kind: str
) -> None:
    assert served.ask(plant.ca.pem, plant.wrong[kind]) is grpc.StatusCode.UNAVAILABLE
    assert served.ask(plant.ca.pem, plant.good) is grpc.StatusCode.OK


def test_a_certificate_without_its_key_is_of_no_use(served: Served, plant: Plant) -> None:
    """The certificate is public; who copies it has nothing."""
    thief = Holder("camera", plant.ca, usage=CLIENT)
    thief.key = ec.generate_private_key(ec.SECP256R1())
    with contextlib.suppress(ValueError):  # gRPC's client may refuse the pair itself
        assert served.ask(plant.ca.pem, thief) is not grpc.StatusCode.OK


@pytest.mark.parametrize("name", ["agent", "elsewhere.example", "127.0.0.1", "localhost.example"])
def test_a_client_finds_out_that_the_agent_is_another(
    served: Served, plant: Plant, name: str
) -> None:
    assert served.ask(plant.ca.pem, plant.good, name) is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_trusts_another_authority_doesnt_talk(served: Served, plant: Plant) -> None:
    stranger = Holder("plant", is_ca=True)
    assert served.ask(stranger.pem, plant.good) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(
    served: Served, plant: Plant, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A right certificate doesn't help; without the limit on the version it would pass."""
    (tmp_path / "client.pem").write_bytes(plant.good.key_pem + plant.good.pem)

    def shake_hands(most: ssl.TLSVersion) -> Optional[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_verify_locations(cadata=plant.ca.pem.decode())
        context.load_cert_chain(tmp_path / "client.pem")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = most
        raw = socket.create_connection(("127.0.0.1", served.port), 10.0)
        with raw, context.wrap_socket(raw, server_hostname="localhost") as connection:
            return connection.version()

    assert shake_hands(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, for old versions
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake_hands(version)


@pytest.mark.parametrize("content", [b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_what_is_no_tls_is_let_go_and_others_are_served(
    served: Served, plant: Plant, content: bytes
) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(50):
            raw = socket.create_connection(("127.0.0.1", served.port), 10.0)
            opened.enter_context(raw)
            raw.sendall(content)
        assert served.ask(plant.ca.pem, plant.good) is grpc.StatusCode.OK


def test_a_renewed_authority_holds_from_the_next_start(tmp_path: Path, plant: Plant) -> None:
    """With both in the file neither camera stops; with the new one alone the old ones are out."""
    renewed = Holder("plant", is_ca=True)
    changed = Holder("camera", renewed, usage=CLIENT)
    agent = Served(tmp_path, plant)
    micro.write(agent.models / "cls", "classification")
    outcomes = []
    for trusted in (plant.ca.pem, plant.ca.pem + renewed.pem, renewed.pem):
        agent.files["tls_client_ca"].write_bytes(trusted)
        with agent:
            agent.run("cls")
            with agent.client() as client:
                client.models()
            outcomes.append(
                [
                    agent.ask(plant.ca.pem, holder) is not grpc.StatusCode.UNAVAILABLE
                    for holder in (plant.good, changed)
                ]
            )
    assert outcomes == [[True, False], [True, True], [False, True]]
