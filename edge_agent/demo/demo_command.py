"""`edge-agent demo`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edge_agent.demo import SEED
from edge_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from edge_agent.demo.line import Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder to write to (%(default)s)"
    )
    parser.add_argument("--parts", type=int, default=40, help="parts on the line (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="draws other parts (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every step worked, whatever the verdicts were."""
    if arguments.parts < 1 or arguments.seed < 0:
        raise InvalidRequest(
            f"--parts is {arguments.parts} and --seed {arguments.seed}; "
            "expected at least 1 part and a seed from 0 on."
        )
    from edge_agent.demo.run import Demo

    signal.signal(signal.SIGTERM, _leave)
    console = Console(highlight=False)
    summary = Demo(arguments.out, arguments.parts, arguments.seed, console).run()
    _report(console, summary)
    console.print(f"Open [bold]{arguments.out / 'index.html'}[/bold]", soft_wrap=True)
    return 0


def _leave(number: int, _: object) -> None:
    """Unwind on a signal, so that the agent does not outlive the demo."""
    raise SystemExit(128 + number)


def _report(console: Console, summary: Summary) -> None:
    table = Table(title="Parts, by truth and verdict")
    table.add_column("truth")
    table.add_column("normal", justify="right")
    table.add_column("anomaly", justify="right")
    for truth, counts in zip(("good", "defective"), summary.table):
        table.add_row(truth, *map(str, counts))
    console.print(table)
    console.print(
        f"{summary.right} of {summary.total} right ({summary.right / summary.total:.1%}); "
        f"the mask touches the defect in {summary.located[0]} of {summary.located[1]} caught parts."
    )
    console.print(f"Latency a frame: p50 {summary.p50_ms:.1f} ms, p90 {summary.p90_ms:.1f} ms.")
