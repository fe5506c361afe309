"""A subscriber with a lasting session that outlives its broker: prints every event it gets.

`python -m tests.results.watcher PORT FOLDER-OF-CERTIFICATES TOPIC`
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


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
