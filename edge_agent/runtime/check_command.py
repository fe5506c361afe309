"""`edge-agent check`: whether the agent of this device would serve a model package.

A model component asks this in its install phase, while its old version serves on.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from edge_agent.config import Settings, build, load
from edge_agent.errors import BackendUnavailable, ModelError, OutOfMemory
from edge_agent.logs import printable

REFUSED = 3  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `check`."""
    parser.add_argument("package", type=Path, help="a model package: a folder or a zip")
    parser.add_argument("--name", help="the model's name; default: the package's")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, help="the agent's settings file (JSON)")
    source.add_argument(
        "--greengrass", type=Path, metavar="WORK", help="the agent component's work folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Verify and load the package; print what came of it."""
    path = arguments.package.absolute()
    try:
        sentence = _check(path, arguments.name or path.stem, _settings(arguments))
    except ModelError as error:
        sys.stdout.write(f"{printable(str(error))}\n")
        return REFUSED
    sys.stdout.write(f"{printable(sentence)}\n")
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the settings; as a component the agent's last good ones."""
    if arguments.greengrass is None:
        return load(arguments.config, os.environ)
    from edge_agent.runtime.host.configuration import settings_tree
    from edge_agent.runtime.host.last_good import LastGood

    good = LastGood(arguments.greengrass).configuration
    return build(settings_tree(good or {}, arguments.greengrass), os.environ)


def _check(path: Path, name: str, settings: Settings) -> str:
    """Say that it can serve. Raises ModelError, InvalidConfiguration."""
    from edge_agent.runtime.engines.supply import EngineSupply
    from edge_agent.runtime.models.loaded_model import LoadedModel, load_model
    from edge_agent.runtime.packages.highest_versions import VERSIONS_FILE, ServedVersions
    from edge_agent.runtime.packages.registration import Registration
    from edge_agent.runtime.packages.signature import TrustedKeys

    models, folder = settings.models, settings.results.folder
    keys = models.trusted_keys
    registration = Registration(
        name,
        path,
        (),
        trusted=TrustedKeys.read(keys, models.allow_unbound_signatures) if keys else None,
        versions=ServedVersions(folder / VERSIONS_FILE) if keys and folder else None,
        allow_downgrade=models.allow_downgrade,
    )
    registration.open().verify()
    cpu = {"backends": ("onnxruntime",), "wait_for_engine": False, "min_inference_units": 1}
    engine = settings.engine.model_copy(update=cpu)
    served = replace(registration, versions=None)  # it isn't served yet
    try:
        loaded = load_model(served, models, engine, EngineSupply(engine))
    except (BackendUnavailable, OutOfMemory) as error:
        return f"{path} is whole; it can't be loaded for a trial: {error}"
    if isinstance(loaded, LoadedModel):
        loaded.close(5.0)
    return f"{path} can serve as model {name}."
