"""Component folder → S3.

What lies there already with the same sha-256 isn't sent again. S3 checks every byte it gets; how it
encrypts them is the bucket's business. Big files go in parts and appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional

from rich.console import Console
from rich.progress import Progress

from edge_agent.captures.upload import S3Location
from edge_agent.errors import InvalidRequest
from edge_agent.packaging.aws.folder import ComponentFolder, digest
from edge_agent.packaging.aws.session import Aws, aws_errors

DIGEST_KEY = "sha256"  # of the object's metadata: S3's own sum of a file in parts isn't the file's


class Bucket:
    """A place in S3 to send to; needs s3:ListBucket, s3:GetObject and s3:PutObject."""

    def __init__(self, aws: Aws, place: S3Location) -> None:
        self.place = place
        self._aws = aws
        self._name = f"s3://{place.bucket}"

    def check(self) -> None:
        """Raise InvalidRequest unless the bucket is there and in Greengrass's region.

        Greengrass can't read artifacts of another region, and only says that it has no access.
        """
        with aws_errors(self._name):
            answer = self._aws.s3.head_bucket(Bucket=self.place.bucket)
        region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if region and region != self._aws.region:
            raise InvalidRequest(
                f"{self._name} is in {region}, but the component is for {self._aws.region}; "
                "choose a bucket there, or correct --region."
            )

    def send(self, name: str, file: Path, may_replace: bool) -> bool:
        """Make `name` hold what `file` does; return whether it had to be sent.

        Raises InvalidRequest when it holds something else that it may not replace.
        """
        found, there = digest(file), self._digest(name)
        if there == found:
            return False
        if there is not None and not may_replace:
            raise InvalidRequest(
                f"{self.place.uri(name)} exists already, with other content. Devices refuse an "
                "artifact that changed since its version was created: choose a higher "
                "--component-version, or another prefix."
            )
        with aws_errors(self._name), file.open("rb") as stream, _progress(file) as advance:
            self._aws.s3.upload_fileobj(
                stream,
                self.place.bucket,
                self.place.prefix + name,
                ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {DIGEST_KEY: found}},
                Callback=advance,
            )
        return True

    def put(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with aws_errors(self._name):
            self._aws.s3.put_object(
                Bucket=self.place.bucket, Key=self.place.prefix + name, Body=content,
                ChecksumAlgorithm="SHA256",
                Metadata={DIGEST_KEY: hashlib.sha256(content).hexdigest()},
            )  # fmt: skip

    def _digest(self, name: str) -> Optional[str]:
        """Return the sha-256 the object was sent with, empty if unknown; None: it isn't there."""
        from botocore.exceptions import ClientError

        with aws_errors(self._name):
            try:
                answer = self._aws.s3.head_object(
                    Bucket=self.place.bucket, Key=self.place.prefix + name
                )
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    return None
                raise
        return str(answer["Metadata"].get(DIGEST_KEY, ""))


@contextmanager
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """Show a progress bar; yield what counts the bytes sent."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)
        yield lambda count: progress.advance(task, count)


def upload(folder: Path, place: str) -> None:
    """Upload a component folder to `place`, s3://BUCKET/PREFIX, for `publish` or another tool.

    PREFIX/NAME/VERSION/FILE are the artifacts, where `publish` to that place finds them; what lies
    there with other content may be of a published version, so it stays and is an error.
    PREFIX/recipes/NAME-VERSION.json is the recipe with their addresses, PREFIX/tags/… the tags, if
    any. Region and credentials come from the environment. Raises InvalidConfiguration,
    InvalidRequest.
    """
    component = ComponentFolder.read(folder)
    bucket = Bucket(Aws(), S3Location.parse(place))
    recipe, artifacts = component.recipe_at(bucket.place), component.artifacts()
    tags, file_name = component.tags(), f"{component.name}-{component.version}.json"
    bucket.check()
    for name, file in artifacts.items():
        bucket.send(name, file, may_replace=False)
    if tags:
        bucket.put(f"tags/{file_name}", json.dumps(tags, ensure_ascii=False).encode())
    bucket.put(f"recipes/{file_name}", recipe)
