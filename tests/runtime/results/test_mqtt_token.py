"""The MQTT sink with its key in a token (PKCS#11), which SoftHSM plays.

Each in a process of its own: a token stays unlocked for a process that gave the right PIN once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

from tests.fakes import certificates
from tests.fakes.broker import Broker
from tests.runtime.results.mqtt_sinks import needs_mosquitto

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711"

pytestmark = [
    needs_mosquitto,
    pytest.mark.skipif(not LIBRARY.exists(), reason="softhsm2 isn't installed (scripts/setup)"),
]

CHILD = """
import sys
from tests.runtime.results.mqtt_sinks import message, running, settings
from edge_agent.runtime.results.broker import options
port, keys, library, pin = int(sys.argv[1]), *sys.argv[2:]
from pathlib import Path
tried = []
real = options._tls
options._tls = lambda *words: tried.append(1) or real(*words)
token = dict(key=None, pkcs11_library=library, pkcs11_token="agent", pkcs11_pin=pin)
with running(settings(port, Path(keys), **token), connected=False) as started:
    if pin == "4711":
        started.wait_until_ready()
        started.sink.send(message()).result(60)
        print("sent")
    else:
        print(started.await_problem("PIN"))
        started.sink.reset()
        started.sink._connection._diagnose()
        print("tried", len(tried))
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Path]:
    """The folder of keys, with client.key imported into a token, and SoftHSM's configuration."""
    folder = certificates.every(tmp_path_factory.mktemp("token"))
    certificates.openssl(
        folder, "pkcs8", "-topk8", "-nocrypt", "-in", "client.key", "-out", "client.p8"
    )
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    for words in (
        ["--init-token", "--free", "--label", "agent", "--pin", PIN, "--so-pin", "0815"],
        ["--import", str(folder / "client.p8"), "--token", "agent", "--label", "client",
         "--id", "01", "--pin", PIN],
    ):  # fmt: skip
        environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
        subprocess.run(
            ["softhsm2-util", *words], env=environment, check=True, capture_output=True, timeout=60
        )
    return folder, configuration


def spoken(folder: Path, token: Tuple[Path, Path], pin: str) -> str:
    """Run a sink of its own process against a broker; return what it printed and logged."""
    keys, configuration = token
    with Broker(folder, keys) as broker:
        words = [sys.executable, "-c", CHILD, str(broker.port), str(keys), str(LIBRARY), pin]
        found = subprocess.run(
            words,
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert found.returncode == 0, found.stderr
    return found.stdout + found.stderr


def test_a_key_in_a_token_proves_the_client(tmp_path: Path, token: Tuple[Path, Path]) -> None:
    assert "sent" in spoken(tmp_path, token, PIN)


def test_a_wrong_pin_is_tried_once_and_never_shown(
    tmp_path: Path, token: Tuple[Path, Path]
) -> None:
    text = spoken(tmp_path, token, "not-the-pin")
    assert "The token refuses results.mqtt.pkcs11_pin" in text
    assert "tried 1" in text
    assert "not-the-pin" not in text
