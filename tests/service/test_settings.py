"""Settings that open the service to others by mistake are refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Optional

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.settings import DEFAULT_LISTEN, load

PAIR = {"tls_certificate": "server.pem", "tls_key": "server.key"}


def written(folder: Path, values: object) -> Path:
    file = folder / "service.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return file


def test_without_a_file_the_service_is_for_this_machine_and_signed() -> None:
    settings = load(None, None)
    assert (settings.listen, settings.unsigned) == (DEFAULT_LISTEN, False)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"listen": "0.0.0.0:80", "children": 3})
    settings = load(file, "127.0.0.1:9000")
    assert (settings.listen, settings.children) == ("127.0.0.1:9000", 3)


@pytest.mark.parametrize(
    "values",
    [
        {"listen": "localhost:8600", "unsigned": True},
        {"listen": "[::1]:8600", "unsigned": True},
        {"listen": "0.0.0.0:8600", **PAIR},
        {"listen": "plant.example:8600", "without_tls": True},
        {"quotas": {"projects": 5}, "buckets": {"accounts": {"mine": ["123456789012"]}}},
    ],
)
def test_settings_that_are_taken(tmp_path: Path, values: Dict[str, Any]) -> None:
    assert load(written(tmp_path, values), None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"listen": "0.0.0.0:8600"}, "listen on 0.0.0.0 needs tls_certificate and tls_key; or set"),
        ({"listen": "[::]:8600", "unsigned": True, **PAIR}, "unsigned is for 127.0.0.1, ::1 and"),
        ({"listen": "8600"}, "expected HOST:PORT"),
        ({"listen": "127.0.0.1:0"}, "the port must be 1 to 65535"),
        ({"tls_key": "server.key"}, "tls_certificate and tls_key are needed together"),
        ({"unsigned_account": "1234"}, "unsigned_account"),
        ({"unsigned": "true"}, "unsigned"),
        ({"listn": "127.0.0.1:1"}, "listn: unknown key; known here: .*listen"),
        ({"quotas": {"calls_per_s": 0}}, "quotas.calls_per_s"),
        ([], "object"),
        ('{"children": 1, "children": 2}', "'children' appears twice"),
        ("{", "service.json: "),
        ("\xff", "service.json: "),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, values: object, sentence: str) -> None:
    with pytest.raises(InvalidConfiguration, match=sentence):
        load(written(tmp_path, values), None)


@pytest.mark.parametrize("listen", ["0.0.0.0:8600", "there"])
def test_the_command_line_is_checked_as_the_file_is(tmp_path: Path, listen: str) -> None:
    for file in (None, written(tmp_path, {})):
        with pytest.raises(InvalidConfiguration, match="listen"):
            load(file, listen)


@pytest.mark.parametrize("make", [None, "folder", "large"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: Optional[str]) -> None:
    file = tmp_path / "service.json"
    if make == "folder":
        file.mkdir()
    elif make == "large":
        file.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InvalidConfiguration, match=r"service\.json"):
        load(file, None)


def test_files_are_found_from_where_the_service_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "settings.json"
    file.write_text('{"buckets": {"endpoint": "http://127.0.0.1:9", "secret_key_file": "secret"}}')
    assert load(file, None).buckets.secret_key_file == tmp_path / "secret"
