"""`edge-agent publish`: component folders → S3 → component versions of Greengrass."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Iterator

from rich.console import Console

from edge_agent.captures.upload import SCHEME, S3Location
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.packaging.aws.options import add_account_arguments, table
from edge_agent.packaging.aws.outcome import Outcome
from edge_agent.packaging.aws.publish import Publication
from edge_agent.packaging.aws.session import Aws
from edge_agent.packaging.aws.upload import Bucket


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
    failed = 0
    for outcome in publish(Aws(arguments.region, arguments.profile), arguments):
        failed += not outcome.good
        if outcome.good:
            Console(soft_wrap=True, markup=False, highlight=False).print(outcome.sentence)
        else:
            sys.stderr.write(f"edge-agent: {outcome.sentence}\n")
    return 1 if failed else 0


def publish(aws: Aws, arguments: argparse.Namespace) -> Iterator[Outcome]:
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
