"""One table from errors to statuses, and none of our errors missing from it."""

from __future__ import annotations

import logging
from typing import Iterator, Tuple, Type

import grpc
import pytest

from edge_agent import errors
from edge_agent.client import convert
from edge_agent.runtime.rpc import metadata, status


def family(kind: Type[errors.EdgeAgentError]) -> Iterator[Type[errors.EdgeAgentError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


FAMILY = sorted(set(family(errors.EdgeAgentError)), key=lambda kind: kind.__name__)
CONTRACT = {0, 2, 3, 5, 8, 9, 13}  # the codes the original agent documents


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_becomes_its_status_with_its_own_words(
    kind: Type[errors.EdgeAgentError],
) -> None:
    code, details = status.of(kind("What came, what was expected."))
    assert code is grpc.StatusCode[kind.status]
    assert details == "What came, what was expected."


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_stands_in_the_tree_at_the_top_of_its_file(
    kind: Type[errors.EdgeAgentError],
) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line)
    assert kind in (errors.EdgeAgentError, errors.UserError) or kind.status in line


def test_only_deadline_unavailable_and_permission_leave_the_contracts_codes() -> None:
    outside = {
        kind.status for kind in FAMILY if grpc.StatusCode[kind.status].value[0] not in CONTRACT
    }
    assert outside == {"DEADLINE_EXCEEDED", "UNAVAILABLE", "PERMISSION_DENIED"}


def test_an_unknown_fault_shows_an_id_and_keeps_its_details_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        code, details = status.of(ZeroDivisionError("secret of the house"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "secret of the house" in caplog.text
    fault = details.split()[2].rstrip(";")
    assert fault in caplog.text


class Refusal(Exception):
    """What a gRPC call raises, as far as the client looks at it."""

    def __init__(self, code: grpc.StatusCode, *trailing: Tuple[str, str]) -> None:
        self._code, self._trailing = code, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "why"

    def trailing_metadata(self) -> Tuple[Tuple[str, str], ...]:
        return self._trailing


@pytest.mark.parametrize("kind", FAMILY)
def test_the_client_raises_the_class_that_the_agent_raised(
    kind: Type[errors.EdgeAgentError],
) -> None:
    raised = kind("why")
    error = convert.error(Refusal(grpc.StatusCode[kind.status], *metadata.of_error(raised)))
    assert type(error) is kind
    assert str(error) == "why"


@pytest.mark.parametrize("kind", FAMILY)
def test_an_agent_that_names_no_class_is_understood_by_its_status(
    kind: Type[errors.EdgeAgentError],
) -> None:
    error = convert.error(Refusal(grpc.StatusCode[kind.status]))
    if kind is errors.MalformedMessage:  # a client of ours sends none
        assert type(error) is errors.InferenceFailed
    else:
        assert issubclass(kind, type(error))


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_the_client_raises_an_error_of_ours_for_every_status(code: grpc.StatusCode) -> None:
    error = convert.error(Refusal(code, ("error-name", "NobodyKnowsIt")))
    assert str(error) == "why"
    if type(error) is not errors.EdgeAgentError:
        assert type(error).status == code.name


def test_a_class_named_by_an_agent_is_one_of_ours() -> None:
    for name in ("Exception", "annotations", "ClassVar", "__name__"):
        error = convert.error(Refusal(grpc.StatusCode.NOT_FOUND, ("error-name", name)))
        assert type(error) is errors.ModelNotFound


def test_the_client_learns_from_a_refusal_when_to_come_back() -> None:
    sent = metadata.of_error(errors.Overloaded.behind(7, 0.25))
    error = convert.error(Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, *sent))
    assert type(error) is errors.Overloaded
    assert (error.waiting, error.retry_after_s) == (7, 0.25)
