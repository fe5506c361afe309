from __future__ import annotations

import base64
import re
import string
from contextlib import closing
from typing import Any, Iterator, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Select, event, insert, select

from edge_agent.service.call import Call
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.records.database import Records
from edge_agent.service.records.pages import Page, _token, page_of
from edge_agent.service.records.schema import DATASETS, ENTRIES, MODELS, PACKAGING_JOBS, PROJECTS
from tests.service.calls import ACCOUNT, OTHER, call

LETTERS = string.ascii_letters + string.digits + "/+="
PATTERN = r"^[a-zA-Z0-9\/\+\=]{0,2048}$"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    """10,000 models and 100,000 entries in one project, and as many of another account's."""
    with closing(Records(tmp_path_factory.mktemp("pages") / "records.db")) as opened:
        fill(opened)
        yield opened


def fill(records: Records) -> None:
    model = {"created": 1.0, "status": "TRAINED", "output_bucket": "b", "arn": "a"}
    entry = {"line": "{}", "created": 1.0}
    with records.write() as transaction:
        run = transaction.connection.execute
        for owner, name in enumerate((ACCOUNT, OTHER), 1):
            run(insert(PROJECTS).values(id=owner, account=name, name="p", arn="a", created=1.0))
            run(
                insert(DATASETS).values(
                    id=owner, project_id=owner, type="train", created=1, updated=1, status="S"
                )
            )
        run(
            insert(MODELS),
            [
                {**model, "project_id": owner, "version": version}
                for version in range(1, 10_001)
                for owner in (1, 2)
            ],
        )
        run(
            insert(ENTRIES),
            [
                {**entry, "dataset_id": owner, "source_ref": f"s3://b/{at}"}
                for at in range(100_000)
                for owner in (1, 2)
            ],
        )


def next_token(got: Page) -> str:
    return str(got.token["NextToken"])


def models() -> Select[Any]:
    return select(MODELS).where(MODELS.c.project_id == 1)


def page(
    records: Records,
    token: Optional[str] = None,
    most: Optional[int] = None,
    query: Optional[Select[Any]] = None,
    asked: Tuple[str, str] = ("ListModels", ACCOUNT),
    **filters: Any,
) -> Page:
    given = {"NextToken": token, "MaxResults": most, **filters}
    parameters = {name: value for name, value in given.items() if value is not None}
    with records.read() as transaction:
        query = models() if query is None else query
        return page_of(call(*asked, **parameters), transaction, query, MODELS.c.version)


@pytest.mark.parametrize("most", [1, 7, 99, 100, None])
def test_the_pages_together_are_the_list(records: Records, most: Optional[int]) -> None:
    first = models().where(MODELS.c.version <= 300)
    token: Any = None
    seen: List[int] = []
    sizes: List[int] = []
    while True:
        rows, more = page(records, token, most, first)
        seen += [row.version for row in rows]
        sizes.append(len(rows))
        if not more:
            break
        token = more["NextToken"]
    assert seen == list(range(1, 301))
    assert set(sizes[:-1]) <= {most or 100}


def test_a_list_of_exactly_one_page_has_no_token(records: Records) -> None:
    rows, more = page(records, most=100, query=models().where(MODELS.c.version <= 100))
    assert (len(rows), more) == (100, {})
    assert page(records, query=models().where(MODELS.c.version == 0)) == ([], {})


def test_the_token_has_the_models_pattern(records: Records) -> None:
    token = next_token(page(records))
    assert re.fullmatch(PATTERN, token)


def test_a_token_may_be_used_with_another_page_size(records: Records) -> None:
    token = next_token(page(records, most=10))
    rows, _ = page(records, token, 3)
    assert [row.version for row in rows] == [11, 12, 13]


def test_rows_deleted_meanwhile_make_none_come_twice(records: Records) -> None:
    token = next_token(page(records, most=5))
    rest = models().where(~MODELS.c.version.between(3, 6))
    rows, _ = page(records, token, 3, query=rest)
    assert [row.version for row in rows] == [7, 8, 9]


@pytest.mark.parametrize(
    "change",
    [
        {"asked": ("ListModelPackagingJobs", ACCOUNT)},
        {"asked": ("ListModels", OTHER)},
        {"ProjectName": "other"},
        {"Labeled": True},
    ],
)
def test_the_token_of_another_list_is_refused(records: Records, change: Any) -> None:
    token = next_token(page(records, most=10))
    with pytest.raises(ValidationFailed, match="NextToken isn't one of this list"):
        page(records, token, **change)


@given(forged=st.text(LETTERS, min_size=1))
def test_a_forged_token_is_refused(records: Records, forged: str) -> None:
    with pytest.raises(ValidationFailed, match="NextToken isn't one of this list"):
        page(records, forged)


@given(data=st.data())
def test_an_altered_token_is_refused(records: Records, data: st.DataObject) -> None:
    token = next_token(page(records, most=10))
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(
        st.sampled_from("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123+/=")
    )
    altered = token[:at] + letter + token[at + 1 :]
    if altered != token:
        with pytest.raises(ValidationFailed):
            page(records, altered)


@given(content=st.binary(max_size=60))
def test_any_bytes_in_place_of_a_token_are_refused(records: Records, content: bytes) -> None:
    forged = base64.b64encode(content).decode()
    if forged:
        with pytest.raises(ValidationFailed):
            page(records, forged)


ENTRIES_OF_ONE = select(ENTRIES).where(ENTRIES.c.dataset_id == 1)


def steps(records: Records, asked: Call, query: Select[Any], key: Column[int]) -> int:
    """Count the hundreds of steps that SQLite's virtual machine takes for a page."""
    ticks: List[None] = []
    with records.read() as transaction:
        sqlite: Any = transaction.connection.connection.driver_connection
        sqlite.set_progress_handler(lambda: ticks.append(None), 100)
        page_of(asked, transaction, query, key)
        sqlite.set_progress_handler(None, 0)
    return len(ticks)


@pytest.mark.parametrize(
    ("query", "key", "length"),
    [(models(), MODELS.c.version, 10_000), (ENTRIES_OF_ONE, ENTRIES.c.id, 100_000)],
)
def test_the_last_page_costs_what_the_second_does(
    records: Records, query: Select[Any], key: Column[int], length: int
) -> None:
    costs, seen, asked = [], 0, call("List")
    while True:
        with records.read() as transaction:
            rows, more = page_of(asked, transaction, query, key)
        seen += len(rows)
        if not more:
            break
        asked = call("List", **more)
        if seen in (100, length // 2, length - 200):
            costs.append(steps(records, asked, query, key))
    assert seen == length
    assert len(costs) == 3
    assert min(costs) >= 1
    assert max(costs) - min(costs) <= 1


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (models(), MODELS.c.version),
        (ENTRIES_OF_ONE, ENTRIES.c.id),
        (select(PROJECTS).where(PROJECTS.c.account == ACCOUNT), PROJECTS.c.id),
        (select(PACKAGING_JOBS).where(PACKAGING_JOBS.c.project_id == 1), PACKAGING_JOBS.c.id),
    ],
)
def test_a_page_is_found_by_an_index_and_nothing_is_sorted(
    records: Records, query: Select[Any], key: Column[int]
) -> None:
    statements: List[Any] = []
    with records.read() as transaction:
        connection = transaction.connection
        event.listen(connection, "before_cursor_execute", lambda *given: statements.append(given))
        page_of(call("List"), transaction, query, key)
        page_of(call("List", NextToken=_token(call("List"), 5)), transaction, query, key)
        plan = [
            row[3]
            for _, _, statement, parameters, *_ in list(statements)
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert len(plan) == 2
    assert all(step.startswith("SEARCH") and "INDEX" in step for step in plan), plan
