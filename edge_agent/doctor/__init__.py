"""`edge-agent doctor`: what this machine has, and what is missing for what.

Every finding is looked up or tried, never assumed, and the command works where nothing is
installed. With the settings of an agent it also tries their MQTT broker, looks into the folder of
engines, and tells what the agent last said of its results.
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
from edge_agent.doctor import engines, gpu, libraries, results, system
from edge_agent.doctor.findings import MISSING, OK, PROBLEM, Finding
from edge_agent.errors import InvalidConfiguration

PROBES: List[Callable[[], List[Finding]]] = [
    system.machine, libraries.versions, libraries.conflicts, gpu.found, system.shared_memory,
    system.groups, system.greengrass,
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `doctor`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--config", type=Path, help="settings file of the agent (JSON)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is a problem."""
    findings = [finding for probe in PROBES for finding in probe()]
    try:
        settings = load(arguments.config, os.environ, arguments.set)
        findings += [*engines.found(settings.engine), *results.found(settings.results)]
    except InvalidConfiguration as error:
        findings.append(Finding("settings", PROBLEM, str(error)))
    if arguments.json:
        for finding in findings:
            sys.stdout.write(json.dumps(asdict(finding)) + "\n")
    else:
        colors = {OK: "green", MISSING: "yellow", PROBLEM: "bold red"}
        table = Table("what", "state", "detail")
        for finding in findings:
            state = f"[{colors[finding.state]}]{finding.state}"
            table.add_row(finding.what, state, escape(finding.detail))
        Console().print(table)
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0
