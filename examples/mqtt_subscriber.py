"""Print the agent's results from an MQTT broker, each once. Needs: pip install paho-mqtt

python mqtt_subscriber.py --host broker.plant.example --port 8883 \
    --ca plant-ca.pem --certificate reader.pem --key reader.key
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict

import paho.mqtt.client as mqtt

REMEMBERED = 10_000  # ids of results; after a crash of the agent some results come twice


class Subscriber:
    """Subscribes to results and alarms, and drops the results that it has seen before."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._seen = OrderedDict()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = self._connected
        self.client.on_message = self._received

    def _connected(self, client, _data, _flags, reason, _properties) -> None:
        """Subscribe after every connect, also after a lost connection."""
        if reason.is_failure:
            print(f"the broker refused the connection: {reason}", flush=True)
        else:
            client.subscribe(self._topic, qos=1)
            print(f"subscribed to {self._topic}", flush=True)

    def _received(self, _client, _data, message) -> None:
        event = json.loads(message.payload)
        if message.topic.endswith("/alarm"):
            print(f"alarm: {event.get('message', event)}", flush=True)
        elif message.topic.endswith("/result") and self._is_new(event["id"]):
            word = "ANOMALY" if event["is_anomalous"] else "normal"
            print(f"{event['model']} {event['sequence']}: {word}", flush=True)

    def _is_new(self, event_id: str) -> bool:
        if event_id in self._seen:
            return False
        self._seen[event_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--topic", default="edge-agent/+/+/+", help="device, model, kind")
    parser.add_argument("--ca")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()

    client = Subscriber(options.topic).client
    if options.ca:
        client.tls_set(options.ca, options.certificate, options.key)
    client.connect(options.host, options.port)
    client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main()
