"""`edge-agent service serve` and `edge-agent service keys`: the service API on your own machine."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List

from edge_agent import logs
from edge_agent.errors import InvalidConfiguration

if TYPE_CHECKING:
    from edge_agent.service.auth.access_keys import AccessKey, AccessKeys

ACCOUNT = "123456789012"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `service`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    serve = actions.add_parser("serve", help="answer boto3 and the AWS CLI")
    _add_root(serve)
    serve.add_argument("--listen", metavar="HOST:PORT", help="(default: 127.0.0.1:8600)")
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings (JSON)")
    keys = actions.add_parser("keys", help="make, list and remove access keys")
    steps = keys.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, help_line in (
        ("add", "make a key and print it with its secret, which is never shown again"),
        ("list", "list the keys, without their secrets"),
        ("remove", "remove a key; a running service refuses it at once"),
    ):
        step = steps.add_parser(name, help=help_line)
        _add_root(step)
        step.add_argument("--json", action="store_true", help="print JSON")
        if name == "add":
            step.add_argument("--env", action="store_true", help='for eval "$(...)" in a shell')
        if name == "remove":
            step.add_argument("key", metavar="ACCESS_KEY_ID")
        step.add_argument("--account", help=f"12 digits ({_without_account(name)})")


def run(arguments: argparse.Namespace) -> int:
    """Run an action; what the user can put right is raised as an EdgeAgentError."""
    if sys.version_info < (3, 10):
        raise InvalidConfiguration(
            "edge-agent service needs CPython 3.10 or newer; this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}. Install it with a newer Python."
        )
    try:
        return _serve(arguments) if arguments.action == "serve" else _keys(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "edge_agent").partition(".")[0]
        if package == "edge_agent":
            raise
        raise InvalidConfiguration(
            f"The Python package {package!r} isn't installed. "
            "Install all that the service needs: pip install 'edge-agent[service]'."
        ) from None


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="folder of all the service keeps"
    )


def _without_account(step: str) -> str:
    return f"default: {ACCOUNT}" if step == "add" else "default: any"


def _serve(arguments: argparse.Namespace) -> int:
    logs.configure("INFO")
    from edge_agent.service import app
    from edge_agent.service.settings import load

    return app.run(arguments.root, load(arguments.config, arguments.listen))


def _keys(arguments: argparse.Namespace) -> int:
    from edge_agent.service.auth.access_keys import AccessKeys
    from edge_agent.service.buckets.only_account import accounts_of, closed_buckets
    from edge_agent.service.root import ServiceRoot

    if arguments.account is not None and not re.fullmatch("[0-9]{12}", arguments.account):
        raise InvalidConfiguration(
            f"--account {arguments.account}: 12 digits are expected, such as {ACCOUNT}."
        )
    steps: Dict[str, Callable[[AccessKeys, argparse.Namespace], None]] = {
        "add": _add,
        "list": _list,
        "remove": _remove,
    }
    with closing(ServiceRoot(arguments.root)) as root, closing(root.records()) as records:
        before = accounts_of(records)
        steps[arguments.step](AccessKeys(records), arguments)
        new = accounts_of(records) - before
        if before and new:
            sys.stderr.write(f"Warning: {closed_buckets(before | new)}\n")
    return 0


def _add(keys: AccessKeys, arguments: argparse.Namespace) -> None:
    key = keys.add(arguments.account or ACCOUNT, time.time())
    if arguments.env:
        sys.stdout.write(f"export AWS_ACCESS_KEY_ID={key.id} AWS_SECRET_ACCESS_KEY={key.secret}\n")
        return
    _print([{**_facts(key), "SecretAccessKey": key.secret}], arguments.json, single=True)


def _list(keys: AccessKeys, arguments: argparse.Namespace) -> None:
    _print([_facts(key) for key in keys.all(arguments.account)], arguments.json)


def _remove(keys: AccessKeys, arguments: argparse.Namespace) -> None:
    found = keys.find(arguments.key)
    if found is None or arguments.account not in (None, found.account):
        raise InvalidConfiguration(
            f"There is no access key {arguments.key}. `edge-agent service keys list` shows all."
        )
    keys.remove(found.id)
    _print([_facts(found)], arguments.json, single=True)


def _facts(key: AccessKey) -> Dict[str, str]:
    created = datetime.fromtimestamp(key.created, timezone.utc)
    return {
        "AccessKeyId": key.id,
        "Account": key.account,
        "CreateDate": created.isoformat(timespec="seconds"),
    }


def _print(rows: List[Dict[str, str]], as_json: bool, single: bool = False) -> None:
    if as_json:
        sys.stdout.write(f"{json.dumps(rows[0] if single else rows, indent=2)}\n")
        return
    for row in rows:
        separator = "\n" if single else "  "
        sys.stdout.write(separator.join(f"{name}: {value}" for name, value in row.items()) + "\n")
