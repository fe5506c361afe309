"""Captures → S3: every file under its own name, and one manifest whose names are s3:// URIs.

Files that are there already, with the same size, aren't sent again, so an interrupted upload
continues where it ended. Captures uploaded before and deleted here stay in the manifest there.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

from rich.progress import track

from edge_agent.errors import InvalidRequest
from edge_agent.runtime.results.captures.captured_frame import (
    IMAGE_KEY,
    LABEL_KEY,
    MASK_KEY,
    OWN_KEY,
    Line,
)
from edge_agent.runtime.results.captures.folder import delete
from edge_agent.runtime.results.captures.manifest import (
    FILE_NAME,
    CaptureManifest,
    encoded,
    files,
    parsed,
)

TRIES = 4
CONNECT_WITHIN_S, ANSWER_WITHIN_S = 10, 60
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jsonl": "application/jsonl"}
SCHEME = "s3://"


@dataclass(frozen=True)
class S3Location:
    """A bucket and a prefix of all keys in it: empty, or ending in a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Location:
        """Read s3://BUCKET/PREFIX. Raises InvalidRequest."""
        bucket, _, prefix = uri[len(SCHEME) :].partition("/")
        if not uri.startswith(SCHEME) or not bucket:
            raise InvalidRequest(f"{uri!r} isn't an address in S3; expected s3://BUCKET/PREFIX.")
        prefix = prefix.strip("/")
        return cls(bucket, f"{prefix}/" if prefix else "")

    def uri(self, name: str) -> str:
        """Return the URI of a file that is uploaded there."""
        return f"{SCHEME}{self.bucket}/{self.prefix}{name}"


@dataclass(frozen=True)
class Uploaded:
    """How many captures are there now; how many of their files were sent, or were there before."""

    captures: int
    sent: int
    there: int


def upload(
    folder: Path, location: S3Location, endpoint_url: Optional[str], delete_here: bool
) -> Uploaded:
    """Upload what the manifest in `folder` names. Raises InvalidRequest: why that can't be done.

    Credentials come from the environment, as for every AWS tool. delete_here: captures are deleted
    from `folder` once they and the manifest are in S3.
    """
    manifest = CaptureManifest(folder)
    with _readable_errors(location):
        store = _Store(location, endpoint_url)
        there = store.sizes()
        lines: List[Line] = []
        sent = 0
        for line in track(manifest.captures(), "Uploading"):
            with suppress(FileNotFoundError):  # deleted to make room, perhaps just now
                sent += _send(folder, line, there, store)
                lines.append(line)
        known = store.get(FILE_NAME) if FILE_NAME in there else b""
        store.put(FILE_NAME, merged(known, [_elsewhere(line, location) for line in lines]))
    if delete_here:
        with manifest.locked():
            delete(folder, [name for line in lines for name in files(line)])
            manifest.drop({line[IMAGE_KEY] for line in lines})
    return Uploaded(len(lines), sent, sum(len(files(line)) for line in lines) - sent)


def _send(folder: Path, line: Line, there: Dict[str, int], store: _Store) -> int:
    """Send those files of a capture that aren't there yet; return how many that were."""
    missing = [name for name in files(line) if there.get(name) != (folder / name).stat().st_size]
    for name in missing:
        store.put(name, (folder / name).read_bytes())
    return len(missing)


def merged(known: bytes, lines: List[Line]) -> bytes:
    """Return the manifest `known` with `lines` added; a label that a person gave there stays."""
    raw_lines: Dict[str, bytes] = {}
    confirmed: Set[str] = set()
    for raw in known.splitlines():
        line = parsed(raw) or {}
        name = str(line.get(IMAGE_KEY, raw))
        raw_lines[name] = raw + b"\n"
        if _confirmed(line):
            confirmed.add(name)
    for line in lines:
        if line[IMAGE_KEY] not in confirmed or _confirmed(line):
            raw_lines[line[IMAGE_KEY]] = encoded(line)
    return b"".join(raw_lines.values())


def _confirmed(line: Line) -> bool:
    label = line.get(LABEL_KEY)
    return isinstance(label, dict) and label.get("human-annotated") == "yes"


def _elsewhere(line: Line, location: S3Location) -> Line:
    """Return the line with names in S3."""
    moved = {key: location.uri(line[key]) for key in (IMAGE_KEY, MASK_KEY) if key in line}
    own = line[OWN_KEY]
    if "overlay" in own:
        own = {**own, "overlay": location.uri(own["overlay"])}
    return {**line, **moved, OWN_KEY: own}


class _Store:
    """The few calls of S3 that an upload takes; needs s3:ListBucket, s3:GetObject, s3:PutObject."""

    def __init__(self, location: S3Location, endpoint_url: Optional[str]) -> None:
        import boto3
        from boto3.compat import filter_python_deprecation_warnings
        from botocore.config import Config

        filter_python_deprecation_warnings()
        self._location = location
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            config=Config(
                connect_timeout=CONNECT_WITHIN_S,
                read_timeout=ANSWER_WITHIN_S,
                retries={"total_max_attempts": TRIES, "mode": "standard"},
            ),
        )

    def sizes(self) -> Dict[str, int]:
        """Return the size in bytes of everything there, by name."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._location.bucket, Prefix=self._location.prefix
        )
        start = len(self._location.prefix)
        return {
            entry["Key"][start:]: entry["Size"]
            for page in pages
            for entry in page.get("Contents", [])
        }

    def get(self, name: str) -> bytes:
        key = self._location.prefix + name
        return bytes(self._client.get_object(Bucket=self._location.bucket, Key=key)["Body"].read())

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(
            Bucket=self._location.bucket,
            Key=self._location.prefix + name,
            Body=content,
            ContentType=TYPES[Path(name).suffix],
        )


@contextmanager
def _readable_errors(location: S3Location) -> Iterator[None]:
    """Turn what boto3 raises into InvalidRequest."""
    try:
        from botocore import exceptions
    except ImportError:
        raise InvalidRequest("Uploading needs boto3: pip install 'edge-agent[publish]'.") from None
    try:
        yield
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
        raise InvalidRequest(
            "There are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE."
        ) from None
    except exceptions.ClientError as error:
        raise InvalidRequest(_refusal(location, error.response.get("Error", {}))) from None
    except (exceptions.BotoCoreError, ValueError) as error:  # ValueError: of an endpoint's URL
        raise InvalidRequest(f"s3://{location.bucket} can't be reached: {error}") from None


def _refusal(location: S3Location, error: Dict[str, str]) -> str:
    code, message = error.get("Code", ""), error.get("Message", "")
    if code == "NoSuchBucket":
        return f"There is no bucket {location.bucket!r}. Create it, or correct --to."
    if code in ("AccessDenied", "403"):
        return (
            f"s3://{location.bucket} refuses these credentials. They need s3:ListBucket, "
            "s3:GetObject and s3:PutObject there."
        )
    return f"s3://{location.bucket} refused ({code}): {message}"
