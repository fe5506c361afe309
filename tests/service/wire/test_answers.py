"""What we answer comes out of the original client's parser as it went in: answers and errors."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Dict, Tuple

import pytest
from botocore.compat import HTTPHeaders
from botocore.parsers import create_parser
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.faults import ServiceFault
from edge_agent.service.wire.faults import AnswerMismatch, MalformedRequest, UnknownOperation
from edge_agent.service.wire.rest_json import HttpAnswer, RestJson
from tests import ROOT
from tests.service.aws import PYTHON, needs_aws
from tests.service.wire.shape_values import MODEL, OPERATIONS, any_value, complete, smallest

PROTOCOL = RestJson(MODEL)
SCRIPT = ROOT / "tests" / "service" / "wire" / "parse_answers.py"
OUTPUTS = {operation.name: operation.output_shape for operation in OPERATIONS}
ERRORS = {shape.error_code: shape for shape in MODEL.error_shapes}


def fault_of(code: str, members: Dict[str, object]) -> ServiceFault:
    fault = ServiceFault("What is wrong.")
    fault.code, fault.members = code, members
    return fault


@lru_cache(maxsize=None)
def cases() -> Dict[str, Tuple[str, Any, HttpAnswer]]:
    """By name: the operation, what is answered, and the answer as it is sent."""
    found = {}
    for operation in OPERATIONS:
        for kind, make in (("complete", complete), ("smallest", smallest)):
            answer = make(operation.output_shape)
            sent = PROTOCOL.answer(operation, answer)
            found[f"{operation.name} {kind}"] = (operation.name, answer, sent)
    for code, shape in ERRORS.items():
        for kind, make in (("complete", complete), ("smallest", smallest)):
            members = make(shape)
            sent = PROTOCOL.fault(fault_of(code, members))
            found[f"{code} {kind}"] = ("ListProjects", members, sent)
    return found


@lru_cache(maxsize=None)
def parsed_by_the_original() -> Dict[str, Any]:
    answers = [
        [name, answer.status, dict(answer.headers), base64.b64encode(answer.body).decode()]
        for name, _, answer in cases().values()
    ]
    words = [str(PYTHON), str(SCRIPT)]
    done = subprocess.run(
        words, input=json.dumps(answers).encode(), capture_output=True, check=True
    )
    return dict(zip(cases(), json.loads(done.stdout)))


def plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value.timestamp()


@needs_aws
@pytest.mark.parametrize("name", list(cases()))
def test_the_original_client_reads_the_same_values(name: str) -> None:
    _, answer, sent = cases()[name]
    parsed = parsed_by_the_original()[name]
    error = parsed.pop("Error", {})
    metadata = parsed.pop("ResponseMetadata")
    assert parsed == json.loads(json.dumps(answer, default=plain))
    assert metadata["HTTPStatusCode"] == sent.status
    if sent.status >= 300:
        assert error == {"Code": name.split()[0], "Message": answer["Message"]}


def test_statuses_are_the_models() -> None:
    statuses = {name: sent.status for name, (_, _, sent) in cases().items()}
    assert statuses["CreateDataset complete"] == 202
    assert statuses["CreateProject complete"] == 200
    assert {name: statuses[f"{name} complete"] for name in ERRORS} == {
        "AccessDeniedException": 403,
        "ConflictException": 409,
        "InternalServerException": 500,
        "ResourceNotFoundException": 404,
        "ServiceQuotaExceededException": 402,
        "ThrottlingException": 429,
        "ValidationException": 400,
    }


def test_an_error_says_when_to_call_again() -> None:
    members = {"Message": "Later.", "RetryAfterSeconds": 7}
    answer = PROTOCOL.fault(fault_of("ThrottlingException", members))
    assert answer.headers == {"x-amzn-ErrorType": "ThrottlingException", "Retry-After": "7"}
    assert json.loads(answer.body) == {"Message": "Later."}


@pytest.mark.parametrize(("fault", "status"), [(UnknownOperation, 404), (MalformedRequest, 400)])
def test_errors_outside_the_model_have_their_own_status(fault: Any, status: int) -> None:
    answer = PROTOCOL.fault(fault("What is wrong."))
    assert answer.status == status
    assert answer.headers == {"x-amzn-ErrorType": fault.code}
    assert json.loads(answer.body) == {"message": "What is wrong."}


@pytest.mark.parametrize("name", OUTPUTS)
@settings(max_examples=25)
@given(data=st.data())
def test_any_answer_is_read_as_it_was_given(name: str, data: st.DataObject) -> None:
    answer = data.draw(any_value(OUTPUTS[name]))
    sent = PROTOCOL.answer(MODEL.operation_model(name), answer)
    headers = HTTPHeaders.from_dict(sent.headers)
    response = {"status_code": sent.status, "headers": headers, "body": sent.body}
    parsed = create_parser("rest-json").parse(response, OUTPUTS[name])
    del parsed["ResponseMetadata"]
    assert parsed == answer


PROJECT = {"ProjectArn": "a", "ProjectName": "b", "CreationTimestamp": datetime.now(timezone.utc)}
OUTPUT = {"S3Location": {"Bucket": "abc"}}


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("CreateProject", {"Other": 1}),
        ("CreateProject", {"ProjectMetadata": {"Other": 1}}),
        ("CreateProject", {"ProjectMetadata": "a"}),
        ("CreateProject", {"ProjectMetadata": {**PROJECT, "CreationTimestamp": 1.5}}),
        (
            "CreateProject",
            {"ProjectMetadata": {**PROJECT, "CreationTimestamp": datetime(2026, 1, 1)}},
        ),
        ("CreateProject", {"ProjectMetadata": {**PROJECT, "ProjectName": 1}}),
        ("ListProjects", {"Projects": PROJECT}),
        ("ListProjects", {"Projects": [None]}),
        ("DescribeModel", {"ModelDescription": {"OutputConfig": {}}}),
        ("DescribeModel", {"ModelDescription": {"OutputConfig": {"S3Location": {"Bucket": None}}}}),
        ("DescribeModel", {"ModelDescription": {"MinInferenceUnits": True}}),
        ("DescribeModel", {"ModelDescription": {"MinInferenceUnits": 1.5}}),
        ("DetectAnomalies", {"DetectAnomalyResult": {"IsAnomalous": 1}}),
        ("DetectAnomalies", {"DetectAnomalyResult": {"AnomalyMask": "text"}}),
        ("DetectAnomalies", {"DetectAnomalyResult": {"Confidence": "0.5"}}),
    ],
)
def test_an_answer_that_its_shape_has_not_is_a_mistake(
    operation: str, answer: Dict[str, Any]
) -> None:
    with pytest.raises(AnswerMismatch):
        PROTOCOL.answer(MODEL.operation_model(operation), answer)


def test_a_member_without_a_value_is_left_out() -> None:
    answer = {"ModelDescription": {"Description": None, "OutputConfig": OUTPUT}}
    sent = PROTOCOL.answer(MODEL.operation_model("DescribeModel"), answer)
    assert json.loads(sent.body) == {"ModelDescription": {"OutputConfig": OUTPUT}}
