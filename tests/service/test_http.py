"""What happens to a call between its request and its answer."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List
from urllib.parse import quote

import pytest
from sqlalchemy import func, insert, select

from edge_agent.service import bodies
from edge_agent.service.auth import replays
from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import PROJECTS as TABLE
from tests.service.aws import Aws, needs_aws
from tests.service.served import ACCOUNT, PROJECTS, Served, served

MODELS = f"{PROJECTS}/cookies/models"
DETECT = f"{MODELS}/1/detect"
NOBODY = AccessKey("AKIAAAAAAAAAAAAAAAAA", ACCOUNT, "secret", 0.0)


def keep_project(call: Call, transaction: Transaction) -> Answer:
    name = call.parameters["ProjectName"]
    transaction.connection.execute(
        insert(TABLE).values(account=call.account, name=name, arn=name, created=call.now)
    )
    return {"ProjectMetadata": {"ProjectName": name}}


def projects(service: Served) -> int:
    with service.records.read() as transaction:
        return transaction.connection.execute(select(func.count()).select_from(TABLE)).scalar_one()


def failing(error: Exception) -> Any:
    """An operation that fails after it has written."""

    def operation(call: Call, transaction: Transaction) -> Answer:
        keep_project(call, transaction)
        raise error

    return operation


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, {"CreateProject": keep_project}) as running:
        yield running


def test_a_call_reaches_its_operation_and_its_answer_the_caller(service: Served) -> None:
    token = {"X-Amzn-Client-Token": "token-1"}
    answer = service.signed("POST", PROJECTS, b'{"ProjectName": "cookies"}', token)
    assert answer.status == 200
    assert answer.content == {"ProjectMetadata": {"ProjectName": "cookies"}}
    assert answer.headers["content-type"] == "application/json"
    (call,) = service.calls
    assert call.parameters == {"ProjectName": "cookies", "ClientToken": "token-1"}
    assert (call.service, call.operation, call.account) == (
        "lookoutvision",
        "CreateProject",
        ACCOUNT,
    )
    assert (call.access_key, call.region) == (service.key.id, "us-east-1")
    assert call.request_id == answer.headers["x-amzn-requestid"]
    assert projects(service) == 1


def test_statuses_are_those_of_the_model(service: Served) -> None:
    assert service.signed("DELETE", f"{PROJECTS}/a/datasets/train").status == 202
    assert service.signed("GET", PROJECTS).status == 200


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", PROJECTS, b""),
        ("GET", "/other", b""),
        ("OPTIONS", "/", b""),
        ("POST", PROJECTS, b'{"ProjectName": "!"}'),
        ("POST", PROJECTS, b"{"),
        ("GET", f"{PROJECTS}?maxResults=x", b""),
    ],
)
def test_nothing_is_said_about_a_request_before_its_signature_is_right(
    service: Served, method: str, target: str, body: bytes
) -> None:
    unsigned = service.call(method, target, body)
    assert (unsigned.status, unsigned.error) == (403, "MissingAuthenticationTokenException")
    assert unsigned.content == service.call("GET", PROJECTS).content
    unknown = service.signed(method, target, body, key=NOBODY)
    assert (unknown.status, unknown.error) == (403, "UnrecognizedClientException")
    forged = AccessKey(service.key.id, ACCOUNT, "another secret", 0.0)
    assert service.signed(method, target, body, key=forged).error == "InvalidSignatureException"
    assert service.calls == []


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "error"),
    [
        ("GET", "/other", b"", 404, "UnknownOperationException"),
        ("PUT", PROJECTS, b"", 404, "UnknownOperationException"),
        ("POST", PROJECTS, b"{", 400, "SerializationException"),
        ("POST", PROJECTS, b"{}", 400, "ValidationException"),
        ("GET", f"{PROJECTS}?maxResults=0", b"", 400, "ValidationException"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(
    service: Served, method: str, target: str, body: bytes, status: int, error: str
) -> None:
    answer = service.signed(method, target, body)
    assert (answer.status, answer.error) == (status, error)
    assert answer.message.rstrip(".")
    assert len(answer.headers["x-amzn-requestid"]) == 36
    assert service.calls == []


def test_a_fault_is_its_answer_and_leaves_nothing(tmp_path: Path) -> None:
    fault = Conflict("It is there.", "PROJECT", "cookies")
    with served(tmp_path, {"CreateProject": failing(fault)}) as service:
        token = {"X-Amzn-Client-Token": "token-1"}
        for _ in range(2):
            answer = service.signed("POST", PROJECTS, b'{"ProjectName": "cookies"}', token)
            assert (answer.status, answer.error) == (409, "ConflictException")
            expected = {
                "Message": "It is there.",
                "ResourceType": "PROJECT",
                "ResourceId": "cookies",
            }
            assert answer.content == expected
        assert len(service.calls) == 2
        assert projects(service) == 0


@pytest.mark.parametrize(
    "operation", [failing(ValueError("hidden")), lambda *_: {"Other": "hidden"}]
)
def test_what_we_did_not_foresee_is_logged_and_only_its_id_is_answered(
    tmp_path: Path, operation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with served(tmp_path, {"CreateProject": operation}) as service:
        answer = service.signed("POST", PROJECTS, b'{"ProjectName": "cookies"}')
        assert (answer.status, answer.error) == (500, "InternalServerException")
        request_id = answer.headers["x-amzn-requestid"]
        assert answer.content == {
            "Message": f"The service failed. Its log says why, at the request id {request_id}."
        }
        assert projects(service) == 0
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert request_id in record.getMessage()
    assert record.exc_info


def test_what_changes_something_is_answered_after_the_commit(tmp_path: Path) -> None:
    seen: List[int] = []

    def operation(call: Call, transaction: Transaction) -> Answer:
        transaction.after_commit(lambda: seen.append(projects(service)))
        return keep_project(call, transaction)

    with served(tmp_path, {"CreateProject": operation}) as service:
        assert service.signed("POST", PROJECTS, b'{"ProjectName": "cookies"}').status == 200
        assert seen == [1]


def test_calls_with_one_token_do_the_work_once_though_they_come_together(service: Served) -> None:
    def call(number: int) -> Dict[str, Any]:
        name = f"cookies-{number % 50}"
        token = {"X-Amzn-Client-Token": f"token-{number % 50}"}
        body = json.dumps({"ProjectName": name}).encode()
        answer = service.signed("POST", PROJECTS, body, token)
        assert (answer.status, answer.content["ProjectMetadata"]) == (200, {"ProjectName": name})
        return answer.headers

    with ThreadPoolExecutor(50) as callers:
        answers = list(callers.map(call, range(1000)))
    assert len({headers["x-amzn-requestid"] for headers in answers}) == 1000
    assert projects(service) == len(service.calls) == 50


def test_a_token_with_other_parameters_is_refused(service: Served) -> None:
    token = {"X-Amzn-Client-Token": "token-1"}
    assert service.signed("POST", PROJECTS, b'{"ProjectName": "a"}', token).status == 200
    answer = service.signed("POST", PROJECTS, b'{"ProjectName": "b"}', token)
    assert (answer.status, answer.error) == (409, "ConflictException")
    assert projects(service) == 1


def test_a_recorded_request_changes_nothing_a_second_time(service: Served) -> None:
    target = f"{PROJECTS}/a"
    headers = service.signature("DELETE", target, b"", {}, service.key)
    assert service.call("DELETE", target, b"", headers).status == 200
    again = service.call("DELETE", target, b"", headers)
    assert (again.status, again.error) == (403, "InvalidSignatureException")
    assert len(service.calls) == 1


def test_other_calls_are_answered_while_an_operation_takes_long(tmp_path: Path) -> None:
    go_on = threading.Event()

    def operation(call: Call, transaction: Transaction) -> Answer:
        go_on.wait(60)
        return {}

    with served(tmp_path, {"DescribeProject": operation}) as service, ThreadPoolExecutor(1) as one:
        try:
            slow = one.submit(service.signed, "GET", f"{PROJECTS}/cookies")
            assert service.signed("GET", PROJECTS).status == 200
            assert not slow.done()
        finally:
            go_on.set()
        assert slow.result().status == 200


def test_too_many_calls_are_refused_with_the_seconds_to_wait(tmp_path: Path) -> None:
    with served(tmp_path, {}, burst=1) as service:
        answers = [service.signed("GET", PROJECTS) for _ in range(20)]
    refused = [answer for answer in answers if answer.status != 200]
    assert answers[0].status == 200
    assert {(a.status, a.error, a.headers["retry-after"]) for a in refused} == {
        (429, "ThrottlingException", "1")
    }


def test_calls_that_change_something_leave_a_line_in_the_audit_log(service: Served) -> None:
    service.signed("GET", PROJECTS)
    service.signed("POST", PROJECTS, b'{"ProjectName": "cookies"}', {"X-Amzn-Client-Token": "1"})
    service.signed("POST", PROJECTS, b'{"ProjectName": "b"}', {"X-Amzn-Client-Token": "1"})
    lines = service.audit_lines()
    assert [line["outcome"] for line in lines] == ["OK", "ConflictException"]
    assert {line["accessKeyId"] for line in lines} == {service.key.id}
    assert lines[0]["ids"] == {"ProjectName": "cookies"}


@pytest.mark.parametrize("target", [PROJECTS, "/other", MODELS])
def test_a_body_that_is_too_large_is_refused(service: Served, target: str) -> None:
    at_most = service.signed("POST", target, b" " * 2**20)
    assert at_most.status != 413
    refused = service.signed("POST", target, b" " * (2**20 + 1))
    assert (refused.status, refused.error) == (413, "RequestEntityTooLargeException")
    assert "at most 1048576 bytes" in refused.message
    assert refused.headers["connection"] == "close"


def test_the_sender_of_much_too_large_a_body_reads_the_answer(service: Served) -> None:
    body, kind = b"x" * (30 * 2**20), {"Content-Type": "image/png"}
    stranger = service.call("POST", DETECT, body, kind)
    assert (stranger.status, stranger.error) == (403, "MissingAuthenticationTokenException")
    answer = service.signed("POST", DETECT, body, kind)
    assert (answer.status, answer.error) == (413, "RequestEntityTooLargeException")


def test_an_image_as_large_as_an_image_may_be_reaches_its_operation(service: Served) -> None:
    image = bytes(8 * 2**20)
    answer = service.signed("POST", DETECT, image, {"Content-Type": "image/png"})
    assert answer.status == 200
    assert service.calls[0].parameters["Body"] == image


def test_the_longest_query_is_read(service: Served) -> None:
    keys = ["\u6f22" * 128] * 200
    query = "&".join(f"tagKeys={quote(key)}" for key in keys)
    answer = service.signed("DELETE", f"/2020-11-20/tags/arn?{query}")
    assert answer.status == 200
    assert service.calls[0].parameters["TagKeys"] == keys


@pytest.mark.parametrize("limit", ["WAIT_S", "STALL_S"])
def test_a_body_that_does_not_come_is_given_up(
    service: Served, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(bodies, limit, 0.2)
    headers = service.signature("POST", PROJECTS, b"", {}, service.key)
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection:
        connection.putrequest("POST", PROJECTS)
        for name, value in {**headers, "Content-Length": "10"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"{")
        response = connection.getresponse()
        assert response.status == 408
        assert response.headers["x-amzn-ErrorType"] == "RequestTimeoutException"
        assert "0.2 s" in json.loads(response.read())["message"]


def test_a_caller_who_goes_leaves_nothing(
    service: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        head = f"POST {PROJECTS} HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode())
    assert service.signed("GET", PROJECTS).status == 200
    assert [call.operation for call in service.calls] == ["ListProjects"]
    assert caplog.records == []


@needs_aws
def test_the_original_client_reads_errors_and_answers(tmp_path: Path) -> None:
    def models(call: Call, _: Transaction) -> Answer:
        first = "NextToken" not in call.parameters
        version = "1" if first else "2"
        answer: Answer = {"Models": [{"ModelVersion": version}]}
        return {**answer, "NextToken": "a+/=="} if first else answer

    operations = {
        "CreateProject": keep_project,
        "ListModels": models,
        "DeleteProject": failing(Conflict("It has models.", "PROJECT", "cookies")),
    }
    with served(tmp_path, operations) as service:
        user = Aws(f"http://127.0.0.1:{service.port}", service.key.id, service.key.secret)
        found = user.boto3(
            """
client.create_project(ProjectName="cookies")
pages = client.get_paginator("list_models").paginate(ProjectName="cookies")
result = [[model["ModelVersion"] for page in pages for model in page["Models"]]]
try:
    client.delete_project(ProjectName="other")
except client.exceptions.ConflictException as error:
    result.append([str(error), error.response["ResourceId"], error.response["ResourceType"]])
arn = "arn:aws:lookoutvision:us-east-1:123456789012:model/cookies/1"
client.tag_resource(ResourceArn=arn, Tags=[{"Key": "a b", "Value": "\\u00e9"}])
client.untag_resource(ResourceArn=arn, TagKeys=["a b", "c+"])
client.update_dataset_entries(ProjectName="cookies", DatasetType="train", Changes=b"{}")
client.detect_anomalies(
    ProjectName="cookies", ModelVersion="1", ContentType="image/png", Body=b"\\x89PNG"
)
try:
    client.detect_anomalies(
        ProjectName="a", ModelVersion="1", ContentType="image/png", Body=bytes(20_000_000)
    )
except client.exceptions.ClientError as error:
    result.append(error.response["Error"]["Code"])
"""
        )
    message = (
        "An error occurred (ConflictException) when calling the DeleteProject operation: "
        "It has models."
    )
    conflict = [message, "cookies", "PROJECT"]
    assert found == [["1", "2"], conflict, "RequestEntityTooLargeException"]
    calls = {call.operation: call.parameters for call in service.calls}
    arn = "arn:aws:lookoutvision:us-east-1:123456789012:model/cookies/1"
    assert calls["TagResource"] == {
        "ResourceArn": arn, "Tags": [{"Key": "a b", "Value": "\u00e9"}]
    }  # fmt: skip
    assert calls["UntagResource"] == {"ResourceArn": arn, "TagKeys": ["a b", "c+"]}
    assert calls["UpdateDatasetEntries"]["Changes"] == b"{}"
    assert calls["DetectAnomalies"]["Body"] == b"\x89PNG"


def test_readers_are_answered_while_writers_wait_for_each_other(service: Served) -> None:
    """Far more writers than there are threads, while another process holds the records."""
    bodies = [json.dumps({"ProjectName": f"p{number}"}).encode() for number in range(60)]
    with ThreadPoolExecutor(60) as callers:
        with service.records.write():
            writing = [callers.submit(service.signed, "POST", PROJECTS, body) for body in bodies]
            for _ in range(20):
                assert service.signed("GET", PROJECTS).status == 200
            assert not any(call.done() for call in writing)
        assert {call.result().status for call in writing} == {200}
    assert projects(service) == 60


def test_refused_calls_leave_a_line_as_well(tmp_path: Path) -> None:
    with served(tmp_path, {"CreateProject": keep_project}, burst=2) as service:
        service.signed("POST", PROJECTS, b"{}", key=NOBODY)
        service.call("DELETE", f"{PROJECTS}/cookies%0A", b"")
        service.signed("POST", PROJECTS, b'{"ProjectName": "!"}')
        status, number = 200, 0
        while status == 200:
            number += 1
            body = json.dumps({"ProjectName": f"a{number}"}).encode()
            status = service.signed("POST", PROJECTS, body).status
        service.signed("GET", f"{PROJECTS}/none")
        found = [(line["operation"], line["outcome"]) for line in service.audit_lines()]
        lines = service.audit_lines()
    create = "lookoutvision:CreateProject"
    assert [pair for pair in found if pair[1] != "OK"] == [
        (create, "UnrecognizedClientException"),
        ("lookoutvision:DeleteProject", "MissingAuthenticationTokenException"),
        (create, "ValidationException"),
        (create, "ThrottlingException"),
    ]
    assert found.count((create, "OK")) == number - 1 >= 2
    assert [line["account"] for line in lines] == ["", "", *[ACCOUNT] * (number + 1)]
    assert (lines[0]["accessKeyId"], lines[0]["peer"]) == (NOBODY.id, "127.0.0.1")
    assert lines[1]["ids"] == {"ProjectName": "cookies\n"}


def test_equal_calls_of_one_second_pass_where_there_is_no_client_token(service: Served) -> None:
    target, body = "/2020-11-20/tags/arn", b'{"Tags": []}'
    headers = service.signature("POST", target, body, {}, service.key)
    assert [service.call("POST", target, body, headers).status for _ in range(2)] == [200, 200]
    assert len(service.calls) == 2


def test_what_was_refused_is_not_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the call has a client token, and another could be done with it by now."""
    monkeypatch.setattr(replays, "RETRY_WITHIN_S", 0.0)
    refusing = [True]

    def operation(call: Call, transaction: Transaction) -> Answer:
        if refusing.pop():
            raise Conflict("It is there.", "PROJECT", "cookies")
        return keep_project(call, transaction)

    with served(tmp_path, {"CreateProject": operation}) as service:
        body, token = b'{"ProjectName": "cookies"}', {"X-Amzn-Client-Token": "token-1"}
        headers = service.signature("POST", PROJECTS, body, token, service.key)
        assert service.call("POST", PROJECTS, body, headers).status == 409
        refusing.append(False)
        again = service.call("POST", PROJECTS, body, headers)
        assert (again.status, again.error) == (403, "InvalidSignatureException")
        assert projects(service) == 0
