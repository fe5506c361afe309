"""A device's life, on (fake) nucleus lite, from the emitted files alone."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.client import Client
from edge_agent.errors import AgentUnavailable, EdgeAgentError
from edge_agent.packaging.recipe import AGENT
from edge_agent.types import ModelState
from tests import ROOT
from tests.fakes import micro
from tests.fakes.fake_nucleus import FakeNucleus
from tests.packaging.device import ARCHITECTURE, Device
from tests.runtime.results.outboxes import wait_until

PLATFORMS = {"amd64": "X86_64", "aarch64": "ARM64"}
FRAME = np.full((micro.SIZE, micro.SIZE, 3), 102, np.uint8)  # its score is 0.4
FRAME[::4, :, 1] = 200  # structure, as pictures of a camera have it
BOLTS, NUTS = "plant.Bolts", "plant.Nuts"


def packaged(folder: Path, name: str, version: str, out_name: str = "") -> Path:
    """The component folder that `edge-agent package` writes."""
    model = micro.write(folder / f"{name}-{version}-model", "classification", version=version)
    out = folder / (out_name or f"{name}-{version}")
    words = [
        "--target-platform", f"os=LINUX,arch={PLATFORMS[ARCHITECTURE]}", "--component-name", name,
        "--out", str(out), "--jobs-folder", str(folder / "jobs"),
    ]  # fmt: skip
    assert main(["package", str(model), *words]) == 0
    return out


def local_commands(page: str) -> List[str]:
    """The commands of the block on a page that deploys by `ggl-cli`."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if "ggl-cli" in block]
    return [str(line) for line in block.replace("\\\n", " ").splitlines()]


def deploy_as_written(page: str, device: Device, folder: Path) -> None:
    """Run a page's commands on the device, in the folder that has the component folders."""
    for line in local_commands(page):
        if line.startswith("ggl-cli "):
            device.ggl_cli(shlex.split(line), folder)
        else:
            subprocess.run(["sh", "-c", line], cwd=folder, check=True)


class Caller:
    """Another component: calls one model all the time; keeps what went wrong."""

    def __init__(self, address: str) -> None:
        self.answers = 0
        self.failures: List[str] = []
        self._address = address
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        with Client(self._address, 20.0) as client:
            while not self._stopping.wait(0.01):
                try:
                    client.detect(BOLTS, FRAME)
                except EdgeAgentError as error:
                    self.failures.append(str(error))
                else:
                    self.answers += 1

    @contextmanager
    def calling(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()


def configuration(component: Path, address: str) -> Dict[str, Any]:
    """The recipe's defaults with what this test needs."""
    (recipe,) = (component / "recipes").glob("*.json")
    defaults = json.loads(recipe.read_bytes())["ComponentConfiguration"]["DefaultConfiguration"]
    return {**defaults, "Socket": address, "models": {"rescan_every_s": 0.2, "remove_after_s": 3.0}}


def resources(configured: Dict[str, Any], service: str) -> List[str]:
    """What the policies for a service allow, with the thing's name filled in."""
    policies = configured["accessControl"][f"aws.greengrass.ipc.{service}"].values()
    found = [resource for policy in policies for resource in policy["resources"]]
    return [resource.replace("{iot:thingName}", "press-7") for resource in found]


def described(client: Client, name: str) -> str:
    """What DescribeModel says of a running model; empty when it, or the agent, doesn't run."""
    try:
        info = {info.name: info for info in client.models()}.get(name)
    except AgentUnavailable:
        return ""
    return info.message if info is not None and info.state is ModelState.RUNNING else ""


@pytest.mark.timeout(600)
def test_a_device_deploys_updates_tunes_removes_and_restarts(
    agent_component: Path, tmp_path: Path
) -> None:
    address = f"unix://{tmp_path / 'agent.sock'}"
    settings = {"Autostart": "true"}
    (tmp_path / "agent-component").symlink_to(agent_component)
    packaged(tmp_path, BOLTS, "1", "bolts-component")
    configured = configuration(agent_component, address)
    root = tmp_path / "greengrass"
    root.mkdir()
    with FakeNucleus(tmp_path / "ipc.sock", "lite") as nucleus, Device(
        root, nucleus.environment
    ) as device:
        nucleus.configure(configured)
        deploy_as_written("docs/greengrass.md", device, tmp_path)
        device.deploy(packaged(tmp_path, NUTS, "1"), {**settings, "Threshold": "0.7"})
        assert not list((root / "unarchived").glob(f"{BOLTS}/*"))
        nucleus.until(lambda: "RUNNING" in nucleus.states, 60.0)
        caller = Caller(address)
        with Client(address, 20.0) as client:
            wait_until(lambda: all("Version 1," in described(client, n) for n in (BOLTS, NUTS)))
            assert "Threshold 0.7." in described(client, NUTS)
            deploy_as_written("docs/packaging.md", device, tmp_path)
            with caller.calling():
                wait_until(lambda: caller.answers > 10)
                device.deploy(packaged(tmp_path, NUTS, "2"), settings)
                wait_until(lambda: "Version 2," in described(client, NUTS))
                assert "was removed" not in device.components[AGENT].log.read_text()
                nucleus.configure({"models": {"thresholds": {NUTS: 0.25}}})
                wait_until(lambda: "Threshold 0.25" in described(client, NUTS))
                assert client.detect(NUTS, FRAME).is_anomalous
                nucleus.until(lambda: bool(nucleus.published))
                device.remove(NUTS)
                wait_until(lambda: [info.name for info in client.models()] == [BOLTS])
                before = caller.answers
                wait_until(lambda: caller.answers > before + 10)
            assert caller.failures == []
        device.restart()
        topics = {message.topic for message in nucleus.published}
        assert f"edge-agent/press-7/{NUTS}/result" in topics
        allowed = resources(configured, "mqttproxy")
        assert all(any(fnmatchcase(topic, one) for one in allowed) for topic in topics)
        with Client(address, 20.0) as client:
            wait_until(lambda: "Version 1," in described(client, BOLTS))
            assert client.detect(BOLTS, FRAME).score == pytest.approx(0.4, abs=0.01)
