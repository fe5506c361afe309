"""Access keys are made, found, and gone when they are removed, for every process at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

import pytest

from edge_agent.service.auth.access_keys import AccessKeys
from edge_agent.service.records.database import Records


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[AccessKeys]:
    records = Records(tmp_path / "records.db")
    yield AccessKeys(records)
    records.close()


def test_keys_look_like_those_of_aws_and_no_two_are_the_same(keys: AccessKeys) -> None:
    made = [keys.add("123456789012", float(at)) for at in range(20)]
    assert len({key.id for key in made}) == len({key.secret for key in made}) == 20
    for key in made:
        assert re.fullmatch("AKIA[A-Z2-7]{16}", key.id)
        assert re.fullmatch("[A-Za-z0-9+/]{40}", key.secret)


def test_a_key_is_found_and_listed_by_its_account_until_it_is_removed(keys: AccessKeys) -> None:
    one, other = keys.add("111111111111", 1.0), keys.add("222222222222", 2.0)
    assert keys.find(one.id) == one
    assert keys.all() == [one, other]
    assert keys.all("222222222222") == [other]
    assert keys.remove(one.id)
    assert not keys.remove(one.id)
    assert keys.find(one.id) is None
    assert keys.all() == [other]


def test_another_process_sees_a_key_at_once(keys: AccessKeys, tmp_path: Path) -> None:
    assert keys.all() == []
    others = Records(tmp_path / "records.db")
    key = AccessKeys(others).add("111111111111", 1.0)
    assert keys.find(key.id) == key
    AccessKeys(others).remove(key.id)
    assert keys.find(key.id) is None
    others.close()


@pytest.mark.parametrize("name", ["", "' OR 1=1 --", "AKIA%", "\x00", "ÿ" * 5000])
def test_made_up_names_find_nothing(keys: AccessKeys, name: str) -> None:
    keys.add("111111111111", 1.0)
    assert keys.find(name) is None
