"""What the pages say is so: files and links exist, commands and settings are understood.

The pages of the top folder, of docs/ and of examples/ are read as text: paths and settings in
backticks, links, and lines of code blocks that begin with `edge-agent`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from edge_agent import cli
from edge_agent.config import load
from edge_agent.fields import Strict, read_json
from edge_agent.runtime.packages.records import Record
from edge_agent.service.settings import ServiceSettings
from tests import ROOT

PAGES = [path for room in ("", "docs", "examples") for path in sorted((ROOT / room).glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
README, SERVICE = TEXTS["README.md"], TEXTS["docs/service.md"]
TOP = {path.name for path in ROOT.iterdir()}
MADE = ("build/", "demo-output/")  # by a command, not in the repository
# Of a device, a package or a component.
GROUPS = "(?:server|models|engine|results|updates)"
RECORDS = "models.d"  # the folder of records, no setting
ELSEWHERE = {"register.py", "install.py", "NAME_command.py"}


def in_pages(pattern: str) -> List[Tuple[str, str]]:
    """All that `pattern` finds, each with the page it stands on."""
    found = {(page, str(text)) for page in TEXTS for text in re.findall(pattern, TEXTS[page], re.M)}
    return sorted(found)


def test_a_path_that_a_page_names_exists() -> None:
    words = in_pages(r"`([\w.*-]+(?:/[\w.*-]+)+/?)`")
    named = [(page, word) for page, word in words if word.split("/")[0] in TOP]
    assert named
    there = [entry for entry in named if entry[1].startswith(MADE) or list(ROOT.glob(entry[1]))]
    assert named == there


def test_a_python_file_that_a_page_names_exists() -> None:
    """The page on the architecture has a test of its own."""
    words = in_pages(r"`(?:[\w/]+/)?(\w+\.py)`")
    files = {path.name for room in ("edge_agent", "tests") for path in (ROOT / room).rglob("*.py")}
    missing = [
        (page, name)
        for page, name in words
        if page != "docs/architecture.md" and name not in files | ELSEWHERE
    ]
    assert not missing


def test_a_link_leads_somewhere() -> None:
    dead = [
        (page, target)
        for page, target in in_pages(r"\]\(([^)\s]+)\)")
        if not target.startswith("https://") and not leads_somewhere(page, target)
    ]
    assert not dead


def leads_somewhere(page: str, target: str) -> bool:
    path, _, heading = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    if not heading or not file.exists():
        return file.exists()
    return heading in map(anchor, re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE))


def anchor(heading: str) -> str:
    """The name by which a heading is linked to, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("page", "line"), in_pages(r"^ *(?:[A-Z_]+=\S+ )?(edge-agent [a-z].+?)(?: *[\\&])?$")
)
def test_a_command_in_a_code_block_is_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert cli.parse(words).command == words[0]


@pytest.mark.parametrize(
    ("page", "line"), in_pages(rf"`(edge-agent (?:{'|'.join(cli.COMMANDS)})[^`]*)`")
)
def test_options_of_a_command_in_a_sentence_exist(
    page: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = shlex.split(line)[1:]
    with pytest.raises(SystemExit):
        cli.parse([command, "--help"])
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


def test_a_script_can_be_run() -> None:
    scripts = {word for _, word in in_pages(r"\bscripts/\w+")}
    assert scripts
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_a_setting_exists() -> None:
    settings = load(None, {})
    words = in_pages(rf"`({GROUPS}(?:\.[a-z]\w*)+|log_level)(?:=[^`]*)?`")
    named = [(page, word) for page, word in words if page != "docs/architecture.md"]
    assert len(named) > 100
    assert not [entry for entry in named if not known(settings, entry[1]) and entry[1] != RECORDS]


def known(group: object, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(group, part):
            return False
        group = getattr(group, part)
    return True


def test_every_setting_of_the_service_is_on_its_page() -> None:
    table = SERVICE.split("| setting |")[1].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = re.findall(r"`([\w.]+)`", " ".join(cells))
    assert sorted(named) == sorted(setting_names(ServiceSettings()))


def setting_names(group: Strict) -> Iterator[str]:
    for name, value in group:
        inside = setting_names(value) if isinstance(value, Strict) else ()
        yield from [f"{name}.{inner}" for inner in inside] or [name]


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", SERVICE, re.DOTALL))
def test_the_settings_of_the_service_that_its_page_shows_are_valid(example: str) -> None:
    assert read_json(ServiceSettings, example.encode()) != ServiceSettings()


def test_every_page_is_in_the_index() -> None:
    index = TEXTS["docs/README.md"]
    named = set(re.findall(r"\]\(([^)]+)\)", index))
    files = {path.name for path in (ROOT / "docs").iterdir()} - {"README.md", "verdict.png"}
    others = {
        f"../{name}" for name in ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples")
    }
    assert files | others <= named


def test_the_first_screen_has_the_two_commands_and_the_picture() -> None:
    first_screen = "\n".join(README.splitlines()[:20])
    for name in ("scripts/demo", "scripts/test", "docs/verdict.png"):
        assert name in first_screen
        assert (ROOT / name).is_file()


def test_an_extra_that_pip_is_shown_exists() -> None:
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    shown = in_pages(r"pip install (?:-e )?'(?:edge-agent|\.)\[([\w,]+)\]'")
    assert shown
    assert {extra for _, extras in shown for extra in extras.split(",")} <= known


def test_the_registration_record_of_the_readme_is_valid() -> None:
    (example,) = re.findall(r"```json\n(.+?)```", README, re.DOTALL)
    assert read_json(Record, example.encode()).decision == {"threshold": 0.6}


def test_the_configuration_of_results_is_valid(tmp_path: Path) -> None:
    text = TEXTS["docs/results.md"]
    example, command = re.findall(r"```(?:json)?\n(\{.+?\})\n```", text, re.DOTALL)
    file = tmp_path / "config.json"
    file.write_text(example)

    assert load(file, {}).results.mqtt.endpoint == "broker.plant.example"
    assert json.loads(command)["command"] == "set-threshold"


# the glossary


TERMS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \|$", TEXTS["docs/glossary.md"], re.MULTILINE)


def test_the_glossary_is_sorted_and_says_something_of_every_term() -> None:
    names = [name for name, _ in TERMS]
    assert len(names) >= 30
    assert names == sorted(names, key=str.lower)
    assert all(len(meaning.split()) > 3 for _, meaning in TERMS)


def sources() -> str:
    """Code and pages, but for the glossary, as one text of words in lower case."""
    code = [path.read_text() for path in (ROOT / "edge_agent").rglob("*.py")]
    pages = [text for page, text in TEXTS.items() if page != "docs/glossary.md"]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", " ".join([*code, *pages]))  # of class names
    return re.sub(r"[\s_-]+", " ", words).lower()


def test_every_term_of_the_glossary_is_used() -> None:
    text = sources()
    stems = {name: re.escape(re.sub("-", " ", name)) for name, _ in TERMS}
    unused = [name for name, stem in stems.items() if not re.search(rf"\b{stem}(s|es|d)?\b", text)]
    assert not unused
