"""`edge-agent evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edge_agent.evaluation.evaluator import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `evaluate`."""
    parser.add_argument("package", type=Path, help="model package, a folder or a zip")
    parser.add_argument("folder", type=Path, help="holds normal/ and anomaly/, perhaps masks/")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Judge the images and write the figures."""
    from rich.console import Console

    from edge_agent.evaluation.evaluator import evaluate

    report = evaluate(arguments.package, arguments.folder)
    if arguments.json:
        sys.stdout.write(json.dumps(report.to_dict()) + "\n")
    else:
        Console().print(_table(report))
    return 0


def _table(report: Report) -> Table:
    from rich.table import Table

    table = Table(title=f"Model {report.model}, version {report.version}", show_header=False)
    for name, value in report.to_dict().items():
        if name not in ("model", "version") and value is not None:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    return table
