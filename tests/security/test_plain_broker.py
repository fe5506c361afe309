"""A broker without TLS is one on this machine, whatever its name is resolved to."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import MqttSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.broker import probe


@pytest.mark.parametrize(
    ("settings", "connects_to"),
    [
        (MqttSettings(endpoint="localhost"), "127.0.0.1"),
        (MqttSettings(endpoint="LOCALHOST"), "127.0.0.1"),
        (MqttSettings(endpoint="127.0.0.1"), "127.0.0.1"),
        (MqttSettings(endpoint="::1"), "::1"),
        (MqttSettings(endpoint="localhost", ca=Path("ca.pem")), "localhost"),  # its name is proved
        (MqttSettings(endpoint="broker.plant", ca=Path("ca.pem")), "broker.plant"),
    ],
)
def test_without_tls_no_name_is_resolved(settings: MqttSettings, connects_to: str) -> None:
    assert probe.host(settings) == connects_to


def test_a_name_like_localhost_is_another_machine() -> None:
    for name in ("localhost.", "localhost.example.com", "127.0.0.1.nip.io", "0.0.0.0"):
        with pytest.raises(InvalidConfiguration, match="needs results"):
            probe.is_encrypted(MqttSettings(endpoint=name))
