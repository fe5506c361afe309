"""`edge-agent evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edge_agent.evaluation.evaluator import EvaluationReport
    from edge_agent.evaluation.robustness import RobustnessTable


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
    parser.add_argument(
        "--robustness", action="store_true",
        help="also judge the images under light, shift, blur, noise and more, at three strengths",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Inspect the images and write the figures."""
    from rich.console import Console

    from edge_agent.evaluation import robustness, steps
    from edge_agent.evaluation.evaluator import evaluate
    from edge_agent.evaluation.label_manifest import ManifestOptions
    from edge_agent.evaluation.labelled import LabelledImages
    from edge_agent.logs import printable
    from edge_agent.pictures import listing

    notes = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    options = ManifestOptions(arguments.images, arguments.model, arguments.label_attribute)
    report = evaluate(
        arguments.package, arguments.source, options, lambda text: notes.print(printable(text))
    )
    disturbed: Optional[RobustnessTable] = None
    if arguments.robustness:
        found = LabelledImages.of(arguments.source, options)
        with steps.on_terminal() as shown:
            disturbed = robustness.measure(
                arguments.package, found.normal, found.anomaly, steps=shown
            )
    if arguments.json:
        more = {"robustness": [row.model_dump() for row in disturbed.rows]} if disturbed else {}
        sys.stdout.write(json.dumps({**report.to_dict(), **more}) + "\n")
    else:
        _print(Console(), report, disturbed)
    for line in listing.table(report.left_out):
        notes.print(line)
    return 0


def _print(
    console: Console, report: EvaluationReport, disturbed: Optional[RobustnessTable]
) -> None:
    console.print(_table(report))
    if disturbed is not None:
        console.print(_rows(disturbed))
        console.print(disturbed.advice(), soft_wrap=True, markup=False, highlight=False)


def _table(report: EvaluationReport) -> Table:
    from rich.table import Table

    table = Table(title=f"Model {report.model}, version {report.version}", show_header=False)
    for name, value in report.to_dict().items():
        if name not in ("model", "version", "left_out") and value is not None:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    return table


def _rows(disturbed: RobustnessTable) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    from edge_agent.evaluation.robustness import points

    title = "When pictures change: shares in %, rises in points"
    table = Table("disturbance", "strength", title=title, box=SIMPLE, pad_edge=False)
    for name in ("overkill", "rise", "escape", "rise", "AUROC"):
        table.add_column(name, justify="right")
    for row in disturbed.rows:
        shares = (row.overkill, row.overkill_rise, row.escape, row.escape_rise)
        shown = ["" if share is None else points(share) for share in shares]
        auroc = "" if row.auroc is None else f"{row.auroc:.3f}"
        table.add_row(row.disturbance, row.change, *shown, auroc)
    return table
