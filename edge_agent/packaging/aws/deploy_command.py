"""`edge-agent deploy`: components → a thing or a group of things, watched to the end."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from rich.console import Console

from edge_agent.errors import InvalidConfiguration, InvalidRequest
from edge_agent.packaging import json_document
from edge_agent.packaging.aws import rollout
from edge_agent.packaging.aws.deployment import (
    ANSWER_KEYS,
    ANY_TARGET,
    DEPLOYMENT_NAME,
    NAME,
    POINTER,
    REQUEST,
    REQUEST_KEYS,
    TARGET,
    VERSION,
    Change,
    absent,
    as_request,
    check,
    differences,
    joined,
    repeatable,
    revised,
)
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.packaging.aws.rollout_progress import watch
from edge_agent.packaging.aws.session import GREENGRASS, Aws, AwsOutcome, aws_errors
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.options import add_account_arguments, pairs, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `deploy`."""
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--thing", metavar="NAME", help="core device to deploy to")
    target.add_argument("--thing-group", metavar="NAME", help="group of core devices to deploy to")
    target.add_argument("--target-arn", metavar="ARN", help="of a thing or a group")
    for option, metavar, help_line in (
        ("--component", "NAME=VERSION", "to deploy; repeatable"),
        ("--folder", "FOLDER", "component folder whose version to deploy; repeatable"),
        ("--merge", "NAME=FILE.json", "settings to change in a component; repeatable"),
        ("--reset", "NAME=/POINTER", "setting to put back to its default; repeatable"),
        ("--remove", "NAME", "component to remove; repeatable"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=metavar, help=help_line)
    parser.add_argument("--only", action="store_true", help="remove all other components")
    parser.add_argument(
        "--from", type=Path, dest="file", metavar="DEPLOYMENT.json",
        help="request of CreateDeployment, or answer of GetDeployment, to begin with",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="of the deployment")
    rollout.add_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the request, send nothing")
    add_account_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Deploy and wait for the end; 1 when a device fails or isn't done in time."""
    console = Console(soft_wrap=True, markup=False, highlight=False, stderr=arguments.dry_run)
    if arguments.dry_run:
        plan = prepare(arguments, partial(_target_if_known, arguments))
        check({**plan.request, "targetArn": ANY_TARGET}, REQUEST, "")
        console.print(plan.summary)
        sys.stdout.write(json.dumps(plan.request, indent=2, ensure_ascii=False) + "\n")
        return 0
    aws = Aws(arguments.region, arguments.profile)
    plan = prepare(arguments, partial(_target, aws, arguments))
    console.print(plan.summary)
    return deploy(aws, plan.request, arguments.wait_s, console.print).show()


class DeploymentPlan(NamedTuple):
    """The request to send, and the target's deployment before it; empty if there is none.

    `notes` are sentences about what had no effect, or isn't known.
    """

    request: Document
    before: Document
    notes: List[str]
    is_known: bool  # what was deployed before

    @property
    def title(self) -> str:
        """The line above the list of changes."""
        title = f"To {self.request['targetArn']}"
        if not self.is_known:
            return f"{title}:"
        if not self.before:
            return f"{title}, its first deployment:"
        known = [self.before.get(key) for key in ("revisionId", "deploymentStatus")]
        return f"{title}, after revision {', '.join(map(str, filter(None, known)))}:"

    @property
    def summary(self) -> str:
        """The changes, a line each, and the notes."""
        return "\n".join([self.title, *differences(self.before, self.request), *self.notes])


class Target(NamedTuple):
    """Where a deployment goes, and what was deployed there before; empty if there was nothing.

    `note` is a sentence when that isn't known.
    """

    arn: str
    before: Document
    note: str = ""


def prepare(arguments: argparse.Namespace, find: Callable[[Document], Target]) -> DeploymentPlan:
    """Make the request from the options and the target's deployment.

    `find` gets the request of --from. Raises InvalidConfiguration, InvalidRequest.
    """
    change, given = _change(arguments), _read_request(arguments.file)
    target = find(given)
    start = joined({} if arguments.only else repeatable(target.before), repeatable(given))
    notes = absent(start, change)
    request = revised(start, change)
    is_change = repeatable(given) or change.alters(start)
    if not is_change or not (start["components"] or request["components"]):
        raise InvalidConfiguration(
            " ".join(["There is nothing to deploy; name --component, --folder or --from.", *notes])
        )
    notes += [target.note] if target.note else []
    request = {"targetArn": target.arn, **request}
    return DeploymentPlan(request, target.before, notes, not target.note)


def deploy(aws: Aws, request: Document, wait_s: float, report: Callable[[str], None]) -> AwsOutcome:
    """Send the request and watch its progress. Raises InvalidRequest."""
    with aws_errors(GREENGRASS):
        created = aws.greengrass.create_deployment(**request)
    sentence = f"Deployment {created['deploymentId']} is created."
    if not wait_s:
        return AwsOutcome(True, sentence)
    report(sentence)
    return watch(aws, str(request["targetArn"]), created, wait_s, report)


def _change(arguments: argparse.Namespace) -> Change:
    folders = [ComponentFolder.read(Path(path)) for path in arguments.folder]
    merges = table("--merge", arguments.merge)
    if arguments.name:
        check(arguments.name, DEPLOYMENT_NAME, "--name")
    return Change(
        versions={
            **{folder.name: folder.version for folder in folders},
            **_versions(arguments.component),
        },
        merges={name: json_document.read(Path(path)) for name, path in merges.items()},
        resets=_resets(arguments.reset),
        removed=arguments.remove,
        name=arguments.name,
        policies=rollout.policies(arguments),
        job=rollout.job(arguments),
    )


def _versions(given: List[str]) -> Dict[str, str]:
    versions = table("--component", given)
    for name, version in versions.items():
        check(name, NAME, f"--component {name}={version}: the name")
        check(version, VERSION, f"--component {name}={version}: the version")
    return versions


def _resets(given: List[str]) -> List[Tuple[str, str]]:
    resets = pairs("--reset", given)
    for name, pointer in resets:
        check(pointer, POINTER, f"--reset {name}={pointer}: the setting")
    return resets


def _target(aws: Aws, arguments: argparse.Namespace, given: Document) -> Target:
    """Ask AWS. Raises InvalidConfiguration, InvalidRequest."""
    arn = _arn(aws.arn, arguments, given)
    return Target(arn, _current(aws, arn))


def _target_if_known(arguments: argparse.Namespace, given: Document) -> Target:
    """Ask AWS, but go on without an answer. Raises InvalidConfiguration."""
    try:
        return _target(Aws(arguments.region, arguments.profile, 1), arguments, given)
    except InvalidRequest as error:
        note = (
            f"What is deployed there now isn't known: {error} So this request holds only what is "
            "named here; without --dry-run, what is there stays in it."
        )
        arn = partial("arn:aws:{1}:{0}:ACCOUNT:{2}".format, arguments.region or "REGION")
        return Target(_arn(arn, arguments, given), {}, note)


def _arn(of: Callable[[str, str], str], arguments: argparse.Namespace, given: Document) -> str:
    if arguments.thing:
        return of("iot", f"thing/{arguments.thing}")
    if arguments.thing_group:
        return of("iot", f"thinggroup/{arguments.thing_group}")
    arn = str(arguments.target_arn or given.get("targetArn", ""))
    if not arn:
        raise InvalidConfiguration("There is no target; name --thing or --thing-group.")
    check(arn, TARGET, f"The target is {arn!r}; it")
    return arn


def _current(aws: Aws, target: str) -> Document:
    """Return the target's latest deployment, as get_deployment does; empty if there is none."""
    with aws_errors(GREENGRASS):
        pages = aws.greengrass.get_paginator("list_deployments").paginate(
            targetArn=target, historyFilter="LATEST_ONLY"
        )
        for page in pages:
            for found in page["deployments"]:
                if not found.get("parentTargetArn"):  # of a subdeployment
                    answer = aws.greengrass.get_deployment(deploymentId=found["deploymentId"])
                    return dict(answer)
    return {}


def _read_request(file: Optional[Path]) -> Document:
    """Read a request, or an answer of get_deployment. Raises InvalidConfiguration."""
    if file is None:
        return {}
    try:
        request = as_request(json_document.read(file))
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{file}: {error}") from None
    unknown = sorted(set(request) - {*REQUEST_KEYS, *ANSWER_KEYS, "targetArn"})
    if unknown:
        raise InvalidConfiguration(
            f"{file} has {', '.join(unknown)}; known: {', '.join(('targetArn', *REQUEST_KEYS))}."
        )
    components = request.get("components", {})
    if not isinstance(components, dict) or not all(
        isinstance(specification, dict) and isinstance(specification.get("componentVersion"), str)
        for specification in components.values()
    ):
        raise InvalidConfiguration(f"{file}: components needs a componentVersion for every name.")
    return request
