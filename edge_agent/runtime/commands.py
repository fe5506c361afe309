"""`edge-agent serve`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edge_agent import logs
from edge_agent.config import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `serve`."""
    parser.add_argument("--config", type=Path, help="settings file (JSON)")
    parser.add_argument("--models", type=Path, help="folder of model packages (models.folder)")
    parser.add_argument(
        "--records", type=Path, help="folder of registration records, models.d (models.records)"
    )
    parser.add_argument("--socket", help="unix:///path (server.socket)")
    parser.add_argument(
        "--autostart", action="store_true", help="start the models of --models (models.autostart)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop."""
    given = {
        "models.folder": arguments.models,
        "models.records": arguments.records,
        "server.socket": arguments.socket,
        "models.autostart": arguments.autostart or None,
    }
    assignments = [f"{name}={value}" for name, value in given.items() if value is not None]
    settings = load(arguments.config, os.environ, [*assignments, *arguments.set])
    logs.configure(settings.log_level)
    from edge_agent.runtime import app

    return app.run(settings)
