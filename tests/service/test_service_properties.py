"""The whole service under calls at random, made from the shapes: no mistake of ours comes up.

Names are drawn from few, so that calls find what others made; answers satisfy their shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from botocore.compat import HTTPHeaders
from botocore.model import OperationModel
from botocore.parsers import create_parser
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.wire.validation import validate
from tests.service.running import RunningService
from tests.service.served import Received, ask
from tests.service.wire.shape_values import OPERATIONS, any_value, sent

ARN = "arn:aws:lookoutvision:us-east-1:000000000000:"
FEW: Dict[str, Any] = {
    "ProjectName": ["a", "b"],
    "DatasetType": ["train", "test"],
    "ModelVersion": ["1", "2", "latest"],
    "JobName": ["job-1", "job-2"],
    "ResourceArn": [f"{ARN}project/a", f"{ARN}model/a/1", f"{ARN}model/b/2", "arn:aws:other"],
    "Bucket": ["abc", "none"],
    "Key": ["manifest", "other"],
    "ContentType": ["image/png", "text/plain"],
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder: Path = tmp_path_factory.mktemp("service")
    quotas = {"calls_per_s": 10_000.0, "burst": 10_000}
    with RunningService(folder, {"unsigned": True, "quotas": quotas}) as service:
        line = {"source-ref": "s3://abc/1.png", "anomaly-label-metadata": {"class-name": "normal"}}
        (service.bucket("abc") / "manifest").write_text(json.dumps(line) + "\n")
        yield service.port
        assert "Traceback" not in service.log()


@st.composite
def calls(draw: st.DrawFn) -> Any:
    operation = draw(st.sampled_from(OPERATIONS))
    parameters = draw(any_value(operation.input_shape))
    parameters.pop("ClientToken", None)
    return operation, with_few_names(draw, parameters)


def with_few_names(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, list):
        return [with_few_names(draw, item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: draw(st.sampled_from(FEW[name])) if name in FEW else with_few_names(draw, item)
        for name, item in value.items()
    }


def call(port: int, operation: OperationModel, parameters: Dict[str, Any]) -> Received:
    request = sent(operation, parameters)
    query = f"?{request.raw_query}" if request.raw_query else ""
    return ask(port, request.method, request.raw_path + query, request.body, request.headers)


def check(operation: OperationModel, answer: Received) -> None:
    assert answer.status < 500, answer
    shapes = {shape.error_code: shape for shape in operation.error_shapes}
    shape = operation.output_shape if answer.status < 300 else shapes[answer.error]
    headers = HTTPHeaders.from_dict(answer.headers)
    response = {"status_code": answer.status, "headers": headers, "body": answer.body}
    parsed = create_parser("rest-json").parse(response, shape)
    validate(shape, {name: value for name, value in parsed.items() if name in shape.members})


@settings(max_examples=40)
@given(st.lists(calls(), min_size=5, max_size=15))
def test_any_calls_are_answered_as_their_shapes_say(port: int, made: Any) -> None:
    for operation, parameters in [
        (OPERATIONS_BY_NAME["CreateProject"], {"ProjectName": "a"}),
        *made,
    ]:
        check(operation, call(port, operation, parameters))


OPERATIONS_BY_NAME = {operation.name: operation for operation in OPERATIONS}
