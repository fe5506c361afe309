"""A real mosquitto on a free port, listeners and publishers from its own tools, and a fake."""

from __future__ import annotations

import queue
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Dict, Iterator, List, NamedTuple, Optional, Type

MOSQUITTO = Path("/usr/sbin/mosquitto")
CLIENTS = Path("/usr/bin/mosquitto_sub")
MISSING = not (MOSQUITTO.exists() and CLIENTS.exists())


def free_port() -> int:
    """A port that no other test gets as long as this process lives, nor any outgoing connection.

    The kernel takes the ports of connections from 32768 on; a name of a socket keeps tests apart.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with socket.socket() as probe:
            try:
                place.bind(f"\0edge-agent-tests-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                place.close()
            else:
                place.detach()  # it stays open until this process ends
                return port


class Broker:
    """A mosquitto process that keeps its state in `folder`, so that it can be killed and started.

    With `keys` (of `certificates.every`) it speaks TLS with the certificate `name` and, if it
    `asks`, takes only clients with a certificate of "ca"; its common name is the user of the `acl`
    (mosquitto.conf(5)).
    """

    def __init__(
        self,
        folder: Path,
        keys: Optional[Path] = None,
        name: str = "server",
        acl: str = "",
        asks: bool = True,
    ):
        self.folder, self.keys = folder, keys
        self.port = free_port()
        lines = [
            "user root", f"listener {self.port} 127.0.0.1", f"persistence_location {folder}/",
            "persistence true", "log_type all",
        ]  # fmt: skip
        if keys:
            lines += [
                f"cafile {keys / 'ca.pem'}", f"certfile {keys / name}.pem",
                f"keyfile {keys / name}.key",
            ]  # fmt: skip
        if keys and asks:
            lines += ["require_certificate true", "use_identity_as_username true"]
        lines.append(f"allow_anonymous {'false' if keys and asks else 'true'}")
        if acl:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder / 'acl'}")
        (folder / "broker.conf").write_text("\n".join(lines) + "\n")
        self.process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.kill()

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self.folder / "broker.conf")], stderr=log, stdout=log
            )
        end = time.monotonic() + 60.0
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 5.0).close()
            except OSError:
                log_text = (self.folder / "broker.log").read_text()
                assert self.process.poll() is None, log_text
                assert time.monotonic() < end, log_text
                time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def save(self) -> None:
        """Let it write its sessions and messages to disk, which else it does now and then."""
        assert self.process is not None
        database = self.folder / "mosquitto.db"
        database.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 60.0
        while not database.exists():  # it is renamed when it is whole
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def freeze(self) -> None:
        """Let it keep its connections but answer nothing; `kill` still works."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / "broker.log").read_text()

    def _tool(self, name: str, *words: str) -> List[str]:
        tls = []
        if self.keys:
            names = {"--cafile": "ca.pem", "--cert": "client.pem", "--key": "client.key"}
            tls = [word for flag, file in names.items() for word in (flag, str(self.keys / file))]
        where = ["-h", "localhost", "-p", str(self.port), "-V", "mqttv5", "-q", "1"]
        return [str(CLIENTS.parent / name), *where, *tls, *words]

    def publish(self, topic: str, payload: str, *words: str) -> None:
        """Publish as another client, QoS 1; returns when the broker has it."""
        command = self._tool("mosquitto_pub", "-t", topic, "-m", payload, *words)
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @contextmanager
    def listener(self, topic: str) -> Iterator[Listener]:
        """Collect what arrives on `topic`; subscribed when it is yielded."""
        form = "GOT\t%t\t%r\t%q\t%C\t%P\t%D\t%p"
        command = self._tool("mosquitto_sub", "-d", "-t", topic, "-F", form)
        process = subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            listener = Listener()
            reader = threading.Thread(target=listener.read, args=[process.stdout])
            reader.start()
            try:
                assert listener.subscribed.wait(20), self.log()
                yield listener
            finally:
                process.kill()
                process.wait(10)
                reader.join(10)


class Received(NamedTuple):
    """A message as another client of the broker saw it."""

    topic: str
    retained: bool
    qos: int
    content_type: str
    properties: str
    correlation: str
    payload: str


class Listener:
    """The output of a mosquitto_sub."""

    def __init__(self) -> None:
        self.subscribed = threading.Event()
        self._received: queue.Queue[Received] = queue.Queue()

    def read(self, lines: Iterator[str]) -> None:
        for line in lines:
            if line.startswith("Subscribed"):
                self.subscribed.set()
            elif line.startswith("GOT\t"):
                topic, retained, qos, kind, properties, correlation, payload = line[4:-1].split(
                    "\t"
                )
                self._received.put(
                    Received(
                        topic, retained == "1", int(qos), kind, properties, correlation, payload
                    )
                )

    def next(self, within_s: float = 60.0) -> Received:
        """Return the next message; queue.Empty when none came in time."""
        return self._received.get(timeout=within_s)

    def nothing_more(self) -> bool:
        return self._received.empty()


class FakeBroker:
    """Not a broker: accepts connections and says only what it is told to, in plain MQTT 5.

    Reason codes: it answers CONNECT with `connack` and publishes with `puback`, None: never; or it
    disconnects with `disconnect` at the first publish. It takes packets up to `largest` bytes.
    """

    def __init__(
        self,
        connack: Optional[int] = 0,
        puback: Optional[int] = 0,
        disconnect: Optional[int] = None,
        largest: int = 100_000,
    ):
        self.largest = largest.to_bytes(4, "big")
        self.connack, self.puback, self.disconnect = connack, puback, disconnect
        self.connects: List[bytes] = []  # the CONNECT packets that came
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: Dict[int, socket.socket] = {}
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> FakeBroker:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for connection in list(self._open.values()):
            connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open[id(connection)] = connection
            self._threads.append(threading.Thread(target=self._serve, args=[connection]))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while True:
                    kind, body = _packet(stream)
                    for answer in self._answers(kind, body):
                        connection.sendall(answer)
            except (OSError, EOFError):
                pass
            finally:
                del self._open[id(connection)]

    def _answers(self, kind: int, body: bytes) -> Iterator[bytes]:
        """CONNECT 1, PUBLISH 3, SUBSCRIBE 8, PINGREQ 12 (MQTT 5.0, 2.1.2)."""
        if kind >> 4 == 1:
            self.connects.append(body)
            if self.connack is not None:
                yield bytes([0x20, 8, 0, self.connack, 5, 0x27]) + self.largest
        elif kind >> 4 == 3 and kind & 2 and self.disconnect is not None:
            yield bytes([0xE0, 2, self.disconnect, 0])
        elif kind >> 4 == 3 and kind & 2 and self.puback is not None:
            after_topic = 2 + int.from_bytes(body[:2], "big")
            yield bytes([0x40, 4]) + body[after_topic : after_topic + 2] + bytes([self.puback, 0])
        elif kind >> 4 == 8:
            yield bytes([0x90, 4]) + body[:2] + bytes([0, 1])
        elif kind >> 4 == 12:
            yield bytes([0xD0, 0])


def _packet(stream: object) -> tuple[int, bytes]:
    head = _exactly(stream, 1)[0]
    length = shift = 0
    while True:
        byte = _exactly(stream, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return head, _exactly(stream, length)


def _exactly(stream: object, count: int) -> bytes:
    content: bytes = stream.read(count)  # type: ignore[attr-defined]
    if len(content) < count:
        raise EOFError
    return content
