"""`edge-agent calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `calibrate`."""
    parser.add_argument("package", type=Path, help="model package that `train` wrote")
    parser.add_argument(
        "good", type=Path, nargs="+", metavar="GOOD_PICTURES",
        help="10 to 50 pictures of good parts at the site: files, folders, or a manifest",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="PACKAGE",
        help="to write (default: beside the package, with the new version after its name)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")


def run(arguments: argparse.Namespace) -> int:
    """Fit the package to the site, say what changes, and write the new version."""
    from rich.console import Console

    from edge_agent.logs import printable
    from edge_agent.pictures.listing import shown
    from edge_agent.pictures.reader import PictureReader
    from edge_agent.runtime.packages.package import Package
    from edge_agent.training import package, site_calibration

    console = Console(soft_wrap=True, markup=False, highlight=False)
    good = site_calibration.good_pictures(arguments.good)
    reader = PictureReader(
        good,
        lambda item: console.print(printable(str(item))),
        Package(arguments.package).manifest.statistics.image_bits,
    )
    fitted = site_calibration.fit(arguments.package, good, reader)
    console.print(
        f"Of {fitted.count} good pictures {fitted.before} are called anomalous before, "
        f"{fitted.after} after. These pictures placed the threshold: judge it by others."
    )
    folder = arguments.package.resolve()
    version = fitted.manifest.version
    out = arguments.out or folder.with_name(f"{folder.name}-{version}")
    if arguments.dry_run:
        console.print(f"{shown(out)} would hold version {version}; nothing is written.")
        return 0
    package.check_inputs(out, good)
    package.write(out, fitted.manifest, fitted.files)
    console.print(
        f"{shown(out)}: version {version}. How the new threshold holds when pictures change is not "
        "known yet; `edge-agent evaluate --robustness` judges it by good and bad pictures."
    )
    return 0
