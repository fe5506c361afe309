"""`edge-agent doctor`: what this machine has, and what is missing for what.

Works where nothing is installed. With the settings of an agent it also says which models serve, and
what in their folders doesn't; it tries the MQTT broker, reads the folder of engines, and shows what
the agent last reported of its results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Callable, List

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.config import load
from edge_agent.doctor import MISSING, OK, PROBLEM, CheckResult, agent, gpu, machine
from edge_agent.errors import InvalidConfiguration

CHECKS: List[Callable[[], List[CheckResult]]] = [
    machine.hardware, machine.packages, machine.package_conflicts, gpu.results,
    machine.shared_memory, machine.groups, machine.greengrass,
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `doctor`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--config", type=Path, help="settings file of the agent (JSON)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the results of all checks; 1 when one of them is a problem."""
    results = [result for check in CHECKS for result in check()]
    try:
        settings = load(arguments.config, os.environ, arguments.set)
        results += agent.models(settings.models)
        results += [*agent.engines(settings.engine), *agent.results(settings.results)]
    except InvalidConfiguration as error:
        results.append(CheckResult("settings", PROBLEM, str(error)))
    if arguments.json:
        for result in results:
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
    else:
        colors = {OK: "green", MISSING: "yellow", PROBLEM: "bold red"}
        table = Table("what", "state", "detail")
        for result in results:
            state = f"[{colors[result.state]}]{result.state}"
            table.add_row(result.what, state, escape(result.detail))
        Console().print(table)
    return 1 if any(result.state == PROBLEM for result in results) else 0
