"""The peers there are."""

from __future__ import annotations

import json
from typing import Dict, List

from edge_agent.benchmark.peers.peer import FOLDER, Launch, Peer


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
    command = [str(launch.python), "-m", "edge_agent.benchmark.peers.litserve.server"]
    command += [str(launch.package), "--cores", str(launch.cores)]
    return [*command, "--port", str(launch.ports[0])]


def _pytriton(launch: Launch) -> List[str]:
    command = [str(launch.python), "-m", "edge_agent.benchmark.peers.pytriton.server"]
    command += [str(launch.package), "--threads", str(launch.cores)]
    return [*command, "--ports", *map(str, launch.ports[:2])]


PEERS: Dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("mlserver", "mlserver", ("KServe gRPC, bytes",), _mlserver),
        Peer("litserve", "litserve", ("HTTP, raw body",), _litserve),
        Peer(
            "pytriton",
            "nvidia-pytriton",
            ("KServe gRPC, raw tensor", "KServe gRPC, shared memory"),
            _pytriton,
        ),
    )
}
