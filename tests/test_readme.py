"""What the README promises: its commands exist and take the options it shows."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from edge_agent import cli
from edge_agent.config import load
from edge_agent.fields import read_json
from edge_agent.runtime.packages.deployments import Record
from tests import ROOT

TEXT = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
GREENGRASS = (ROOT / "docs" / "greengrass.md").read_text()
ALL = TEXT + RESULTS + GREENGRASS
COMMANDS = re.findall(r"^ *(?:[A-Z_]+=\S+ )?(edge-agent .+)$", ALL, re.MULTILINE)
SETTINGS = re.findall(r"`((?:server|models|engine|results|updates)(?:\.\w+)+|log_level)`", ALL)


def test_the_first_screen_has_the_two_commands_and_the_picture() -> None:
    first_screen = "\n".join(TEXT.splitlines()[:20])
    for name in ("scripts/demo", "scripts/test", "docs/verdict.png"):
        assert name in first_screen
        assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"scripts/\w+", TEXT))))
def test_a_script_it_names_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_it_shows_is_understood(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert cli.parse(words).command == words[0]


@pytest.mark.parametrize("name", sorted(set(SETTINGS)))
def test_a_setting_it_lists_exists(name: str) -> None:
    group: object = load(None, {})
    for part in name.split("."):
        group = getattr(group, part)


def test_the_registration_record_it_shows_is_valid() -> None:
    (example,) = re.findall(r"```json\n(.+?)```", TEXT, re.DOTALL)
    assert read_json(Record, example.encode()).decision == {"threshold": 0.6}


def test_the_configuration_of_results_it_shows_is_valid(tmp_path: Path) -> None:
    example, command = re.findall(r"```(?:json)?\n(\{.+?\})\n```", RESULTS, re.DOTALL)
    file = tmp_path / "config.json"
    file.write_text(example)

    assert load(file, {}).results.mqtt.endpoint == "broker.plant.example"
    assert json.loads(command)["command"] == "set-threshold"
