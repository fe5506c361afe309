"""A trial of the broker with the client that the agent uses, and its options.

It connects under a name of its own, so that it doesn't end the connection of a running agent.
"""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from contextlib import suppress
from typing import NamedTuple

from edge_agent.config import MqttSettings
from edge_agent.runtime.results.broker import failures, probe
from edge_agent.runtime.results.broker.options import client_options
from edge_agent.runtime.results.broker.sdk import ConnectionFailure, MqttClient, Sdk, load_sdk

WITHIN_S = 20.0  # for the connection; the client itself gives up a handshake after 10 s
STOPPED_WITHIN_S = 2.0


class Outcome(NamedTuple):
    """`problem`: why the agent can't connect, a sentence; `remark`: what wasn't found out."""

    problem: str = ""
    remark: str = ""


def connect(settings: MqttSettings, client_id: str) -> Outcome:
    """Try the connection of a client called `client_id`; takes up to 30 s.

    Raises InvalidConfiguration without the AWS IoT SDK.
    """
    sdk = load_sdk()
    problem = probe.diagnose(settings)  # says more than the client does
    if problem:
        return Outcome(problem)
    try:
        return _attempt(sdk, settings, client_id)
    except Exception as error:
        return Outcome(probe.key_remark(settings) or failures.settings_error(error))


def _attempt(sdk: Sdk, settings: MqttSettings, client_id: str) -> Outcome:
    outcome: Future[Outcome] = Future()
    stopped: Future[None] = Future()

    def failed(data: ConnectionFailure) -> None:
        if not outcome.done():
            outcome.set_result(_failure(data, settings, client_id))

    without_traces = settings.model_copy(update={"session_expiry_s": 0})
    options = client_options(sdk, without_traces, _name(client_id), None)
    options.on_lifecycle_event_connection_success_fn = lambda _: outcome.set_result(Outcome())
    options.on_lifecycle_event_connection_failure_fn = failed
    options.on_lifecycle_event_stopped_fn = lambda _: stopped.set_result(None)
    client: MqttClient = sdk.mqtt5.Client(options)
    client.start()
    try:
        return outcome.result(WITHIN_S)
    except NotDone:
        return Outcome(f"No answer from {probe.address(settings)} within {WITHIN_S:.0f} s.")
    finally:
        client.stop()
        with suppress(NotDone):
            stopped.result(STOPPED_WITHIN_S)


def _failure(data: ConnectionFailure, settings: MqttSettings, client_id: str) -> Outcome:
    where = probe.address(settings)
    if failures.is_about_the_name(data.connack_packet):
        remark = (
            f"the broker refuses the client id {_name(client_id)!r} of this check, so that it "
            f"isn't known whether it accepts the agent's, {client_id!r}"
        )
        return Outcome(remark=remark)
    return Outcome(failures.connect_error(where, data.exception, data.connack_packet))


def _name(client_id: str) -> str:
    return f"{client_id}-doctor"
