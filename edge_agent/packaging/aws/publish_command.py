"""`edge-agent publish`: component folders → S3 → component versions of Greengrass.

A version can't be replaced, and devices refuse an artifact that changed since it was created. So
the version is looked up before anything is uploaded. A tag holds the digest of what it was made of;
the same version of the same content exists already, of other content it is an error.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Mapping

from edge_agent.captures.upload import SCHEME, S3Location
from edge_agent.errors import InvalidRequest
from edge_agent.packaging.aws.folder import ComponentFolder, digest
from edge_agent.packaging.aws.session import GREENGRASS, Aws, AwsOutcome, aws_errors, polls
from edge_agent.packaging.aws.upload import Bucket
from edge_agent.packaging.options import add_account_arguments, table

if TYPE_CHECKING:
    from edge_agent.packaging.aws.session import Answer

CONTENT_TAG = "edge-agent:sha256"
UNDER_WAY = ("REQUESTED", "INITIATED")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `publish`."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="component folder")
    parser.add_argument("--bucket", required=True, metavar="NAME", help="for the artifacts")
    parser.add_argument("--prefix", default="", help="of the artifacts' names in the bucket")
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE",
        help="of the components, beside those they were packaged with; repeatable",
    )  # fmt: skip
    add_account_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Publish all; 1 when one of them can't be deployed."""
    aws = Aws(arguments.region, arguments.profile)
    return max([outcome.show() for outcome in publish(aws, arguments)])


def publish(aws: Aws, arguments: argparse.Namespace) -> Iterator[AwsOutcome]:
    """Check all, then publish one after another. Raises InvalidConfiguration, InvalidRequest."""
    scheme = "" if arguments.bucket.startswith(SCHEME) else SCHEME
    bucket = Bucket(aws, S3Location.parse(f"{scheme}{arguments.bucket}/{arguments.prefix}"))
    tags = table("--tag", arguments.tag)
    folders = [ComponentFolder.read(path) for path in arguments.folders]
    publications = [Publication(aws, folder, bucket, tags) for folder in folders]
    bucket.check()
    for publication in publications:
        publication.is_there()
    for publication in publications:
        yield publication.publish(arguments.wait_s)


class Publication:
    """A component folder and the version it becomes. Every verb raises InvalidRequest."""

    def __init__(
        self, aws: Aws, folder: ComponentFolder, bucket: Bucket, tags: Mapping[str, str]
    ) -> None:
        """`tags` are added to the folder's own. Raises InvalidConfiguration."""
        self._aws, self._bucket = aws, bucket
        self._title = f"{folder.name} {folder.version}"
        self._artifacts = folder.artifacts()
        self._recipe = folder.recipe_at(bucket.place)
        self._content = self._digest()
        self._tags = {**folder.tags(), **tags, CONTENT_TAG: self._content}
        self._resource = f"components:{folder.name}:versions:{folder.version}"

    def _digest(self) -> str:
        """Return the sha-256 of the recipe and of what its artifacts hold, in hex."""
        found = hashlib.sha256(self._recipe)
        for name, file in sorted(self._artifacts.items()):
            found.update(f"{name}\n{digest(file)}\n".encode())
        return found.hexdigest()

    def is_there(self) -> bool:
        """Whether the version exists; one of other content is an InvalidRequest."""
        return bool(self._described())

    def publish(self, wait_s: float) -> AwsOutcome:
        """Upload what is missing, create the version unless it exists, and wait for it."""
        if self.is_there():
            return self._awaited(wait_s, "exists already, with the same content")
        sent = [
            self._bucket.send(name, file, may_replace=True)  # of no version, as it isn't there
            for name, file in self._artifacts.items()
        ]
        self._create()
        place = self._bucket.place.uri("")
        return self._awaited(wait_s, f"is created; {sum(sent)} of {len(sent)} files sent: {place}")

    def _create(self) -> None:
        client = self._aws.greengrass
        with aws_errors(GREENGRASS):
            try:
                client.create_component_version(inlineRecipe=self._recipe, tags=self._tags)
            except client.exceptions.ConflictException:
                if not self._described():  # somebody else made it just now
                    raise

    def _described(self) -> Answer:
        """Return the version's description; empty if there is none."""
        client = self._aws.greengrass
        arn = self._aws.arn("greengrass", self._resource)
        with aws_errors(GREENGRASS):
            try:
                found = client.describe_component(arn=arn)
            except client.exceptions.ResourceNotFoundException:
                return {}
        if found.get("tags", {}).get(CONTENT_TAG) != self._content:
            raise InvalidRequest(
                f"{self._title} exists already, with other content or addresses. A version can't "
                "be replaced: package it again with a higher --component-version."
            )
        return found

    def _awaited(self, wait_s: float, done: str) -> AwsOutcome:
        """Wait until the version can be deployed."""
        if not wait_s:
            return AwsOutcome(True, f"{self._title} {done}.")
        state = UNDER_WAY[0]
        for _ in polls(wait_s):
            status = self._described().get("status", {})
            state = status.get("componentState", state)
            if state not in UNDER_WAY:
                return self._ended(state, status, done)
        return AwsOutcome(
            False,
            f"{self._title} is still {state} after {wait_s:g} s; run the same command again to "
            "wait longer.",
        )

    def _ended(self, state: str, status: Answer, done: str) -> AwsOutcome:
        if state == "DEPLOYABLE":
            return AwsOutcome(True, f"{self._title} {done}. It's DEPLOYABLE.")
        errors = (f"{what}: {why}" for what, why in sorted(status.get("errors", {}).items()))
        why = "; ".join(filter(None, [status.get("message", ""), *errors])) or "no reason given"
        return AwsOutcome(
            False,
            f"{self._title} is {state}: {why}. Package it with a higher --component-version, or "
            "delete this one.",
        )
