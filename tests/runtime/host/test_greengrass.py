from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import Future
from queue import Queue
from typing import Callable, Dict, List, Tuple

import pytest
from awsiot.greengrasscoreipc import connect, model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from edge_agent.runtime.host import reconnection
from edge_agent.runtime.host.greengrass import Greengrass, available
from edge_agent.runtime.host.nucleus import (
    ERRORS,
    MOST_PAYLOAD_BYTES,
    PUBLISH,
    NotAccepted,
    NotAuthorized,
    NucleusBusy,
    NucleusLost,
    translate,
)
from tests.fakes.fake_nucleus import LITE_FRAME_BYTES, FakeNucleus, Published
from tests.runtime.host.component import Lost, component
from tests.runtime.results.outboxes import wait_until

WITHIN_S = 60.0
FULL = b"x" * MOST_PAYLOAD_BYTES


def error_of(future: Future[None]) -> BaseException:
    error = future.exception(WITHIN_S)
    assert error is not None
    return error


def test_a_nucleus_is_there_when_it_names_its_socket() -> None:
    assert available({"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/greengrass/ipc"})
    assert not available({"SVCUID": "left over"})


def test_a_message_goes_to_aws_iot_core_as_it_is(nucleus: FakeNucleus, lost: Lost) -> None:
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        greengrass.publish("a/b", b'{"score": 0.5}', qos=1).result(WITHIN_S)
        greengrass.publish("a/c", b"\x00\xff", qos=0).result(WITHIN_S)
    expected = [Published("a/b", b'{"score": 0.5}', 1), Published("a/c", b"\x00\xff", 0)]
    assert nucleus.published == expected
    assert not lost.reasons


def test_another_component_hears_a_local_message(nucleus: FakeNucleus, lost: Lost) -> None:
    heard: Queue[Tuple[str, bytes]] = Queue()

    def hear(event: model.SubscriptionResponseMessage) -> None:
        heard.put((event.binary_message.context.topic, event.binary_message.message))

    with component(nucleus.environment, lost) as greengrass:
        client = connect(ipc_socket=str(nucleus.path), authtoken=nucleus.token)
        other = GreengrassCoreIPCClientV2(client)
        try:
            _response, operation = other.subscribe_to_topic(topic="cell/1", on_stream_event=hear)
            greengrass.connect().result(WITHIN_S)
            greengrass.publish_locally("cell/1", FULL).result(WITHIN_S)
            assert heard.get(timeout=WITHIN_S) == ("cell/1", FULL)
            operation.close().result(WITHIN_S)
        finally:
            other.close().result(WITHIN_S)
            del other, client, operation
            gc.collect()  # awsiot's own client hangs in cycles, and its thread with it


def test_the_nucleus_is_told_the_state(nucleus: FakeNucleus, lost: Lost) -> None:
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        greengrass.update_state("RUNNING").result(WITHIN_S)
        greengrass.update_state("ERRORED").result(WITHIN_S)
    assert nucleus.states == ["RUNNING", "ERRORED"]


def test_there_is_one_connection_however_often_it_is_asked_for(
    nucleus: FakeNucleus, lost: Lost
) -> None:
    with component(nucleus.environment, lost) as greengrass:
        assert greengrass.connect() is greengrass.connect()
        greengrass.connect().result(WITHIN_S)
        assert nucleus.connections() == 1


def test_a_wrong_token_is_told_once_and_not_shown(
    nucleus: FakeNucleus, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "REFUSED_FOR_S", 0.0)
    monkeypatch.setattr(reconnection, "LEAST_RUN_S", 0.0)
    with component({**nucleus.environment, "SVCUID": "secret-token"}, lost) as greengrass:
        error = error_of(greengrass.connect())
        assert isinstance(error, NucleusLost)
        assert lost.told.wait(WITHIN_S)
        assert "secret-token" not in repr(greengrass)
    assert lost.reasons == [str(error)]
    assert "SVCUID" in str(error)
    assert "secret-token" not in str(error)


@pytest.mark.parametrize("path", ["/nowhere/ipc", f"/{'x' * 200}"])
def test_a_missing_nucleus_is_told_and_waited_for(
    path: str, lost: Lost, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "LONGEST_RETRY_S", 0.01)
    with component({"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": path}, lost) as one:
        assert isinstance(error_of(one.connect()), NucleusLost)
        first = one.connect()
        wait_until(lambda: one.connect() is not first)
        assert path in one.problem
    assert not lost.reasons
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_nucleus_that_says_nothing_is_waited_for_with_a_limit(
    lite: FakeNucleus, lost: Lost
) -> None:
    lite.silent = True
    with component(lite.environment, lost, connect_within_s=0.1) as greengrass:
        assert isinstance(error_of(greengrass.connect()), NucleusLost)
        assert "within 0.1 s" in greengrass.problem
        lite.silent = False
        wait_until(lambda: greengrass.connect().exception(WITHIN_S) is None)
    assert not lost.reasons


def test_nothing_waits_for_a_lost_connection(nucleus: FakeNucleus, lost: Lost) -> None:
    ended = threading.Event()
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        greengrass.subscribe("a/+", lambda _topic, _payload: None, ended.set).result(WITHIN_S)
        nucleus.answering = False
        waiting = greengrass.publish("a", b"", qos=1)
        nucleus.until(lambda: bool(nucleus.published))
        nucleus.drop()
        assert isinstance(error_of(waiting), NucleusLost)
        assert ended.wait(WITHIN_S)
        wait_until(lambda: "refuses this component" in greengrass.problem)
        assert isinstance(error_of(greengrass.publish("a", b"", qos=1)), NucleusLost)
        assert isinstance(error_of(greengrass.publish_locally("a", b"")), NucleusLost)


def test_nothing_passes_before_the_connection_is_made(lite: FakeNucleus, lost: Lost) -> None:
    with component(lite.environment, lost) as greengrass:
        assert isinstance(error_of(greengrass.publish("a", b"", qos=1)), NucleusLost)
    assert not lost.reasons


def test_closing_isnt_a_loss(lite: FakeNucleus, lost: Lost) -> None:
    lite.silent = True
    with component(lite.environment, lost) as greengrass:
        connecting = greengrass.connect()
    assert isinstance(error_of(connecting), NucleusLost)
    assert isinstance(error_of(greengrass.connect()), NucleusLost)
    assert not lost.reasons


@pytest.mark.parametrize("topic", ["t" * 256, "ü" * 128, "\\" * 256])
def test_the_largest_message_fits_a_frame_and_a_larger_one_isnt_sent(
    topic: str, nucleus: FakeNucleus, lost: Lost
) -> None:
    most = 6696 if topic[0] == "ü" else 6888 if topic[0] == "\\" else MOST_PAYLOAD_BYTES
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        publishers: List[Callable[[bytes], Future[None]]] = [
            lambda payload: greengrass.publish(topic, payload, qos=1),
            lambda payload: greengrass.publish_locally(topic, payload),
        ]
        for publish in publishers:
            publish(b"x" * most).result(WITHIN_S)
            error = error_of(publish(b"x" * (most + 1)))
            assert isinstance(error, NotAccepted)
            assert str(most) in str(error)
        assert nucleus.connections() == 1
    assert LITE_FRAME_BYTES - 200 < nucleus.largest_frame <= LITE_FRAME_BYTES
    assert not lost.reasons


@pytest.mark.parametrize("topic", ["t" * 257, "ü" * 129, "/".join("abcdefghi")])
def test_a_topic_aws_iot_core_would_refuse_isnt_sent(
    topic: str, lite: FakeNucleus, lost: Lost
) -> None:
    with component(lite.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        assert isinstance(error_of(greengrass.publish(topic, b"", qos=1)), NotAccepted)
        greengrass.publish("$aws/rules/mine/" + "/".join("abcdefgh"), b"", 1).result(WITHIN_S)
    assert len(lite.published) == 1


def test_a_missing_policy_is_named(nucleus: FakeNucleus, lost: Lost) -> None:
    nucleus.permitted = {"ours"}
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        calls: Dict[str, Future[None]] = {
            "PublishToIoTCore": greengrass.publish("theirs", b"", qos=1),
            "SubscribeToIoTCore": greengrass.subscribe("theirs", print, print),
            "PublishToTopic": greengrass.publish_locally("theirs", b""),
        }
        for operation, call in calls.items():
            error = error_of(call)
            assert isinstance(error, NotAuthorized)
            service = "pubsub" if operation == "PublishToTopic" else "mqttproxy"
            for part in (
                "'theirs'",
                f"aws.greengrass#{operation}",
                f"aws.greengrass.ipc.{service}",
            ):
                assert part in str(error)
        greengrass.publish("ours", b"", qos=1).result(WITHIN_S)
    assert [message.topic for message in nucleus.published] == ["ours"]


def test_what_the_nucleus_calls_invalid_isnt_accepted(classic: FakeNucleus, lost: Lost) -> None:
    with component(classic.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        assert isinstance(error_of(greengrass.publish_locally("a/+", b"")), NotAccepted)


def test_lite_takes_nothing_while_it_is_offline(lite: FakeNucleus, lost: Lost) -> None:
    with component(lite.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        lite.online = False
        for qos in (0, 1):
            assert isinstance(error_of(greengrass.publish("a", b"1", qos)), NucleusBusy)
        assert isinstance(error_of(greengrass.subscribe("a/+", print, print)), NucleusBusy)
        greengrass.publish_locally("a", b"2").result(WITHIN_S)
        lite.online = True
        greengrass.publish("a", b"3", qos=1).result(WITHIN_S)
    assert lite.published == [Published("a", b"3", 1)]
    assert lite.published_locally == [Published("a", b"2")]


def test_classic_spools_qos_1_while_it_is_offline(classic: FakeNucleus, lost: Lost) -> None:
    with component(classic.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        classic.online = False
        greengrass.publish("a", b"1", qos=1).result(WITHIN_S)
        assert isinstance(error_of(greengrass.publish("a", b"2", qos=0)), NucleusBusy)
    assert classic.published == [Published("a", b"1", 1)]


@pytest.mark.parametrize(("payload", "most"), [(b"small", 10), (FULL, 2)])
def test_lite_is_busy_while_much_is_unacknowledged(
    payload: bytes, most: int, lite: FakeNucleus, lost: Lost
) -> None:
    with component(lite.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        lite.acknowledging = False
        for _ in range(most):
            greengrass.publish("a", payload, qos=1).result(WITHIN_S)
        error = error_of(greengrass.publish("a", payload, qos=1))
        assert isinstance(error, NucleusBusy)
        assert "offline or busy" in str(error)
        lite.acknowledging = True
        greengrass.publish("a", payload, qos=1).result(WITHIN_S)
    assert len(lite.published) == most + 1


def test_messages_of_aws_iot_core_come_but_large_ones_not_on_lite(
    nucleus: FakeNucleus, lost: Lost
) -> None:
    heard: Queue[Tuple[str, bytes]] = Queue()
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        subscribed = greengrass.subscribe("a/+", lambda *message: heard.put(message), print)
        subscribed.result(WITHIN_S)
        nucleus.deliver("a/b/c", b"not ours")
        nucleus.deliver("a/large", b"x" * 5000)
        nucleus.deliver("a/b", b"")
        if nucleus.kind == "classic":
            assert heard.get(timeout=WITHIN_S) == ("a/large", b"x" * 5000)
        assert heard.get(timeout=WITHIN_S) == ("a/b", b"")


def test_the_end_of_a_subscription_is_told(nucleus: FakeNucleus, lost: Lost) -> None:
    ended = threading.Event()
    with component(nucleus.environment, lost) as greengrass:
        greengrass.connect().result(WITHIN_S)
        greengrass.subscribe("a/+", lambda _topic, _payload: None, ended.set).result(WITHIN_S)
        nucleus.end_subscriptions()
        assert ended.wait(WITHIN_S)
        greengrass.publish("a", b"", qos=1).result(WITHIN_S)
    assert not lost.reasons


def test_what_isnt_connected_closes_as_well(lost: Lost) -> None:
    with component({"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/x"}, lost) as one:
        assert isinstance(one, Greengrass)
    assert not lost.reasons


@pytest.mark.parametrize("name", ERRORS)
def test_the_errors_told_apart_are_errors_of_the_client(name: str) -> None:
    error = getattr(model, name)()
    assert type(translate(error, PUBLISH, "a")) is ERRORS[name][0]
    assert "'a'" in str(translate(error, PUBLISH, "a"))


def test_the_client_library_is_loaded_only_to_connect() -> None:
    program = (
        "import sys, edge_agent.runtime.results.greengrass; "
        "sys.exit(any(name.startswith(('awsiot', 'awscrt')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
