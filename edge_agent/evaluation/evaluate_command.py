"""`edge-agent evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edge_agent.evaluation.evaluator import EvaluationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `evaluate`."""
    parser.add_argument("package", type=Path, help="model package, a folder or a zip")
    parser.add_argument(
        "source", type=Path, metavar="IMAGES",
        help="a folder with normal/ and anomaly/, perhaps masks/, or a manifest (JSON lines)",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, help="folder with what a manifest's bucket holds")
    parser.add_argument("--model", help="of a manifest, only what was captured with this model")
    parser.add_argument(
        "--label-attribute", metavar="JOB", help="of a manifest, the labelling job that counts"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Inspect the images and write the figures."""
    from rich.console import Console

    from edge_agent.evaluation.evaluator import evaluate
    from edge_agent.evaluation.label_manifest import ManifestOptions
    from edge_agent.logs import printable
    from edge_agent.pictures import listing

    notes = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    report = evaluate(
        arguments.package,
        arguments.source,
        ManifestOptions(arguments.images, arguments.model, arguments.label_attribute),
        lambda text: notes.print(printable(text)),
    )
    if arguments.json:
        sys.stdout.write(json.dumps(report.to_dict()) + "\n")
    else:
        Console().print(_table(report))
    for line in listing.table(report.left_out):
        notes.print(line)
    return 0


def _table(report: EvaluationReport) -> Table:
    from rich.table import Table

    table = Table(title=f"Model {report.model}, version {report.version}", show_header=False)
    for name, value in report.to_dict().items():
        if name not in ("model", "version", "left_out") and value is not None:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    return table
