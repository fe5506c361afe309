from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, ServiceFault
from edge_agent.service.operations.projects import Projects
from edge_agent.service.records import client_tokens
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import CLIENT_TOKENS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from tests.service.calls import OTHER, call

HOUR_S = 3600.0


class Operation:
    """Answers with what it was made with, or raises it, and counts how often it ran."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.runs = 0

    def __call__(self, call: Call, transaction: Transaction) -> Answer:
        answer = self.answers[min(self.runs, len(self.answers) - 1)]
        self.runs += 1
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return answer


def once(records: Records, run: Any, asked: Call) -> Answer:
    with records.write() as transaction:
        return client_tokens.once(asked, transaction, run)


def creation(token: str | None = "t", **changes: Any) -> Call:
    parameters: Dict[str, Any] = {"ProjectName": "cookies", "ClientToken": token, **changes}
    if token is None:
        del parameters["ClientToken"]
    return call("CreateProject", **parameters)


def test_the_same_token_gets_the_first_answer(records: Records) -> None:
    run = Operation({"first": 1}, {"second": 2})
    assert [once(records, run, creation()) for _ in range(3)] == [{"first": 1}] * 3
    assert run.runs == 1


def test_other_parameters_are_a_conflict(records: Records) -> None:
    once(records, Operation({}), creation())
    with pytest.raises(Conflict, match="token t was used with other parameters") as raised:
        once(records, Operation({}), creation(ProjectName="cakes"))
    assert raised.value.members["ResourceType"] == "PROJECT"
    assert raised.value.members["ResourceId"] == "cakes"


@pytest.mark.parametrize(
    "other",
    [
        creation("u"),
        call("CreateProject", account=OTHER, ProjectName="cookies", ClientToken="t"),
        call("DeleteProject", ProjectName="cookies", ClientToken="t"),
        creation(None),
    ],
)
def test_another_token_account_or_operation_runs(records: Records, other: Call) -> None:
    run = Operation({"first": 1}, {"second": 2})
    once(records, run, creation())
    assert once(records, run, other) == {"second": 2}


def test_calls_without_a_token_run_each_time(records: Records) -> None:
    run = Operation({"first": 1}, {"second": 2})
    assert once(records, run, creation(None)) == {"first": 1}
    assert once(records, run, creation(None)) == {"second": 2}


@pytest.mark.parametrize(("later_s", "runs"), [(8 * HOUR_S - 1, 1), (8 * HOUR_S, 2)])
def test_a_token_is_active_for_8_hours(records: Records, later_s: float, runs: int) -> None:
    run = Operation({})
    once(records, run, call("CreateProject", now=1000.0, ClientToken="t"))
    once(records, run, call("CreateProject", now=1000.0 + later_s, ClientToken="t"))
    assert run.runs == runs


def test_old_tokens_are_deleted(records: Records) -> None:
    for number in range(5):
        once(records, Operation({}), call("CreateProject", ClientToken=str(number)))
    once(records, Operation({}), call("CreateProject", now=1000 + 9 * HOUR_S, ClientToken="t"))
    with records.read() as transaction:
        tokens = transaction.connection.execute(select(CLIENT_TOKENS.c.token)).scalars().all()
    assert tokens == ["t"]


def test_a_failed_call_leaves_no_token(records: Records) -> None:
    run = Operation(ServiceFault("busy"), {"second": 2})
    with pytest.raises(ServiceFault, match="busy"):
        once(records, run, creation())
    assert once(records, run, creation(ProjectName="cakes")) == {"second": 2}


def test_the_answer_survives_a_restart(tmp_path: Path) -> None:
    answer = {"Created": datetime(2020, 1, 1, 1, 2, 3, 4, timezone.utc)}
    with closing(Records(tmp_path / "records.db")) as before:
        once(before, Operation(answer), creation())
    with closing(Records(tmp_path / "records.db")) as after:
        assert once(after, Operation(ServiceFault("must not run")), creation()) == answer


def test_parameters_of_every_type_are_compared(records: Records) -> None:
    first = creation(Changes=b"\xff" * 1000, At=datetime(2020, 1, 1, tzinfo=timezone.utc), Tags=[])
    for changes in (
        {"Changes": b"\xff" * 999},
        {"At": datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        {"Tags": [{"Key": "a", "Value": "b"}]},
    ):
        once(records, Operation({}), first)
        with pytest.raises(Conflict):
            once(records, Operation({}), creation(**{**first.parameters, **changes}))


zones = st.integers(-23 * 60, 23 * 60).map(lambda each: timezone(timedelta(minutes=each)))
names = st.text("abcXYZ", min_size=1, max_size=3)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes(timezones=zones | st.just(timezone.utc)).map(lambda at: at.replace(fold=0)),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner),
    max_leaves=5,
)


@settings(max_examples=30)
@given(answer=st.dictionaries(names, values))
def test_an_answer_comes_back_exactly(answer: Dict[str, object], shared: Records) -> None:
    token = str(uuid.uuid4())
    for _ in range(2):
        got = once(shared, Operation(answer), creation(token))
        assert repr(got) == repr(answer)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with closing(Records(tmp_path_factory.mktemp("shared") / "records.db")) as opened:
        yield opened


def test_1000_concurrent_calls_with_duplicated_tokens_do_the_work_once_each(
    records: Records,
) -> None:
    projects = Projects(settings=ServiceSettings.model_validate({"quotas": {"projects": 200}}))
    calls = [
        call("CreateProject", ProjectName=f"p{number % 200}", ClientToken=f"t{number % 200}")
        for number in range(1000)
    ]
    random.Random(3).shuffle(calls)
    answers: List[Answer] = []
    runs: Counter[str] = Counter()

    def create(asked: Call, transaction: Transaction) -> Answer:
        runs[asked.parameters["ProjectName"]] += 1
        return projects.create_project(asked, transaction)

    def work(part: List[Call]) -> None:
        answers.extend(once(records, create, asked) for asked in part)

    threads = [threading.Thread(target=work, args=(calls[at::40],)) for at in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 1000
    assert set(runs.values()) == {1}
    assert len({repr(sorted(each.items())) for each in answers}) == 200
    with records.read() as transaction:
        count = select(func.count()).select_from(PROJECTS)
        assert transaction.connection.execute(count).scalar_one() == 200
