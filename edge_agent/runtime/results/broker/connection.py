"""The life of one MQTT connection: made, lost, made again, and why it can't be made.

The SDK's client tries until it is connected, every 1 to 60 s. After a lost connection a new client
is made, since the old one would send again what wasn't acknowledged. A thread of our own diagnoses
what is wrong while there is no connection.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import Future
from typing import Callable, List, Optional, Set, Tuple, TypeVar

from edge_agent.config import MqttSettings
from edge_agent.runtime.results.broker import failures, probe
from edge_agent.runtime.results.broker.options import RETRY_S, client_options
from edge_agent.runtime.results.broker.sdk import (
    ConnectionFailure,
    Disconnection,
    MqttClient,
    PublishCompletion,
    PublishPacket,
    PublishReceived,
    Sdk,
    SubackPacket,
)
from edge_agent.runtime.results.sink import SinkUnavailable

logger = logging.getLogger(__name__)

FIRST_DIAGNOSIS_S, LAST_DIAGNOSIS_S = 2.0, 60.0  # without a connection; twice as long each time
STEADY_S = 30.0  # after a connection that lasted so long the backoff starts again
HANGUPS = 3  # in a row, each soon after the broker took the connection
ALONE_S = 180.0  # a connection that lasted so long: the other client of its name is gone

Data = TypeVar("Data")


class Connection:
    """Keeps a client connected from `start` to `close`.

    `on_connected` and `on_publish` are called on the SDK's thread and must not wait.
    """

    def __init__(
        self,
        sdk: Sdk,
        settings: MqttSettings,
        client_id: str,
        will: PublishPacket,
        on_connected: Callable[[], None],
        on_publish: Callable[[PublishReceived], None],
    ) -> None:
        self._sdk, self._settings = sdk, settings
        self._client_id, self._will = client_id, will
        self._notify_connected, self._notify_publish = on_connected, on_publish
        self.where = probe.address(settings)
        self._client: Optional[MqttClient] = None
        self._generation = 0  # of the client; callbacks of earlier ones are ignored
        self._file_stamps: List[Tuple[str, int]] = []  # of the files it was made with
        self._replacing = threading.Lock()  # guards the three above
        self.connected = False
        self.problem = f"Not connected to {self.where} yet."  # a sentence; "" when connected
        self._logged: Set[str] = set()  # since it was last connected
        self._taken_over = ""  # while another client has the same name, a sentence
        self._lock = threading.Lock()  # guards the four above
        self._since, self._delay_s = 0.0, RETRY_S[0] / 2  # last connected; before a new client
        self._hangups = 0  # in a row
        self._failure = ""  # of the last attempt, in the client's words
        self._locked_out = False  # a token locks after several wrong PINs
        self._reconnect_timer: Optional[threading.Timer] = None  # for the next client
        self._stopping = threading.Event()
        self._changed = threading.Event()  # connected, lost or stopping
        self._closed = threading.Event()  # the client has ended its connection

    def start(self) -> None:
        """Start to connect and return at once."""
        self._open(self._generation)
        threading.Thread(target=self._supervise, name="mqtt", daemon=True).start()

    def publish(self, packet: PublishPacket) -> Future[PublishCompletion]:
        """Hand `packet` to the client. Raises SinkUnavailable, MessageRejected."""
        if not self.connected or self._client is None:
            raise SinkUnavailable(self.problem)
        try:
            return self._client.publish(packet)
        except Exception as error:
            raise failures.publish_error(error, packet.topic, self.where) from None

    def subscribe(self, packet: object) -> Future[SubackPacket]:
        """Hand `packet` to the client; called when connected."""
        assert self._client is not None
        return self._client.subscribe(packet)

    def reset(self, sentence: str) -> None:
        """Drop the connection, for the reason in `sentence`, and connect with a new client."""
        if self.connected:
            self._lose(sentence)
        self._open(self._generation)

    def close(self, within_s: float) -> None:
        """Disconnect for good; the last will isn't published."""
        self._stopping.set()
        self._changed.set()
        if self._reconnect_timer is not None:
            self._reconnect_timer.cancel()
        connected = self.connected
        with self._replacing:
            if self._client is not None:
                # Without a DISCONNECT packet the broker would publish the last will.
                self._client.stop(self._sdk.mqtt5.DisconnectPacket())
        if connected:  # else there is nothing to wait for: a failed handshake lasts up to 30 s
            self._closed.wait(within_s)

    # The client

    def _open(self, generation: int) -> None:
        """Replace the client of `generation`; the supervisor tries again when that fails."""
        with self._replacing:
            if self._stopping.is_set() or self._locked_out or generation != self._generation:
                return
            self._generation += 1
            if self._client is not None:
                self._client.stop()
                self._client = None
            self._file_stamps = probe.stamps(self._settings)
            self._failure = probe.unusable_files(self._settings)
            try:
                if not self._failure:
                    self._client = self._new_client()
                    self._client.start()
            except Exception as error:
                remark = probe.key_remark(self._settings)
                self._failure = remark or failures.settings_error(error)
                self._locked_out = failures.is_wrong_pin(error)
        if self._failure:
            self._log_problem(self._failure)

    def _new_client(self) -> MqttClient:
        options = client_options(self._sdk, self._settings, self._client_id, self._will)
        options.on_publish_callback_fn = self._callback(self._notify_publish)
        options.on_lifecycle_event_connection_success_fn = self._callback(self._on_connected)
        options.on_lifecycle_event_connection_failure_fn = self._callback(self._on_failure)
        options.on_lifecycle_event_disconnection_fn = self._callback(self._on_lost)
        options.on_lifecycle_event_stopped_fn = self._callback(lambda _: self._closed.set())
        client: MqttClient = self._sdk.mqtt5.Client(options)
        return client

    def _callback(self, callback: Callable[[Data], None]) -> Callable[[Data], None]:
        """Run `callback` only while its client is the current one; log its errors."""
        generation = self._generation

        def run(data: Data) -> None:
            if generation == self._generation:
                try:
                    callback(data)
                except Exception:
                    logger.exception("A callback of the MQTT client failed.")

        return run

    def _on_connected(self, _: object) -> None:
        with self._lock:
            self.connected, self.problem = True, self._taken_over
            self._logged = {self._taken_over} - {""}
        self._failure, self._since = "", time.monotonic()
        self._changed.set()
        if not self._taken_over:
            logger.info("Connected to the MQTT broker %s.", self.where)
        if not self._stopping.is_set():
            self._notify_connected()

    def _on_failure(self, data: ConnectionFailure) -> None:
        self._hangups = 0  # it is the broker that comes and goes
        self._failure = failures.connect_error(self.where, data.exception, data.connack_packet)
        if "CONNACK" in failures.name(data.exception):  # a probe can't find more
            self._log_problem(self._failure)

    def _on_lost(self, data: Disconnection) -> None:
        self._lose(
            self._takeover(data)
            or failures.disconnect_error(self.where, data.exception, data.disconnect_packet)
        )
        if not self._stopping.is_set():
            if self._client is not None:
                self._client.stop()  # what is in flight fails now
            self._reconnect_timer = threading.Timer(
                self._next_delay_s(), self._open, [self._generation]
            )
            self._reconnect_timer.daemon = True
            self._reconnect_timer.start()

    def _takeover(self, lost: Disconnection) -> str:
        """Return a sentence when another client of this name ends the connections; "": none does.

        Brokers that give no reason have ended several in a row, and took each again at once.
        """
        is_certain = failures.is_taken_over(lost.disconnect_packet)
        is_soon = time.monotonic() - self._since < ALONE_S
        is_hangup = failures.is_hangup(lost.exception, lost.disconnect_packet)
        self._hangups = self._hangups + 1 if is_hangup and is_soon else 0
        if not (is_certain or self._hangups >= HANGUPS):
            return ""
        with self._lock:
            self._taken_over = failures.taken_over(self.where, self._client_id, is_certain)
        return self._taken_over

    def _next_delay_s(self) -> float:
        steady = time.monotonic() - self._since > (ALONE_S if self._taken_over else STEADY_S)
        self._delay_s = RETRY_S[0] if steady else min(2 * self._delay_s, RETRY_S[1])
        return self._delay_s * random.uniform(0.5, 1.0)

    def _lose(self, sentence: str) -> None:
        if self._stopping.is_set():
            sentence = f"The connection to {self.where} is closed."
        with self._lock:
            self.connected, self.problem = False, sentence
        self._changed.set()
        if not self._stopping.is_set():
            self._log_problem(sentence)

    # Diagnosis

    def _supervise(self) -> None:
        pause_s = FIRST_DIAGNOSIS_S
        while not self._stopping.is_set():
            alone_s = ALONE_S if self._taken_over else None
            if self._changed.wait(alone_s if self.connected else pause_s):
                self._changed.clear()
                pause_s = FIRST_DIAGNOSIS_S
            elif self.connected:
                self._end_takeover()
            else:
                self._diagnose()
                pause_s = min(2 * pause_s, LAST_DIAGNOSIS_S)

    def _end_takeover(self) -> None:
        with self._lock:
            self._taken_over = ""
            if self.connected:
                self.problem = ""
        logger.info("No other client connects to %s as %r any more.", self.where, self._client_id)

    def _diagnose(self) -> None:
        """Log what is wrong; when the certificate files have changed, connect with the new ones."""
        try:
            if self._client is None or self._file_stamps != probe.stamps(self._settings):
                self._open(self._generation)
            self._log_problem(probe.diagnose(self._settings) or self._failure or self.problem)
        except Exception:
            logger.exception("The MQTT connection couldn't be diagnosed.")

    def _log_problem(self, sentence: str) -> None:
        with self._lock:
            if self.connected:
                return
            self.problem = sentence
            known = sentence in self._logged
            self._logged.add(sentence)
        if not known:
            logger.warning("%s", sentence)
