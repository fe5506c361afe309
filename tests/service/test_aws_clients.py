"""The clients that the other tests take are those of the original service."""

from __future__ import annotations

import pytest

from tests.service.aws import Aws, ClientFailed, needs_aws

pytestmark = needs_aws
NOBODY = Aws("http://127.0.0.1:1", "AKIDEXAMPLE", "secret")


def test_boto3_has_the_service_and_its_version_is_the_last_that_did() -> None:
    script = "result = [boto3.__version__, client.meta.service_model.api_version, word]"
    found = NOBODY.boto3(f"import boto3\n{script}", word="given")
    assert found == ["1.40.60", "2020-11-20", "given"]


def test_an_error_of_the_client_is_the_tests_error() -> None:
    with pytest.raises(ClientFailed, match="EndpointConnectionError"):
        NOBODY.boto3(
            "from botocore.config import Config\n"
            "config = Config(retries={'total_max_attempts': 1})\n"
            "session.client('lookoutvision', config=config).list_projects()"
        )


def test_the_command_line_has_the_service() -> None:
    with pytest.raises(ClientFailed, match="required: --project-name"):
        NOBODY.cli("create-project")
