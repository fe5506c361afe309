"""`scripts/bench --stress`: overload, a camera that floods, what batching costs a quiet line and
what publishing costs a busy one."""  # noqa: D205, D209

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Union

import numpy as np
from rich.console import Console
from rich.table import Table

from edge_agent.benchmark import feature_costs, served, stress
from edge_agent.demo.package import make_package
from edge_agent.demo.parts import draw_frame
from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.system import resources

SCENARIOS = ("overload", "flood", "quiet", "publishing")
ScenarioResult = Union[
    stress.Overload, stress.Flood, feature_costs.QuietLine, feature_costs.Publishing
]


def main(words: List[str]) -> int:
    """Measure the scenarios and print them."""
    arguments = _parser().parse_args(words)
    console = Console(stderr=True)
    try:
        results = measure(arguments, console)
    except EdgeAgentError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    if arguments.json:
        figures = {name: dataclasses.asdict(result) for name, result in results.items()}
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, result in results.items():
            Console().print(_table(name, result))
    return 0


def measure(arguments: argparse.Namespace, console: Console) -> Dict[str, ScenarioResult]:
    """Return the result of each scenario, on an agent of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-agent-stress-")))
        package = arguments.package or make_package(folder)
        Package(package)  # raises before anything starts
        frame = folder / "frame.npy"
        np.save(frame, draw_frame(1920, 1080))
        split = arguments.units, arguments.threads or max(1, resources.cores() // arguments.units)
        results: Dict[str, ScenarioResult] = {}
        for name in arguments.scenario or SCENARIOS:
            console.print(f"Measuring {name} …")
            if name == "quiet":
                results[name] = feature_costs.quiet_line(package, frame, *split, arguments.rounds)
                continue
            if name == "publishing":
                results[name] = feature_costs.publishing(package, frame, *split, arguments.turns)
                continue
            with served.agent(package, *split) as address:
                target = (address, served.MODEL, str(frame))
                if name == "overload":
                    results[name] = stress.overload(*target, arguments.seconds)
                else:
                    results[name] = stress.flood(*target, arguments.in_flight)
        return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench --stress", description=__doc__)
    add = parser.add_argument
    add("--package", type=Path, help="model package, a folder (default: the demo's)")
    add("--units", type=int, default=1, help="inference units (%(default)s)")
    add("--threads", type=int, help="engine threads of a unit (default: cores / units)")
    add("--seconds", type=float, default=60.0, help="of overload (%(default)s)")
    add("--in-flight", type=int, default=200, help="frames of the flood (%(default)s)")
    add("--rounds", type=int, default=300, help="calls on the quiet line (%(default)s)")
    add("--turns", type=int, default=8, help="with and without publishing (%(default)s)")
    add("--scenario", action="append", choices=SCENARIOS, help="repeatable (default: all)")
    add("--json", action="store_true", help="one JSON object")
    return parser


def _table(title: str, result: ScenarioResult) -> Table:
    table = Table(title, "")
    for name, value in stress.rows(result):
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
