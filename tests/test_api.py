"""The public Python interface, pinned: what docs/api.md describes doesn't change by accident.

A failure here means that programs of users break. Arguments with defaults, fields and methods may
be added: then add them here and to the page.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from typing import Any, Dict, Type

import pytest

from edge_agent import client, errors
from edge_agent.client import Client, Prediction, images
from tests import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()

SIGNATURES = {
    "Client": (
        "address='unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock', timeout_s=30.0, "
        "credentials=None, camera_id='', priority=INSPECTION, *, lane=None"
    ),
    "Client.close": "self",
    "Client.describe": "self, name",
    "Client.detect": "self, model, image, transport='shared_memory'",
    "Client.models": "self",
    "Client.start": "self, name, wait_s=60.0",
    "Client.stop": "self, name",
    "Client.stream": "self, model, images, max_in_flight=4, newest_frame_wins=False",
    "Client.wait_ready": "self, within_s",
    "images.find": "paths",
    "images.load": "path",
    "images.save": "path, image",
}
FIELDS = {
    "Anomaly": "name area color",
    "ModelInfo": (
        "name state message arn inference_units desired_units least_units most_units engine build"
    ),
    "Prediction": (
        "is_anomalous confidence score threshold anomalies regions mask mask_size model_version "
        "camera_problems result_id is_unsure"
    ),
    "Region": "name left top width height area peak",
    "StreamAnswer": "frame_id prediction error",
}
VALUES: Dict[str, Dict[str, Any]] = {
    "CameraProblem": {
        name.upper(): name for name in ("black", "dark", "bright", "blank", "blurred", "frozen")
    },
    "ModelState": {"STOPPED": 0, "STARTING": 1, "RUNNING": 2, "FAILED": 3, "STOPPING": 4},
    "Priority": {"INSPECTION": "inspection", "RESCORING": "rescoring"},
}
# error → the class it is caught by as well, and the gRPC status it stands for
ERRORS = {
    "InvalidRequest": ("UserError", "INVALID_ARGUMENT"),
    "InvalidFrame": ("InvalidRequest", "INVALID_ARGUMENT"),
    "FaultyPicture": ("InvalidFrame", "INVALID_ARGUMENT"),
    "ModelNotFound": ("UserError", "NOT_FOUND"),
    "WrongModelState": ("UserError", "FAILED_PRECONDITION"),
    "Overloaded": ("UserError", "RESOURCE_EXHAUSTED"),
    "DeadlineExceeded": ("UserError", "DEADLINE_EXCEEDED"),
    "NotAllowed": ("UserError", "PERMISSION_DENIED"),
    "AgentUnavailable": ("EdgeAgentError", "UNAVAILABLE"),
    "InferenceFailed": ("ModelError", "INTERNAL"),
    "ModelError": ("EdgeAgentError", "UNKNOWN"),
}


def signature(of: Any) -> str:
    """Names and defaults, in order, without annotations."""
    words = []
    keyword_only = False
    for parameter in inspect.signature(of).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            words.append("*")
            keyword_only = True
        default = parameter.default
        if isinstance(default, enum.Enum):
            words.append(f"{parameter.name}={default.name}")
        elif default is not parameter.empty:
            words.append(f"{parameter.name}={default!r}")
        else:
            words.append(parameter.name)
    return ", ".join(words)


def named(path: str) -> Any:
    found: Any = client
    for part in path.split("."):
        found = getattr(found, part)
    return found


def methods(of: Type[Any], prefix: str) -> Dict[str, str]:
    public = {name for name in vars(of) if not name.startswith("_")}
    return {f"{prefix}.{name}": signature(getattr(of, name)) for name in public}


def test_the_package_exports_these_names() -> None:
    values = {*FIELDS, *VALUES}
    assert set(client.__all__) == {"Client", "images", *values}


def test_the_client_has_these_methods_with_these_arguments() -> None:
    found = {"Client": signature(Client), **methods(Client, "Client")}
    assert found == {name: text for name, text in SIGNATURES.items() if "images" not in name}


def test_image_files_have_these_functions() -> None:
    for name, text in SIGNATURES.items():
        if name.startswith("images."):
            assert signature(named(name)) == text
    assert ".png" in images.SUFFIXES


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_value_has_these_fields_and_is_frozen(name: str) -> None:
    value_class = named(name)
    assert [field.name for field in dataclasses.fields(value_class)] == FIELDS[name].split()
    assert value_class.__dataclass_params__.frozen


@pytest.mark.parametrize("name", sorted(VALUES))
def test_an_enumeration_has_these_members(name: str) -> None:
    assert {member.name: member.value for member in named(name)} == VALUES[name]


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_an_error_keeps_its_parent_and_its_status(name: str) -> None:
    parent, status = ERRORS[name]
    error = getattr(errors, name)
    assert issubclass(error, getattr(errors, parent))
    assert error.status == status
    assert issubclass(error, errors.EdgeAgentError)


def test_an_overload_says_how_many_wait_and_when_to_try_again() -> None:
    assert (errors.Overloaded.waiting, errors.Overloaded.retry_after_s) == (0, 0.0)


def test_a_prediction_needs_no_more_than_the_verdict() -> None:
    assert Prediction(True, 0.9, 0.8, 0.5).regions == ()


def test_the_page_names_all_of_it() -> None:
    words = set(re.findall(r"\w+", PAGE))
    arguments = {word for text in SIGNATURES.values() for word in re.findall(r"\w+(?==|,|$)", text)}
    fields = {word for name, text in FIELDS.items() if name != "ModelInfo" for word in text.split()}
    members = {member for values in VALUES.values() for member in values}
    names = {part for path in SIGNATURES for part in path.split(".")}
    missing = {*names, *FIELDS, *VALUES, *ERRORS, *fields, *members} - words
    assert not missing
    assert not {word for word in arguments if word.islower()} - words - {"self", "paths"}


def test_the_page_gives_each_error_its_status() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z_]+) \|", PAGE, re.MULTILINE))
    assert rows == {name: status for name, (_, status) in ERRORS.items()}
