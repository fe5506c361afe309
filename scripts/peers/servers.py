"""The servers that are compared with the agent: how each is installed, started and called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Tuple

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Launch:
    """Where and with what a peer's server runs; `python` is that of its own environment."""

    python: Path
    folder: Path  # a working directory of its own
    package: Path
    cores: int
    ports: Tuple[int, int, int]  # the first is the one that clients call


@dataclass(frozen=True)
class PeerServer:
    """One other server. `prepare` writes its configuration and returns the command to start it."""

    name: str  # also its folder here
    distribution: str  # on the package index
    kinds: Tuple[str, ...]  # of targets.KINDS
    prepare: Callable[[Launch], List[str]]

    @property
    def requirements(self) -> Path:
        """What is installed, versions pinned."""
        return FOLDER / self.name / "requirements.txt"

    @property
    def version(self) -> str:
        """The version that the requirements pin."""
        pins = dict(line.split("==") for line in self.requirements.read_text().split())
        return pins[self.distribution]


def _mlserver(launch: Launch) -> List[str]:
    source = FOLDER / "mlserver"
    settings = json.loads((source / "settings.json").read_text())
    settings.update(zip(("grpc_port", "http_port", "metrics_port"), launch.ports))
    model = json.loads((source / "model-settings.json").read_text())
    threads = max(1, launch.cores // max(1, settings["parallel_workers"]))
    model["parameters"] = {"uri": str(launch.package), "extra": {"threads": threads}}
    (launch.folder / "settings.json").write_text(json.dumps(settings))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(launch.python.parent / "mlserver"), "start", str(launch.folder)]


def _litserve(launch: Launch) -> List[str]:
    command = [str(launch.python), "-m", "scripts.peers.litserve.server"]
    command += [str(launch.package), "--cores", str(launch.cores)]
    return [*command, "--port", str(launch.ports[0])]


def _pytriton(launch: Launch) -> List[str]:
    command = [str(launch.python), "-m", "scripts.peers.pytriton.server"]
    command += [str(launch.package), "--threads", str(launch.cores)]
    return [*command, "--ports", *map(str, launch.ports[:2])]


PEERS: Dict[str, PeerServer] = {
    peer.name: peer
    for peer in (
        PeerServer("mlserver", "mlserver", ("KServe gRPC, bytes",), _mlserver),
        PeerServer("litserve", "litserve", ("HTTP, raw body",), _litserve),
        PeerServer(
            "pytriton",
            "nvidia-pytriton",
            ("KServe gRPC, raw tensor", "KServe gRPC, shared memory"),
            _pytriton,
        ),
    )
}
