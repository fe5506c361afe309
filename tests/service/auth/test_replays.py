"""A recorded request that changes something is of no use to who repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
from sqlalchemy import func, select

from edge_agent.service.auth.authenticator import Principal
from edge_agent.service.auth.refusals import WrongSignature
from edge_agent.service.auth.replays import RETRY_WITHIN_S, refuse_replay, use_up
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import SIGNATURES
from tests.service.auth.signing import SERVICE, authenticator, signed

NOW = 1_606_377_600.0


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records(tmp_path / "records.db")
    yield opened
    opened.close()


def caller(signature: str = "one", attempt: str = "", until: float = NOW + 900) -> Principal:
    return Principal("123456789012", "AKIDEXAMPLE", "us-east-1", signature, attempt, until)


def change(records: Records, principal: Principal, now: float = NOW) -> None:
    with records.write() as transaction:
        refuse_replay(transaction, principal, now)


def test_a_signature_that_was_used_is_refused(records: Records) -> None:
    change(records, caller("one"))
    change(records, caller("two"))
    with pytest.raises(WrongSignature, match="used before"):
        change(records, caller("one"), NOW + 899)


def test_a_retry_with_another_number_passes_for_some_seconds(records: Records) -> None:
    change(records, caller(attempt="1"))
    change(records, caller(attempt="2"), NOW + RETRY_WITHIN_S)
    for attempt, later_s in (("1", 0.1), ("2", 0.1), ("", 0.1), ("3", RETRY_WITHIN_S + 0.1)):
        with pytest.raises(WrongSignature):
            change(records, caller(attempt=attempt), NOW + later_s)


def test_what_takes_no_token_may_be_repeated_for_some_seconds(records: Records) -> None:
    for later_s in (0.0, RETRY_WITHIN_S):
        with records.write() as transaction:
            refuse_replay(transaction, caller(), NOW + later_s, repeatable=True)
    with pytest.raises(WrongSignature), records.write() as transaction:
        refuse_replay(transaction, caller(), NOW + RETRY_WITHIN_S + 0.1, repeatable=True)


def test_what_was_refused_is_not_done_later(records: Records) -> None:
    with records.write() as transaction:
        use_up(transaction, caller(), NOW, acted=False)
    with pytest.raises(WrongSignature):
        change(records, caller(), NOW + RETRY_WITHIN_S + 0.1)
    change(records, caller(), NOW + RETRY_WITHIN_S)
    with records.write() as transaction:
        use_up(transaction, caller(), NOW + 1, acted=False)  # which changes nothing
    with pytest.raises(WrongSignature):
        change(records, caller(), NOW + 2)


def test_a_call_that_failed_does_not_use_up_its_signature(records: Records) -> None:
    def fail() -> None:
        with records.write() as transaction:
            refuse_replay(transaction, caller(), NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    change(records, caller())


def test_used_signatures_survive_a_restart_and_go_when_they_are_valid_no_more(
    records: Records, tmp_path: Path
) -> None:
    change(records, caller("one", until=NOW + 900))
    records.close()
    again = Records(tmp_path / "records.db")
    with pytest.raises(WrongSignature):
        change(again, caller("one"))
    change(again, caller("two", until=NOW + 2000), NOW + 901)
    with again.read() as transaction:
        count = select(func.count()).select_from(SIGNATURES)
        assert transaction.connection.scalar(count) == 1
    again.close()


def test_unsigned_calls_have_no_signature_to_use_up(records: Records) -> None:
    for _ in range(2):
        change(records, caller(""))


def test_the_attempt_is_the_clients_and_never_in_plain_words() -> None:
    headers = {"amz-sdk-invocation-id": "some-id", "amz-sdk-request": "attempt=1"}
    first = authenticator().verify(signed(headers=headers), SERVICE)[0]
    headers["amz-sdk-request"] = "attempt=2"
    second = authenticator().verify(signed(headers=headers), SERVICE)[0]
    assert first.attempt != second.attempt
    assert "some-id" not in first.attempt
    assert authenticator().verify(signed(), SERVICE)[0].attempt == ""
