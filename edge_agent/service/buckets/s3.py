"""Buckets of any S3 service that speaks the protocol of Amazon S3, by boto3."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, Optional, Sequence

import boto3
from boto3.compat import filter_python_deprecation_warnings
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.buckets.lines import lines_of
from edge_agent.service.buckets.names import (
    IsAlone,
    NoSuchObject,
    S3Name,
    check_account,
    check_bucket,
    no_bucket,
    too_large,
)
from edge_agent.service.faults import ServiceFault, ValidationFailed
from edge_agent.service.settings import BucketSettings

CONNECT_WITHIN_S, ANSWER_WITHIN_S = 5, 60
TRIES = 3
CHUNK_BYTES = 2**20
MISSING_BUCKET, MISSING_KEY = ("NoSuchBucket",), ("NoSuchKey", "404", "NotFound")

log = logging.getLogger(__name__)


class S3Buckets:
    """The buckets of one S3 service; may be used by any thread."""

    def __init__(self, settings: BucketSettings, is_alone: IsAlone) -> None:
        """Prepare the client, which connects when it is used. Raises InvalidConfiguration."""
        filter_python_deprecation_warnings()
        self._accounts, self._is_alone = settings.accounts, is_alone
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=settings.endpoint,
                region_name=settings.region,
                aws_access_key_id=settings.access_key or None,
                aws_secret_access_key=_secret(settings),
                config=Config(
                    connect_timeout=CONNECT_WITHIN_S,
                    read_timeout=ANSWER_WITHIN_S,
                    retries={"total_max_attempts": TRIES, "mode": "standard"},
                    s3={"addressing_style": "path"},  # other services have no hosts of buckets
                    request_checksum_calculation="when_required",  # nor all of its checksums
                    response_checksum_validation="when_required",
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise InvalidConfiguration(f"The settings of buckets can't be used: {error}") from None

    def check(self, account: str, bucket: str) -> None:
        """Find that the account may use the bucket; the service isn't asked whether it is there."""
        check_bucket(bucket)
        check_account(account, bucket, self._accounts, self._is_alone)

    def check_output(self, account: str, folder: S3Name) -> None:
        """Find that the account may use the bucket, and that the key can be one."""
        folder.parts()
        self.check(account, folder.bucket)

    def read(self, account: str, bucket: str, key: str, most_bytes: int) -> bytes:
        """Return an object of at most `most_bytes`."""
        file = BytesIO()
        self._download(account, S3Name(bucket, key), file, most_bytes)
        return file.getvalue()

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        """Yield the lines of an object of at most `most_bytes`, without holding all of it."""
        with tempfile.TemporaryFile() as file:
            self._download(account, S3Name(bucket, key), file, most_bytes)
            yield from lines_of(file)

    def fetch(
        self, account: str, bucket: str, key: str, folder: Path, most_bytes: Optional[int] = None
    ) -> Path:
        """Return a copy of an object, made below `folder`; its name ends as the key does."""
        name = S3Name(bucket, key)
        digest = hashlib.sha256(f"{bucket}/{key}".encode(errors="replace")).hexdigest()
        place = folder / digest[:32] / name.parts()[-1]
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("w+b") as file:
            self._download(account, name, file, most_bytes)
        return place

    def check_writable(self, account: str, bucket: str, key: str) -> None:
        """Find that an object could be stored there now: begin an upload, and give it up."""
        name = S3Name(bucket, key)
        name.parts()
        self.check(account, bucket)
        with _readable_errors(name):
            begun = self._client.create_multipart_upload(Bucket=bucket, Key=key)
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=begun["UploadId"])

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        """Store the content of `source`, all of it at once, in place of what is there."""
        name = S3Name(bucket, key)
        name.parts()
        self.check(account, bucket)
        with source.open("rb") as file, _readable_errors(name):
            self._client.put_object(Bucket=bucket, Key=key, Body=file)

    def write_folder(
        self, account: str, folder: S3Name, source: Path, files: Sequence[str], part: str
    ) -> None:
        """Store files of `source` below a key, in this order."""
        for file in files:
            self.write(account, folder.bucket, f"{folder.key}/{file}", source / file)

    def remove(self, account: str, bucket: str, key: str) -> None:
        """Remove an object, where there is one."""
        name = S3Name(bucket, key)
        name.parts()
        self.check(account, bucket)
        with _readable_errors(name):
            self._client.delete_object(Bucket=bucket, Key=key)

    def discard_part(self, account: str, folder: S3Name, part: str) -> None:
        """Do nothing: an object is there whole or not at all."""

    def _download(
        self, account: str, name: S3Name, file: BinaryIO, most_bytes: Optional[int] = None
    ) -> None:
        """Leave the object in `file`, to be read from its beginning."""
        name.parts()
        self.check(account, name.bucket)
        with _readable_errors(name):
            answer = self._client.get_object(Bucket=name.bucket, Key=name.key)
            with closing(answer["Body"]) as body:
                size = answer.get("ContentLength", 0)  # which not every service says
                if most_bytes is not None and size > most_bytes:
                    raise too_large(name, size, most_bytes)
                size = 0
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    size += len(chunk)
                    if most_bytes is not None and size > most_bytes:
                        raise too_large(name, size, most_bytes)
                    file.write(chunk)
        file.seek(0)


def _secret(settings: BucketSettings) -> Optional[str]:
    """Return the secret key; None: boto3 looks where every AWS tool does."""
    if bool(settings.access_key) != (settings.secret_key_file is not None):
        raise InvalidConfiguration(
            "buckets.access_key and buckets.secret_key_file belong together; set both or neither."
        )
    if settings.secret_key_file is None:
        return None
    try:
        secret = settings.secret_key_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't text"
        raise InvalidConfiguration(
            f"buckets.secret_key_file can't be read: {settings.secret_key_file}: {reason}."
        ) from None
    if not secret:
        raise InvalidConfiguration(f"{settings.secret_key_file} is empty; write the secret key.")
    return secret


@contextmanager
def _readable_errors(name: S3Name) -> Iterator[None]:
    """Turn what boto3 raises into a sentence; the log says more."""
    try:
        yield
    except ClientError as error:
        raise _refusal(name, error.response.get("Error", {})) from None
    except BotoCoreError as error:
        log.warning("S3, %s: %s", name, error)
        raise ServiceFault(
            f"{name} can't be reached: the S3 service of the setting buckets.endpoint doesn't "
            "answer. Try again later, or correct the setting."
        ) from None


def _refusal(name: S3Name, error: Dict[str, str]) -> ValidationFailed:
    code = str(error.get("Code", ""))
    log.warning("S3, %s: %s: %s", name, code, error.get("Message", ""))
    if code in MISSING_BUCKET:
        return no_bucket(name.bucket)
    if code in MISSING_KEY:
        return NoSuchObject(name)
    return ValidationFailed(
        f"{name} can't be used: the S3 service refused ({code}). The key of the settings "
        "buckets.access_key needs the right to list, read and write objects there."
    )
