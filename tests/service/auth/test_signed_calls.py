"""A running service knows who calls: boto3 and the AWS CLI as they are, and requests as attacks."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from edge_agent.cli import main
from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.auth.http_request import HttpRequest
from tests.fakes import certificates
from tests.service.auth.signing import (
    SIGNED_CHUNKS,
    UNSIGNED_CHUNKS,
    WITH_TRAILER,
    in_chunks,
    signed,
    with_header,
)
from tests.service.aws import Aws, ClientFailed, needs_aws
from tests.service.running import RunningService

PROJECTS = "/2020-11-20/projects"
ERROR = """
import botocore
from botocore.config import Config
try:
    session.client("lookoutvision", config=Config(**settings)).list_projects()
except botocore.exceptions.ClientError as error:
    found = error.response
    result = [found["Error"]["Code"], found["ResponseMetadata"]["HTTPStatusCode"]]
"""
# Lets a call through once it was captured, as somebody on the network may.
CAPTURE = """
seen = []
def capture(request, **_):
    seen.append([request.method, request.url, dict(request.headers.items()), request.body])
client.meta.events.register("before-send.lookoutvision", capture)
first = client.create_project(ProjectName="captured")["ProjectMetadata"]["ProjectArn"]
def plain(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value
method, url, headers, body = seen[0]
result = [method, url, {name: plain(value) for name, value in headers.items()}, plain(body), first]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def user(service: RunningService) -> Aws:
    return service.user()


def key_of(user: Aws) -> AccessKey:
    return AccessKey(user.access_key, "123456789012", user.secret_key, 0.0)


def create(user: Aws, name: str, **more: Any) -> HttpRequest:
    """CreateProject, without a client token unless `headers` has one."""
    body = json.dumps({"ProjectName": name}).encode()
    return signed(PROJECTS, body=body, key=key_of(user), endpoint=user.endpoint, **more)


def send(user: Aws, request: HttpRequest) -> Tuple[int, str, Dict[str, Any]]:
    """The status, the error's code and the body of the answer."""
    connection = HTTPConnection(user.endpoint.rpartition("/")[2], timeout=60)
    target = request.raw_path + (f"?{request.raw_query}" if request.raw_query else "")
    connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers:
        if name != "content-length":
            connection.putheader(name, value)
    connection.putheader("content-length", str(len(request.body)))
    connection.endheaders(request.body)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, answer.headers.get("x-amzn-errortype", ""), content


def refusal(user: Aws, request: HttpRequest) -> Tuple[int, str]:
    return send(user, request)[:2]


def projects(service: RunningService) -> str:
    """All that the records say, for what must not be there."""
    return (service.root / "audit.log").read_text()


@needs_aws
def test_boto3_and_the_aws_cli_are_known(user: Aws) -> None:
    arn = user.boto3(
        "result = client.create_project(ProjectName='made')['ProjectMetadata']['ProjectArn']"
    )
    assert arn == "arn:aws:lookoutvision:us-east-1:123456789012:project/made"
    assert user.cli("describe-project", "--project-name", "made")["ProjectDescription"] == {
        **user.cli("list-projects")["Projects"][0], "Datasets": [],
    }  # fmt: skip


@needs_aws
def test_names_with_any_letters_are_signed_as_boto3_does(user: Aws) -> None:
    code = """
result = []
for name in ["a b", "a/b", "a%2Fb", "ä+~*'()!", "a:b@c,d;e=f&g$h", "?x=y#z"]:
    try:
        client.list_tags_for_resource(ResourceArn=name)
    except client.exceptions.ClientError as error:
        result.append(error.response["Error"]["Code"])
for value in ["a b", "a+b&c=d", "ä/%2F~*'"]:
    found = client.get_paginator("list_dataset_entries").paginate(
        ProjectName="none", DatasetType="train", SourceRefContains=value)
    try:
        list(found)
    except client.exceptions.ClientError as error:
        result.append(error.response["Error"]["Code"])
"""
    found = user.boto3(code)
    assert len(found) == 9
    assert set(found) <= {"ValidationException", "ResourceNotFoundException"}


@needs_aws
@pytest.mark.parametrize(
    ("wrong", "settings", "expected"),
    [
        ({"secret_key": "A" * 40}, {}, ["InvalidSignatureException", 403]),
        ({"access_key": "AKIAAAAAAAAAAAAAAAAA"}, {}, ["UnrecognizedClientException", 403]),
    ],
)
def test_clients_are_refused_with_awss_errors(
    user: Aws, wrong: Dict[str, str], settings: Dict[str, Any], expected: object
) -> None:
    assert replace(user, **wrong).boto3(ERROR, settings=settings) == expected


@needs_aws
def test_the_aws_cli_shows_why_it_is_refused(user: Aws) -> None:
    with pytest.raises(ClientFailed, match=r"InvalidSignatureException.*we calculated does not"):
        replace(user, secret_key="A" * 40).cli("list-projects")
    with pytest.raises(ClientFailed, match="MissingAuthenticationToken"):
        user.cli("list-projects", "--no-sign-request")


@needs_aws
def test_a_presigned_url_is_taken_as_it_is_and_not_when_it_is_changed(user: Aws) -> None:
    url = user.boto3(
        "result = client.generate_presigned_url('list_projects', {'MaxResults': 7}, ExpiresIn=60)"
    )
    with urlopen(url, timeout=60) as answer:
        assert "Projects" in json.load(answer)
    with pytest.raises(HTTPError, match="403"):
        urlopen(url.replace("maxResults=7", "maxResults=8"), timeout=60)
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(url, method="DELETE"), timeout=60)


@needs_aws
def test_a_captured_call_is_answered_with_its_first_answer_and_changed_with_none(
    user: Aws,
) -> None:
    method, url, headers, body, arn = user.boto3(CAPTURE)
    path = url.removeprefix(user.endpoint)
    pairs = [(name.lower(), value) for name, value in headers.items()]
    pairs.append(("host", user.endpoint.rpartition("/")[2]))
    request = HttpRequest(method, path, "", pairs, body.encode(), "127.0.0.1", secure=False)
    status, _, answer = send(user, request)
    assert (status, answer["ProjectMetadata"]["ProjectArn"]) == (200, arn)
    other = b'{"ProjectName": "attacker"}'
    token = "11111111-2222-3333-4444-555555555555"
    for changed in (
        replace(request, body=other),
        replace(request, raw_path=f"{path}/captured", method="DELETE"),
        with_header(request, "x-amzn-client-token", token),
        with_header(request, "x-amzn-client-token", None),
    ):
        assert refusal(user, changed) == (403, "InvalidSignatureException")


def test_a_signature_changes_something_once_also_after_a_restart(
    service: RunningService, user: Aws
) -> None:
    request = create(user, "once")
    assert send(user, request)[0] == 200
    assert refusal(user, request) == (403, "InvalidSignatureException")
    service.stop()
    service.start()
    assert refusal(user, request) == (403, "InvalidSignatureException")


def test_a_call_that_failed_may_be_sent_again(user: Aws) -> None:
    assert send(user, create(user, "there"))[0] == 200
    again = create(user, "there", headers={"x-other": "signed"})  # another signature
    for _ in range(2):
        assert refusal(user, again) == (409, "ConflictException")


def test_a_client_token_makes_the_same_signature_harmless(user: Aws) -> None:
    request = create(user, "retried", headers={"X-Amzn-Client-Token": "token-1"})
    assert send(user, request)[2] == send(user, request)[2]


def test_altered_and_made_up_requests_are_refused_and_change_nothing(
    service: RunningService, user: Aws
) -> None:
    request = create(user, "attacked", headers={"X-Amzn-Client-Token": "token-2"})
    wrong = (403, "InvalidSignatureException")
    for altered, expected in (
        (replace(request, body=b'{"ProjectName": "attacker"}'), wrong),
        (replace(request, raw_path=f"{PROJECTS}/"), wrong),
        (replace(request, raw_query="a=b"), wrong),
        (with_header(request, "x-amzn-client-token", "token-3"), wrong),
        (with_header(request, "authorization", None), (403, "MissingAuthenticationTokenException")),
        (with_header(request, "x-amz-date", "20201120T080000Z"), wrong),
        (create(user, "attacked", service="s3"), wrong),
        (create(user, "attacked", token="session"), (403, "UnrecognizedClientException")),
    ):
        assert refusal(user, altered) == expected
    assert "attack" not in projects(service)
    assert send(user, request)[0] == 200


def test_what_exists_is_not_said_to_those_who_are_not_known(user: Aws) -> None:
    assert send(user, create(user, "hidden"))[0] == 200
    stranger = replace(user, secret_key="A" * 40)
    for path in ("hidden", "none", "hidden/models/1", "none/none/none"):
        request = signed(
            f"{PROJECTS}/{path}", "GET", b"", key=key_of(stranger), endpoint=user.endpoint
        )
        status, code, answer = send(user, request)
        assert (status, code) == (403, "InvalidSignatureException")
        assert "hidden" not in str(answer)
        assert "none" not in str(answer)


def test_another_accounts_resources_are_answered_as_those_that_do_not_exist(
    service: RunningService, user: Aws
) -> None:
    assert send(user, create(user, "mine"))[0] == 200
    other = service.user("210987654321")

    def describe(name: str) -> Tuple[int, str, Dict[str, Any]]:
        path = f"{PROJECTS}/{name}"
        return send(other, signed(path, "GET", b"", key=key_of(other), endpoint=user.endpoint))

    mine, none = describe("mine"), describe("none")
    assert mine[:2] == (404, "ResourceNotFoundException")
    assert str(mine).replace("mine", "NAME") == str(none).replace("none", "NAME")


def test_a_removed_key_is_refused_at_once(service: RunningService) -> None:
    user = service.user()
    assert send(user, create(user, "before"))[0] == 200
    assert main(["service", "keys", "remove", "--root", str(service.root), user.access_key]) == 0
    assert refusal(user, create(user, "after")) == (403, "UnrecognizedClientException")


@pytest.mark.parametrize("form", [SIGNED_CHUNKS, WITH_TRAILER, UNSIGNED_CHUNKS])
def test_bodies_in_chunks_are_read(user: Aws, form: str) -> None:
    name = form.lower()
    parts = [b'{"ProjectName": ', f'"{name}"'.encode() + b"}"]
    status, _, answer = send(user, in_chunks(form, parts, key=key_of(user), endpoint=user.endpoint))
    assert (status, answer["ProjectMetadata"]["ProjectName"]) == (200, name)


def test_the_folder_and_its_files_are_of_their_user_alone(service: RunningService) -> None:
    assert stat.S_IMODE(service.root.stat().st_mode) == 0o700
    for name in ("records.db", "records.db-wal", "audit.log", "service.lock"):
        assert stat.S_IMODE((service.root / name).stat().st_mode) == 0o600


def test_no_secret_is_in_what_the_service_writes(service: RunningService, user: Aws) -> None:
    for file in (service.folder / "service.log", service.root / "audit.log"):
        assert user.secret_key not in file.read_text()


def test_unsigned_calls_are_taken_by_a_switch(tmp_path: Path) -> None:
    with RunningService(tmp_path, {"unsigned": True}) as running:
        user = running.user()
        request = with_header(create(user, "unsigned"), "authorization", None)
        arn = send(user, request)[2]["ProjectMetadata"]["ProjectArn"]
        assert arn == "arn:aws:lookoutvision:us-east-1:000000000000:project/unsigned"
        wrong = create(replace(user, secret_key="A" * 40), "wrong")
        assert refusal(user, wrong) == (403, "InvalidSignatureException")


@needs_aws
def test_clients_call_over_tls(tmp_path: Path) -> None:
    certificates.authority(tmp_path, "ca")
    certificates.certificate(tmp_path, "ca", "server")
    files = {
        "tls_certificate": str(tmp_path / "server.pem"),
        "tls_key": str(tmp_path / "server.key"),
    }
    with RunningService(tmp_path, files) as running:
        user = replace(running.user(), endpoint=f"https://127.0.0.1:{running.port}")
        code = (
            "from botocore.config import Config\n"
            "once = Config(retries={'total_max_attempts': 1})\n"
            "client = session.client('lookoutvision', verify=ca, config=once)\n"
            "result = client.list_projects()['Projects']"
        )
        assert user.boto3(code, ca=str(tmp_path / "ca.pem")) == []
        with pytest.raises(ClientFailed, match="SSLError"):
            user.boto3(code, ca=True)
