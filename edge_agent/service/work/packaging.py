"""Packaging: a trained model → a component in a bucket, whole or not at all.

It lies at PREFIX/NAME-VERSION/ of the S3 output location, as `edge-agent package` makes it. The
recipe comes last: without it the rest is no component. One that is there with other content stays,
as devices refuse a version that changed.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, List, Mapping

from sqlalchemy import update

from edge_agent.errors import EdgeAgentError, InvalidRequest
from edge_agent.packaging.aws.folder import digest
from edge_agent.packaging.component_spec import Component
from edge_agent.packaging.target import from_api
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.names import NoSuchObject, S3Name
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.faults import ServiceFault
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import PACKAGING_JOBS
from edge_agent.service.server_paths import without_paths
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Parameters
from edge_agent.service.work.child import progress
from edge_agent.service.work.training import package_folder

KIND = "packaging"  # in `work.kinds`
CREATED, RUNNING, SUCCEEDED, FAILED = "CREATED", "RUNNING", "SUCCEEDED", "FAILED"
UNDER_WAY = (CREATED, RUNNING)
WAITS = "The job waits for its turn."
RECIPES = ("recipe.yaml", "recipes")  # of what is in the folder of a component


class Packaging:
    """The work of StartModelPackagingJob.

    Parameters: job (id of its row), account, region, project, version (of the model),
    configuration (GreengrassConfiguration with name, version and description of the component),
    part (a name of this work's own). Result: the findings that don't stop the job.
    """

    def __init__(self, root: Path, settings: ServiceSettings) -> None:
        self._root, self._settings = root, settings

    def run(self, parameters: Parameters, folder: Path) -> Mapping[str, Any]:
        """Make the component, then store it."""
        wanted = parameters["configuration"]
        account = parameters["account"]
        progress("The model is being checked and the component made.")
        made = folder / "component"
        model = package_folder(self._root, account, parameters["project"], parameters["version"])
        warnings = _make(made, model, wanted)
        progress("The component is being stored.")
        store(made, ComponentPlace(wanted), self._buckets(), account, parameters["part"])
        return {"warnings": warnings}

    def progressed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Record how far it is."""
        _change(parameters, transaction, status=RUNNING, message=message)

    def publish(self, parameters: Parameters, folder: Path) -> None:
        """Nothing is left to store: `run` has stored the component."""

    def finished(
        self,
        parameters: Parameters,
        result: Mapping[str, Any],
        folder: Path,
        transaction: Transaction,
    ) -> None:
        """Record that the component is there, and what it is called."""
        component = Component.from_api(parameters["configuration"])
        output = {
            # As the service model has it, which names no account here.
            "ComponentVersionArn": f"arn:aws:greengrass:{parameters['region']}:aws:components:"
            f"{component.name}:versions:{component.version}",
            "ComponentName": component.name,
            "ComponentVersion": component.version,
        }
        stored = f"The component is at {ComponentPlace(parameters['configuration'])}."
        message = " ".join([stored, *result["warnings"]])
        _change(parameters, transaction, status=SUCCEEDED, message=message, output=output)

    def failed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Record that it failed, and why; nothing of a component is left that isn't whole."""
        place = ComponentPlace(parameters["configuration"])
        with suppress(EdgeAgentError, ServiceFault, OSError):  # the bucket itself may have gone
            part = parameters["part"]
            self._buckets().discard_part(parameters["account"], place.name, part)
        _change(parameters, transaction, status=FAILED, message=message)

    def _buckets(self) -> Buckets:
        return open_buckets(self._root, self._settings.buckets)


def _change(parameters: Parameters, transaction: Transaction, **values: object) -> None:
    transaction.connection.execute(
        update(PACKAGING_JOBS)
        .where(PACKAGING_JOBS.c.id == parameters["job"])
        .values(updated=time.time(), **values)
    )


def _make(out: Path, model: Path, wanted: Mapping[str, Any]) -> List[str]:
    """Fill the component folder; return what isn't as it was asked for, and the checks' warnings.

    Raises InvalidRequest.
    """
    from edge_agent.packaging.component import Order, write
    from edge_agent.packaging.draft import open_draft
    from edge_agent.packaging.graph.findings import GraphFinding
    from edge_agent.packaging.preparation import Preparation

    folders = {model: "The model's package", out: "the component"}
    target = from_api(wanted)
    warnings = [target.remark] if target.remark else []

    def report(finding: GraphFinding) -> None:
        if finding.severity == "warning":
            warnings.append(finding.text)

    try:
        order = Order(
            draft=open_draft(model, None),
            component=Component.from_api(wanted),
            target=target,
            preparation=Preparation(),
            out=out,
        )
        write(out, order, report)
    except EdgeAgentError as error:
        raise InvalidRequest(without_paths(str(error), folders)) from None
    return [without_paths(warning, folders) for warning in warnings]


class ComponentPlace:
    """Where a component lies, or will lie, in a bucket."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        """`wanted`: as in the parameters. Raises ValidationFailed when it can't lie there."""
        location = wanted["S3OutputLocation"]
        prefix = location.get("Prefix", "").rstrip("/")
        folder = f"{wanted['ComponentName']}-{wanted['ComponentVersion']}"
        self.name = S3Name(location["Bucket"], f"{prefix}/{folder}" if prefix else folder)
        self.name.parts()

    def __str__(self) -> str:
        return str(self.name)

    def key(self, file: str) -> str:
        """Return the key of one of its files."""
        return f"{self.name.key}/{file}"


def store(made: Path, place: ComponentPlace, buckets: Buckets, account: str, part: str) -> None:
    """Write the files of the component folder `made`, the recipe last; `part`: see `Buckets`.

    What is there already stays. Raises InvalidRequest when it is of another component,
    ValidationFailed when the bucket or what is there can't be used.
    """
    files = _in_order(made)
    copies = made.with_name("copies")

    def is_there(file: str) -> bool:
        """Whether it lies there; raises InvalidRequest when it is another."""
        try:
            there = buckets.fetch(account, place.name.bucket, place.key(file), copies)
        except NoSuchObject:
            return False
        if digest(there) != digest(made / file):
            raise InvalidRequest(
                f"{place} is there already, with other content. Devices refuse a version that "
                "changed: choose another ComponentVersion."
            )
        return True

    stored = [is_there(file) for file in files]  # all are looked at, whatever is missing
    if not all(stored):
        buckets.write_folder(account, place.name, made, files, part)


def _in_order(made: Path) -> List[str]:
    """Return the files of a component folder, its recipe last."""
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    return [str(file) for file in sorted(files, key=lambda file: (file.parts[0] in RECIPES, file))]
