"""What goes wrong between the MQTT sink and a broker, and the sentence for it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Tuple, Type

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.broker import connection, probe, trial
from edge_agent.runtime.results.mqtt import MqttSink
from edge_agent.runtime.results.sink import MessageRefused, MessageRejected, SinkUnavailable
from tests.fakes import certificates
from tests.fakes.broker import Broker, FakeBroker, free_port
from tests.runtime.results.mqtt_sinks import (
    STATE,
    THING,
    Running,
    message,
    needs_mosquitto,
    running,
    settings,
)
from tests.runtime.results.outboxes import wait_until

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.every(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def broker(tmp_path: Path, keys: Path) -> Iterator[Broker]:
    with Broker(tmp_path, keys) as started:
        yield started


# The connection comes and goes


def test_after_a_broker_that_was_killed_is_back_messages_pass_again(
    broker: Broker, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with running(settings(broker.port, keys)) as started:
        broker.kill()
        assert f"localhost:{broker.port}" in started.await_problem("refused")
        with pytest.raises(SinkUnavailable, match="Nothing listens"):
            started.sink.send(message(1))
        broker.start()
        started.wait_until_ready()
        assert started.sink.problem == ""
        with broker.listener("edge-agent/+/caps/+") as listener:
            started.sink.send(message(2)).result(60)
            assert json.loads(listener.next().payload)["number"] == 2
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count(f"Connected to the MQTT broker localhost:{broker.port}.") == 2
    assert len([line for line in lines if "Nothing listens" in line]) == 1


def test_messages_on_their_way_when_the_broker_dies_fail(broker: Broker, keys: Path) -> None:
    with running(settings(broker.port, keys)) as started:
        broker.freeze()
        sent = [started.sink.send(message(number)) for number in range(3)]
        broker.kill()
        for future in sent:
            with pytest.raises(SinkUnavailable, match="lost before the message arrived"):
                future.result(20)


def test_a_message_that_is_never_acknowledged_fails_and_a_reset_connects_anew() -> None:
    given = {"ack_within_s": 1.0}
    with FakeBroker(puback=None) as fake, running(settings(fake.port, **given)) as started:
        with pytest.raises(SinkUnavailable, match="doesn't acknowledge"):
            started.sink.send(message()).result(60)
        assert len(fake.connects) == 1
        started.sink.reset()
        started.wait_until_ready()
        assert len(fake.connects) == 2


def test_a_reset_fails_what_was_on_its_way_and_the_state_is_online_after_it(
    broker: Broker, keys: Path
) -> None:
    with running(settings(broker.port, keys)) as started:
        broker.freeze()
        sent = started.sink.send(message(1))
        started.sink.reset()
        with pytest.raises(SinkUnavailable, match="lost before the message arrived"):
            sent.result(20)
        broker.thaw()
        started.wait_until_ready()
        started.sink.send(message()).result(60)
        with broker.listener(STATE) as listener:
            assert json.loads(listener.next().payload)["state"] == "online"


def test_a_connection_that_is_lost_again_and_again_is_not_made_in_a_hurry() -> None:
    with FakeBroker(disconnect=0x8E) as fake, running(settings(fake.port)):
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            time.sleep(0.1)
        assert 2 <= len(fake.connects) <= 5  # after 0.5-1 s, 1-2 s, 2-4 s


@pytest.mark.parametrize("connected", [True, False])
def test_stop_is_bounded_when_the_broker_hangs(broker: Broker, keys: Path, connected: bool) -> None:
    if not connected:
        broker.freeze()
    with running(settings(broker.port, keys), connected=connected) as started:
        broker.freeze()
        begin = time.monotonic()
        started.sink.stop(2.0)
        assert time.monotonic() - begin < 10.0  # unbounded, it would take 30 s and more
        with pytest.raises(SinkUnavailable):
            started.sink.send(message())


def test_a_process_with_a_failing_handshake_ends_at_once(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys, ca=str(keys / "stranger.pem"))
    child = (
        "import sys; from edge_agent.config import MqttSettings; "
        "from edge_agent.runtime.results.mqtt import MqttSink; import time; "
        "sink = MqttSink(MqttSettings.model_validate_json(sys.argv[1]), 'x'); "
        "sink.start(lambda: None)\n"
        "while 'verified' not in sink.problem: time.sleep(0.05)\n"
        "sink.stop(2.0)"
    )
    text = given.model_dump_json(exclude={"pkcs11_pin"})
    subprocess.run([sys.executable, "-c", child, text], check=True, timeout=15)


# What is wrong, in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": "stranger.pem"}, "must hold the authority that signed the broker's certificate"),
        ({"certificate": "expired.pem", "key": "expired.key"}, "expired.pem has expired"),
        (
            {"certificate": "intruder.pem", "key": "intruder.key"},
            "intruder.pem isn't of an authority that the broker trusts",
        ),
        ({"certificate": None, "key": None}, "client certificate is missing"),
        ({"key": "server.key"}, "doesn't belong to the certificate"),
        ({"key": "none.key"}, "none.key can't be read: No such file"),
        ({"ca": "client.key"}, "isn't a PEM file without a passphrase"),
    ],
)
def test_certificates_that_do_not_fit_are_named(
    broker: Broker, keys: Path, changes: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {name: value and keys / value for name, value in changes.items()}
    with running(settings(broker.port, keys, **given), connected=False) as started:
        sentence = started.await_problem(words)
        with pytest.raises(SinkUnavailable) as caught:
            started.sink.send(message())
        assert str(caught.value) == sentence
        wait_until(lambda: words in caplog.text)  # written a moment after it is told
    assert caplog.text.count(words) == 1


@pytest.fixture(scope="module")
def odd(keys: Path) -> Path:
    """The same certificate and key as people store them, and other kinds of keys."""
    own, key, ca = (keys.joinpath(name).read_bytes() for name in NAMES)
    written = {
        "both.pem": own + key, "both-key-first.pem": key + own, "chain.pem": own + ca,
        "wrong-order.pem": ca + own, "crlf.pem": own.replace(b"\n", b"\r\n"),
        "crlf.key": key.replace(b"\n", b"\r\n"), "bom.pem": b"\xef\xbb\xbf" + own,
        "remarks.key": b"Bag Attributes\n  friendlyName: press\n" + key.rstrip(), "empty.pem": b"",
        "utf16.pem": own.decode().encode("utf-16"),
    }  # fmt: skip
    for name, content in written.items():
        (keys / name).write_bytes(content)
    certificates.openssl(keys, "x509", "-in", "client.pem", "-outform", "DER", "-out", "own.der")
    certificates.openssl(keys, "ec", "-in", "client.key", "-out", "sec1.key")
    secret = ("-topk8", "-in", "client.key", "-passout", "pass:1234")
    certificates.openssl(keys, "pkcs8", *secret, "-out", "encrypted.key")
    for kind in ("ed25519", "rsa:2048"):
        name = kind[:3]
        request = ("-newkey", kind, "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key")
        certificates.openssl(keys, "req", *request, "-out", "odd.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "9", "-days", "1")
        certificates.openssl(keys, "x509", "-req", "-in", "odd.csr", *signed, "-out", f"{name}.pem")
    certificates.openssl(keys, "rsa", "-in", "rsa.key", "-traditional", "-out", "pkcs1.key")
    return keys


NAMES = ("client.pem", "client.key", "ca.pem")


@pytest.mark.parametrize(
    "files",
    [
        ("both.pem", "both.pem"), ("both-key-first.pem", "both-key-first.pem"),
        ("chain.pem", "both.pem"), ("crlf.pem", "crlf.key"), ("bom.pem", "remarks.key"),
        ("client.pem", "sec1.key"), ("rsa.pem", "pkcs1.key"), ("rsa.pem", "rsa.key"),
    ],
)  # fmt: skip
def test_certificates_and_keys_are_taken_as_people_store_them(
    broker: Broker, odd: Path, files: Tuple[str, str]
) -> None:
    given = settings(broker.port, odd, certificate=odd / files[0], key=odd / files[1])
    assert trial.connect(given, THING) == trial.Outcome()
    with running(given) as started:
        started.sink.send(message()).result(60)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("ed2.pem", "ed2.key", "ca.pem"), "an Ed25519 key, which the AWS IoT SDK can't use"),
        (("client.pem", "encrypted.key", "ca.pem"), "Remove the passphrase: openssl pkey"),
        (("client.pem", "rsa.key", "ca.pem"), "the key doesn't belong to the certificate"),
        (("wrong-order.pem", "client.key", "ca.pem"), "put the client's own certificate first"),
        (("client.key", "client.pem", "ca.pem"), "it has a key and no certificate"),
        (("client.pem", "client.pem", "ca.pem"), "it has a certificate and no key"),
        (("own.der", "client.key", "ca.pem"), "it is binary (DER or PKCS#12)"),
        (("utf16.pem", "client.key", "ca.pem"), "or text in UTF-16"),
        (("client.pem", "client.key", "empty.pem"), "results.mqtt.ca: "),
    ],
)
def test_files_that_cannot_be_used_are_told_alike_by_the_agent_and_the_trial(
    broker: Broker, odd: Path, files: Tuple[str, str, str], words: str
) -> None:
    paths = dict(zip(("certificate", "key", "ca"), (odd / file for file in files)))
    given = settings(broker.port, odd, **paths)
    assert words in trial.connect(given, THING).problem
    with running(given, connected=False) as started:
        started.await_problem(words)


def test_a_trial_ends_no_connection_of_the_agent_and_leaves_nothing(
    broker: Broker, keys: Path
) -> None:
    given = settings(broker.port, keys)
    with running(given) as started:
        assert trial.connect(given, THING) == trial.Outcome()
        started.sink.send(message()).result(60)
        assert started.sink.problem == ""
    assert "already connected" not in broker.log()


def test_a_trial_whose_name_is_refused_says_what_it_did_not_find_out() -> None:
    with FakeBroker(connack=0x87) as fake:
        outcome = trial.connect(settings(fake.port), THING)
    assert outcome.problem == ""
    assert "refuses the client id 'press-7-doctor' of this check" in outcome.remark


def test_a_clock_that_cannot_be_right_is_named_in_place_of_the_certificate(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's clock is 1970; OpenSSL reads it itself, hence an expired certificate here."""
    certificates.certificate(keys, "ca", "server-expired", days=-1)
    monkeypatch.setattr(probe.time, "time", lambda: 86_400.0)
    with Broker(tmp_path, keys, name="server-expired") as late:
        problem = probe.diagnose(settings(late.port, keys))
    assert "The clock of this device is wrong: it shows 1970-01-02 00:00 UTC." in problem


def test_the_probe_trusts_what_the_client_trusts(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys, ca=keys / "server.pem")  # not the authority, itself
    with running(given):
        assert probe.diagnose(given) == ""


def test_a_certificate_for_another_host_is_named(tmp_path: Path, keys: Path) -> None:
    with Broker(tmp_path, keys, name="elsewhere") as broker:
        given = settings(broker.port, keys)
        with running(given, connected=False) as started:
            started.await_problem(f"certificate of localhost:{broker.port} is for another host")


def test_a_broker_without_tls_is_named(tmp_path: Path, keys: Path) -> None:
    with Broker(tmp_path) as plain, running(settings(plain.port, keys), connected=False) as started:
        started.await_problem("closes the connection at once. Does it speak TLS on this port?")


def test_a_certificate_that_the_broker_does_not_ask_for_is_named_and_needless(
    tmp_path: Path, keys: Path
) -> None:
    with Broker(tmp_path, keys, asks=False) as broker:
        with running(settings(broker.port, keys), connected=False) as started:
            started.await_problem("Does the broker ask for client certificates? If not, set none.")
        with running(settings(broker.port, keys, certificate=None, key=None)) as started:
            started.sink.send(message()).result(60)


def test_a_web_server_is_named_as_not_speaking_tls(keys: Path) -> None:
    code = "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), s.SimpleHTTPRequestHandler)"
    code += "; print(h.server_port, flush=True); h.serve_forever()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with running(settings(port, keys), connected=False) as started:
                started.await_problem("answers, but not with TLS")
        finally:
            server.kill()


def test_a_renewed_certificate_is_used_without_a_restart(
    broker: Broker, keys: Path, tmp_path: Path
) -> None:
    mine = {
        name: tmp_path / f"mine.{end}" for name, end in (("certificate", "pem"), ("key", "key"))
    }
    for path in mine.values():
        shutil.copy(keys / f"expired{path.suffix}", path)
    with running(settings(broker.port, keys, **mine), connected=False) as started:
        started.await_problem("has expired")
        for path in mine.values():
            shutil.copy(keys / f"client{path.suffix}", path)
        started.wait_until_ready()


def test_a_port_nobody_listens_on_is_named(keys: Path) -> None:
    port = free_port()
    with running(settings(port, keys), connected=False) as started:
        started.await_problem(f"Nothing listens on localhost:{port}")


@pytest.mark.parametrize("endpoint", ["broker.invalid", "a..b"])
def test_a_name_that_cannot_be_resolved_is_named(keys: Path, endpoint: str) -> None:
    with running(settings(8883, keys, endpoint=endpoint), connected=False) as started:
        started.await_problem(f"{endpoint!r}, can't be resolved")


# Fakes: they answer as a broker would, or not at all


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x85, "client identifier not valid. Check results.mqtt.client_id"),
        (0x87, "not authorized. The broker's policy must let this client connect"),
        (0x88, "server unavailable"),
        (0x8F, "unknown"),
    ],
)
def test_a_refused_connection_says_why_once_and_is_not_tried_in_a_hurry(
    code: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeBroker(connack=code) as fake:
        with running(settings(fake.port), connected=False) as started:
            begin = time.monotonic()
            started.await_problem(words)
            while time.monotonic() - begin < 4.0:
                time.sleep(0.1)
        assert caplog.text.count(words) == 1
        assert 2 <= len(fake.connects) <= 3  # at once, after 1-2 s, after 2-4 s more
        assert fake.accepted <= len(fake.connects) + 1  # and a diagnosis


def test_a_listener_that_never_answers_mqtt_is_named() -> None:
    with FakeBroker(connack=None) as fake:
        with running(settings(fake.port), connected=False) as started:
            started.await_problem("accepts connections but doesn't answer MQTT's CONNECT")
        assert len(fake.connects) <= 2


def test_a_listener_that_never_answers_tls_is_named(keys: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with running(settings(port, keys), connected=False) as started:
            started.await_problem(f"localhost:{port} accepts connections but doesn't answer")


def test_a_second_client_with_the_same_id_is_told_of() -> None:
    with FakeBroker(disconnect=0x8E) as fake, running(settings(fake.port)) as started:
        started.await_problem("Another client connected with the same client id")


def test_two_agents_of_one_name_say_so_once_and_slow_down(
    broker: Broker, keys: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RETRY_S", (0.05, 0.4))
    monkeypatch.setattr(connection, "STEADY_S", 0.0)  # as connections that last for a minute
    caplog.set_level(logging.INFO)
    given = settings(broker.port, keys)
    with running(given) as one, running(given) as other:
        wait_until(lambda: broker.log().count("already connected, closing old connection") >= 20)
        delays = [each.sink._connection._delay_s for each in (one, other)]
        assert delays == [0.4, 0.4]
        one.await_problem(f"another client connects as '{THING}'")
        one.wait_until_ready()
        assert "another client connects as" in one.sink.problem  # said while it is connected, too
        monkeypatch.setattr(connection, "ALONE_S", 0.1)
        other.sink.stop(5.0)
        with broker.listener(f"edge-agent/{THING}/caps/result") as listener:
            wait_until(lambda: _passes(one))
            assert listener.next().topic
        wait_until(lambda: one.sink.problem == "")
    assert caplog.text.count("another client connects as") == 2  # once for each
    assert caplog.text.count("Connected to the MQTT broker") <= 2 * connection.HANGUPS
    assert caplog.text.count("No other client connects to") == 1


def _passes(started: Running) -> bool:
    try:
        started.sink.send(message()).result(60)
    except SinkUnavailable:
        return False
    return True


# Messages the broker doesn't take


def test_a_topic_that_the_broker_does_not_permit_refuses_its_messages_and_no_others(
    tmp_path: Path, keys: Path
) -> None:
    acl = f"user client\ntopic write edge-agent/{THING}/lids/#\ntopic write {STATE}\n"
    with Broker(tmp_path, keys, acl=acl) as broker, running(settings(broker.port, keys)) as started:
        refused = started.sink.send(message(1, model="caps"))
        started.sink.send(message(2, model="lids")).result(60)
        with pytest.raises(MessageRefused, match=f"'edge-agent/{THING}/caps/result'.*not authoriz"):
            refused.result(20)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x10, None),
        (0x80, SinkUnavailable),
        (0x83, SinkUnavailable),
        (0x87, MessageRefused),
        (0x90, MessageRejected),
        (0x91, SinkUnavailable),
        (0x97, SinkUnavailable),
        (0x99, MessageRejected),
        (0xEE, SinkUnavailable),
    ],
)
def test_each_reason_of_an_acknowledgement_has_its_meaning(
    code: int, kind: Type[Exception]
) -> None:
    with FakeBroker(puback=code) as fake, running(settings(fake.port)) as started:
        outcome = started.sink.send(message()).exception(20)
        assert type(outcome) is kind or outcome is kind


def test_a_message_larger_than_the_broker_takes_is_rejected() -> None:
    with FakeBroker(largest=1000) as fake, running(settings(fake.port)) as started:
        with pytest.raises(MessageRejected, match="too large for the broker"):
            started.sink.send(message(size=1000)).result(60)
        started.sink.send(message(size=10)).result(60)


def test_a_topic_with_a_wildcard_is_rejected(broker: Broker, keys: Path) -> None:
    with running(settings(broker.port, keys)) as started:
        with pytest.raises(MessageRejected, match="isn't valid"):
            started.sink.send(message(model="#")).result(60)
        started.sink.send(message()).result(60)


def test_a_broker_that_closes_the_connection_for_a_publish_says_so() -> None:
    with FakeBroker(disconnect=0x87) as fake, running(settings(fake.port)) as started:
        started.await_problem("closed the connection: not authorized. The broker's policy")


# Settings that can't work


def test_plain_mqtt_to_another_machine_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="without TLS is only for a broker on localhost"):
        MqttSink(settings(1883, endpoint="broker.example.com"), THING)


def test_without_the_sdk_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "awscrt").mkdir()
    (tmp_path / "awscrt" / "__init__.py").write_text("raise ImportError('not here')")
    child = (
        "from edge_agent.config import MqttSettings\n"
        "from edge_agent.runtime.results.mqtt import MqttSink\n"
        "try: MqttSink(MqttSettings(endpoint='localhost'), 'x')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    found = subprocess.run(
        [sys.executable, "-c", child], env=environment, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == (
        "InvalidConfiguration results.mqtt needs the AWS IoT SDK: pip install awsiotsdk"
    )
