"""`edge-agent serve`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from edge_agent import logs
from edge_agent.config import Settings, load

if TYPE_CHECKING:
    from edge_agent.runtime.host.component import GreengrassComponent

CLOSE_WITHIN_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `serve`."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, help="settings file (JSON)")
    source.add_argument(
        "--greengrass",
        type=Path,
        metavar="WORK",
        help="run as a Greengrass component: settings from its configuration, files in this folder",
    )
    parser.add_argument("--models", type=Path, help="folder of model packages (models.folder)")
    parser.add_argument(
        "--records", type=Path, help="folder of registration records, models.d (models.records)"
    )
    parser.add_argument("--socket", help="unix:///path (server.socket)")
    parser.add_argument(
        "--autostart", action="store_true", help="start the models of --models (models.autostart)"
    )
    parser.add_argument(
        "--check", action="store_true", help="only check the settings, and say what is wrong"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a stop is requested."""
    logs.configure("INFO")  # until the settings are read
    given = {
        "models.folder": arguments.models,
        "models.records": arguments.records,
        "server.socket": arguments.socket,
        "models.autostart": arguments.autostart or None,
    }
    assignments = [f"{name}={value}" for name, value in given.items() if value is not None]
    assignments += arguments.set
    if arguments.greengrass is not None:
        return _serve_as_component(arguments.greengrass, assignments, arguments.check)
    settings = load(arguments.config, os.environ, assignments)
    return _check(settings) if arguments.check else _serve(settings)


def _serve_as_component(work: Path, assignments: List[str], only_check: bool) -> int:
    from edge_agent.runtime.host.component import GreengrassComponent
    from edge_agent.runtime.host.nucleus import EXIT_STATUS, NucleusError, NucleusLost

    logs.configure("INFO")
    component = GreengrassComponent(work, os.environ, assignments)
    try:
        if not only_check:
            return _serve(component.connect(), component)
        return _check(component.check())
    except NucleusLost as error:
        sys.stderr.write(f"edge-agent: {logs.printable(str(error))}\n")
        return 0 if only_check else EXIT_STATUS  # nobody knows the settings, wrong or right
    except NucleusError as error:
        sys.stderr.write(f"edge-agent: {logs.printable(str(error))}\n")
        return EXIT_STATUS
    finally:
        component.close(CLOSE_WITHIN_S)


def _check(settings: Settings) -> int:
    """Raise InvalidConfiguration for what shows on this device only."""
    from edge_agent.runtime.results.sinks import thing_name

    thing_name(settings.results)
    return 0


def _serve(settings: Settings, component: Optional[GreengrassComponent] = None) -> int:
    logs.configure(settings.log_level)
    # gRPC's fork handlers may hang a process that starts others (before CPython 3.10 by fork); all
    # of ours call exec at once. Read when grpc is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # gRPC's core writes lines of its own past our log's limits, one for each bad call or handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from edge_agent.runtime import app

    return app.run(settings, component)
