"""Lists of 100,000 entries: what filters select, and pages while entries change."""

from __future__ import annotations

import json
import random
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from edge_agent.service.records.dataset_entries import DatasetEntry, put_entries
from tests.service.dataset_site import DatasetSite, opened

ENTRIES = 100_000
PARTS = ["%", "_", "'", '"', "\\", "a%b", "A_B", "å", "e\u0301", "é", "[*]", "?", "--", ";"]
Select = Callable[[DatasetEntry], bool]


def entries() -> List[DatasetEntry]:
    """Entries of which few have a rare part in their names, and each label is seldom somewhere."""
    chance = random.Random(19)
    found = []
    for number in range(ENTRIES):
        part = chance.choice(PARTS) if number % 50 == 0 else "plain"
        source = f"s3://plant/{part}/{number:06}.jpg"
        label = chance.choices([None, "normal", "anomaly"], [1, 98, 1])[0]
        text = json.dumps({"source-ref": source})
        found.append(DatasetEntry(source, text, label, float(chance.randrange(1000) * 3600)))
    return found


@pytest.fixture(scope="module")
def all_entries() -> List[DatasetEntry]:
    return entries()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, all_entries: List[DatasetEntry]
) -> Iterator[DatasetSite]:
    root: Path = tmp_path_factory.mktemp("long")
    with opened(root) as service:
        service("CreateProject")
        service("CreateDataset", DatasetType="train")
        with service.records.write() as transaction:
            put_entries(transaction, 1, all_entries)
        yield service


def time(hours: float) -> datetime:
    return datetime.fromtimestamp(hours * 3600, timezone.utc)


FILTERS: List[Any] = [
    ({"Labeled": False}, lambda entry: entry.label is None),
    ({"AnomalyClass": "anomaly"}, lambda entry: entry.label == "anomaly"),
    (
        {"Labeled": True, "BeforeCreationDate": time(7)},
        lambda entry: entry.label is not None and entry.created < 7 * 3600,
    ),
    ({"AfterCreationDate": time(995)}, lambda entry: entry.created > 995 * 3600),
    (
        {"AfterCreationDate": time(10), "BeforeCreationDate": time(12)},
        lambda entry: entry.created == 11 * 3600,
    ),
    ({"AfterCreationDate": time(12), "BeforeCreationDate": time(12)}, lambda entry: False),
    *(
        ({"SourceRefContains": text}, lambda entry, text=text: text in entry.source_ref)
        for text in (*PARTS, "a_b", "A%B", "Å", "099_", "no such", "/å/0")
    ),
    (
        {"SourceRefContains": "%", "Labeled": True, "AfterCreationDate": time(500)},
        lambda entry: "%" in entry.source_ref and entry.label and entry.created > 500 * 3600,
    ),
]


@pytest.mark.parametrize(("filters", "select"), FILTERS)
def test_filters_select_exactly_what_they_say(
    site: DatasetSite, all_entries: List[DatasetEntry], filters: Dict[str, Any], select: Select
) -> None:
    assert site.lines(**filters) == [entry.line for entry in all_entries if select(entry)]


def test_pages_have_each_entry_once_whatever_is_added_or_changed_between(
    site: DatasetSite, all_entries: List[DatasetEntry]
) -> None:
    seen: List[str] = []
    token: Dict[str, Any] = {}
    added: List[str] = []
    while True:
        page: Any = site("ListDatasetEntries", DatasetType="train", Labeled=False, **token)
        seen += page["DatasetEntries"]
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
        source = f"s3://plant/added/{len(added)}"
        added.append(json.dumps({"source-ref": source}))
        changed = json.loads(seen[-1])[
            "source-ref"
        ]  # has a label now, so it has gone from the list
        with site.records.write() as transaction:
            new = DatasetEntry(source, added[-1], None, 0.0)
            put_entries(transaction, 1, [new, DatasetEntry(changed, "{}", "normal", 0.0)])
    assert added
    assert seen == [entry.line for entry in all_entries if entry.label is None] + added
