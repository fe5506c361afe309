"""Nothing of this machine's AWS configuration is read, and nothing waits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Iterator

import pytest
from moto import mock_aws

from edge_agent.packaging.aws import deploy_command, publish_command, session
from tests.packaging.aws.cloud import REGION, SECRET, TOKEN, Cloud

with warnings.catch_warnings():  # on CPython 3.8 it says that it's the last one for it
    warnings.simplefilter("ignore")
    import cryptography.hazmat.primitives  # noqa: F401  moto uses it


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "HTTP_PROXY", "HTTPS_PROXY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "dummy"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", TOKEN),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none")),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_PROXY", "127.0.0.1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(session, "POLL_EVERY_S", 0.0)


@pytest.fixture(name="cloud")
def _cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with mock_aws():
        cloud = Cloud()
        for command in (publish_command, deploy_command):
            monkeypatch.setattr(command, "Aws", lambda *_: cloud.aws)
        yield cloud
        cloud.check()
