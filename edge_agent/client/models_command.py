"""`edge-agent models`: list, describe, start and stop the models of a running agent."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Dict, List

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent import protocol
from edge_agent.client.client import Client
from edge_agent.types import ModelInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `models`."""
    parser.add_argument("action", choices=["list", "describe", "start", "stop"])
    parser.add_argument("model", nargs="?", default="", help="model component; not for list")
    parser.add_argument("--address", default=protocol.DEFAULT_SOCKET, help="of the agent")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds start waits for RUNNING")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Do it and show the models concerned."""
    with Client(arguments.address, timeout_s=max(30.0, arguments.wait)) as client:
        if arguments.action == "list":
            infos = client.models()
        else:
            if arguments.action == "start":
                client.start(arguments.model, arguments.wait)
            elif arguments.action == "stop":
                client.stop(arguments.model)
            infos = [client.describe(arguments.model)]
    if arguments.json:
        for info in infos:
            sys.stdout.write(json.dumps(_record(info)) + "\n")
    else:
        _print(infos)
    return 0


def _record(info: ModelInfo) -> Dict[str, Any]:
    return {
        "model_component": info.name,
        "status": info.state.name,
        "status_message": info.message,
        "lookout_vision_model_arn": info.arn,
    }


def _print(infos: List[ModelInfo]) -> None:
    table = Table("model component", "status", "message")
    for info in infos:
        table.add_row(info.name, info.state.name, escape(info.message))
    Console().print(table if infos else "No models are deployed.")
