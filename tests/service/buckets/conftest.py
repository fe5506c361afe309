"""Both kinds of buckets, for one suite: folders, and a server that speaks the protocol of S3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Tuple

import boto3
import pytest
from moto.server import ThreadedMotoServer

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.settings import BucketSettings

ALICE, BOB = "111111111111", "222222222222"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@dataclass
class Site:
    """Buckets, and the way around them: what a user puts there, and what is there."""

    buckets: Buckets
    s3: Any  # a boto3 client, or None
    root: Path

    def put(self, bucket: str, key: str, content: bytes) -> None:
        if self.s3 is not None:
            self.s3.put_object(Bucket=bucket, Key=key, Body=content)
            return
        place = self.root / "buckets" / bucket / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def get(self, bucket: str, key: str) -> bytes:
        if self.s3 is not None:
            return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        return (self.root / "buckets" / bucket / key).read_bytes()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_settings(
    folder: Path, endpoint: str, accounts: Mapping[str, Tuple[str, ...]]
) -> BucketSettings:
    file = folder / "secret"
    file.write_text(f"{SECRET}\n")
    return BucketSettings(
        endpoint=endpoint, access_key="AKIDEXAMPLE", secret_key_file=file, accounts=dict(accounts)
    )


def s3_client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key=SECRET,
    )


@pytest.fixture(scope="module", params=["folders", "s3"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Has the buckets "plant", for all, and "alices", for Alice."""
    tmp_path = tmp_path_factory.mktemp("site")
    accounts = {"alices": (ALICE,)}
    if request.param == "folders":
        buckets = open_buckets(tmp_path, BucketSettings(accounts=accounts))
        for name in ("plant", "alices"):
            (tmp_path / "buckets" / name).mkdir()
        return Site(buckets, None, tmp_path)
    endpoint = request.getfixturevalue("endpoint")
    s3 = s3_client(endpoint)
    for name in ("plant", "alices"):
        s3.create_bucket(Bucket=name)
    return Site(open_buckets(tmp_path, s3_settings(tmp_path, endpoint, accounts)), s3, tmp_path)
