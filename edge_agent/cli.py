"""The `edge-agent` command: names its sub-commands and loads only the one that is called."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import signal
import sys
from importlib import import_module
from typing import List, Optional

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.logs import printable

log = logging.getLogger(__name__)

# sub-command → (module with add_arguments and run, one line of help)
COMMANDS = {
    "serve": ("edge_agent.runtime.serve_command", "run the agent"),
    "check": ("edge_agent.runtime.check_command", "say whether an agent would serve a package"),
    "models": ("edge_agent.client.models_command", "list, describe, start and stop models"),
    "detect": ("edge_agent.client.detect_command", "judge images with a running agent"),
    "train": ("edge_agent.training.train_command", "train a model package from images"),
    "calibrate": (
        "edge_agent.training.calibrate_command",
        "fit a model package to its site by good pictures",
    ),
    "evaluate": (
        "edge_agent.evaluation.evaluate_command",
        "judge a model package on labelled images",
    ),
    "package": (
        "edge_agent.packaging.package_command",
        "make a Greengrass component of a model package",
    ),
    "component": (
        "edge_agent.packaging.agent.component_command",
        "build the agent's Greengrass component",
    ),
    "publish": ("edge_agent.packaging.aws.publish_command", "upload components and create them"),
    "deploy": ("edge_agent.packaging.aws.deploy_command", "deploy components to things"),
    "migrate": (
        "edge_agent.packaging.migrate.migrate_command",
        "turn the original's recipes into ours",
    ),
    "jobs": ("edge_agent.packaging.jobs_command", "list and describe packaging jobs"),
    "service": (
        "edge_agent.service.service_command",
        "answer boto3 and the AWS CLI as Lookout for Vision did",
    ),
    "captures": ("edge_agent.captures.captures_command", "list kept frames, upload them to S3"),
    "demo": ("edge_agent.demo.demo_command", "draw parts, train, serve and inspect them"),
    "benchmark": (
        "edge_agent.benchmark.benchmark_command",
        "measure an agent under load beside its engine",
    ),
    "doctor": (
        "edge_agent.doctor.doctor_command",
        "show what this machine has and what is missing",
    ),
    "version": ("edge_agent.version", "print the version"),
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a sub-command and return its exit code; 2 for what the user can correct."""
    _prepare_output()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, such as head, has enough
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        log.debug("What the system refused:", exc_info=True)
        _discard_output()
        return _refuse(_refusal(error))


def _run(words: List[str]) -> int:
    try:
        given = parse(words)
        return int(import_module(COMMANDS[given.command][0]).run(given))
    except EdgeAgentError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "edge_agent").startswith("edge_agent"):
            raise
        return _refuse(
            f"The Python package {error.name!r} isn't installed. "
            "Install all that a device needs: pip install 'edge-agent[cpu]'."
        )
    except UnicodeEncodeError as error:  # a file's name may be no text
        return _refuse(f"{error.object!r} isn't UTF-8, which names and addresses must be.")
    except KeyboardInterrupt:
        return 130


def _refusal(error: OSError) -> str:
    """Return what the system refused, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = " Free space there, or name another place."
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        advice = f" Give user {os.geteuid()} access, or name another place."
    return f"{where}{error.strerror or error}.{advice}"


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"edge-agent: {printable(sentence)}\n")
    return 2


def _prepare_output() -> None:
    """Let every text be written, whatever the locale, and by a program started without outputs."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Drop what can't be written, which the interpreter would try again when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(words: List[str]) -> argparse.Namespace:
    """Read the command line; ends the process with a usage line when it makes no sense."""
    parser = argparse.ArgumentParser(prog="edge-agent", description="Edge inference agent.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, (module, help_line) in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=help_line)
        if name == called:
            import_module(module).add_arguments(command)
    return parser.parse_args(words)
