"""A subscriber with a lasting session that outlives its broker: prints every event it gets.

`python -m tests.runtime.results.watcher PORT FOLDER-OF-CERTIFICATES TOPIC`
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.fakes.broker import Broker


@contextmanager
def watching(server: Broker, topic: str, take: Callable[[Dict[str, Any]], None]) -> Iterator[None]:
    """Hand every event on `topic` to `take`, on a thread; subscribed when it is entered."""
    words = ["-m", "tests.runtime.results.watcher", str(server.port), str(server.keys), topic]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    subscribed = threading.Event()

    def read(lines: Iterator[str]) -> None:
        for line in lines:
            if line.startswith("{"):
                take(json.loads(line))
            else:
                subscribed.set()

    with process.stdout:
        reader = threading.Thread(target=read, args=[process.stdout])
        reader.start()
        try:
            assert subscribed.wait(60), server.log()
            yield
        finally:
            process.kill()
            process.wait(10)
            reader.join(10)


def main(port: str, keys: str, topic: str) -> None:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "watcher", protocol=mqtt.MQTTv5)
    files = [str(Path(keys) / name) for name in ("ca.pem", "client.pem", "client.key")]
    client.tls_set(*files, tls_version=ssl.PROTOCOL_TLS_CLIENT)

    def subscribe(*_: Any) -> None:
        client.subscribe(topic, qos=1)

    def write(_client: Any, _data: Any, message: Any) -> None:
        sys.stdout.write(message.payload.decode() + "\n")
        sys.stdout.flush()

    def say_subscribed(*_: Any) -> None:
        sys.stdout.write("subscribed\n")
        sys.stdout.flush()

    client.on_connect, client.on_message, client.on_subscribe = subscribe, write, say_subscribed
    client.reconnect_delay_set(1, 1)
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    client.connect("localhost", int(port), clean_start=False, properties=session)
    client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
