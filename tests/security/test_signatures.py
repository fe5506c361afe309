"""What a signature says beside "it is ours": of which component a package is, and how old.

The attacker has every package that the plant ever signed, and writes where packages are deployed;
the key he hasn't.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from edge_agent.config import ModelsSettings
from edge_agent.errors import InvalidPackage
from edge_agent.runtime.models.thresholds import with_settings
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.highest_versions import ServedVersions
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.packages.signature import Identity
from edge_agent.types import ModelState
from tests.contract.calls import until
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.signatures import key, put, signed, signed_unbound


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with plant.key and plant.pem."""
    folder = tmp_path_factory.mktemp("keys")
    key(folder, "plant")
    return folder


class Plant:
    """A device that trusts plant.pem: `models` is its folder, `store` reads it as an agent does."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self.folder, self.key = folder, keys / "plant.key"
        self.models, self.records = folder / "models", folder / "models.d"
        for place in (self.models, self.records):
            place.mkdir()
        self.trusted = keys / "plant.pem"
        self.served = folder / "versions.json"

    def deploy(self, version: int, name: str = "bolts", as_: str = "", at: str = "") -> Path:
        """Put a package signed as version N.0.0 of `as_` where `name` is deployed."""
        folder = micro.write(self.models / (at or name), "classification", version=str(version))
        return signed(folder, self.key, as_ or name)

    def registration(self, name: str = "bolts", **settings: Any) -> Registration:
        """What an agent that starts now finds."""
        models = ModelsSettings(
            folder=self.models, records=self.records, trusted_keys=self.trusted, **settings
        )
        return Store(models, self.served).scan()[name]

    def serve(self, name: str = "bolts") -> str:
        """Open the package as loading it does, and return what it was signed as."""
        registration = self.registration(name)
        package = registration.open()
        registration.served(package)
        return str(package.identity)

    def record(self, name: str, package: str, **values: Any) -> None:
        record = {"model_component": name, "package": str(self.models / package), **values}
        (self.records / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def plant(tmp_path: Path, keys: Path) -> Plant:
    return Plant(tmp_path, keys)


def refusal(registration: Registration) -> str:
    with pytest.raises(InvalidPackage) as error:
        registration.open()
    return str(error.value)


# --- another name ---


def test_one_models_package_is_refused_as_anothers(plant: Plant) -> None:
    plant.deploy(1, "nuts")
    shutil.copytree(plant.models / "nuts", plant.models / "bolts")
    assert plant.serve("nuts") == "nuts 1.0.0"
    text = refusal(plant.registration("bolts"))
    assert "was signed as nuts 1.0.0, not as bolts" in text
    assert "signed_as" in text


def test_a_record_lends_no_package_another_name(plant: Plant) -> None:
    plant.deploy(1, "nuts")
    plant.record("bolts", "nuts")
    assert "was signed as nuts 1.0.0, not as bolts" in refusal(plant.registration("bolts"))


def test_an_operator_may_serve_a_package_under_another_name(plant: Plant) -> None:
    plant.deploy(1, "nuts")
    plant.record("line-4", "nuts", signed_as="nuts")
    assert plant.serve("line-4") == "nuts 1.0.0"


@pytest.mark.parametrize(
    "claims", [{"component": "bolts"}, {"version": "9.0.0"}, {"format": 1}], ids=str
)
def test_what_the_signature_file_claims_is_signed_itself(
    plant: Plant, claims: Dict[str, Any]
) -> None:
    folder = plant.deploy(1, "nuts", at="bolts")
    values = {**json.loads((folder / "manifest.sig").read_bytes()), **claims}
    if claims == {"format": 1}:
        values = {name: values[name] for name in ("algorithm", "key", "signature")}
    put(folder, json.dumps(values).encode())
    assert "was altered after key" in refusal(plant.registration("bolts"))


def test_a_name_and_a_version_cant_change_places_with_their_neighbours(plant: Plant) -> None:
    """The lines of the signed document can't be cut in another way."""
    folder = plant.deploy(1)
    values = json.loads((folder / "manifest.sig").read_bytes())
    for changed in ({"component": "bolts\n1.0.0"}, {"version": "1.0.0\n"}, {"component": None}):
        put(folder, json.dumps({**values, **changed}).encode())
        assert "manifest.sig isn't a signature" in refusal(plant.registration())


# --- an older version ---


def test_an_older_signed_package_is_refused_over_a_newer_one(plant: Plant) -> None:
    plant.deploy(2)
    assert plant.serve() == "bolts 2.0.0"
    plant.deploy(1)
    text = refusal(plant.registration())
    assert "is bolts 1.0.0, older than version 2.0.0, which this device has served" in text
    assert "models.allow_downgrade" in text


def test_versions_are_compared_as_numbers(plant: Plant) -> None:
    plant.deploy(10)
    plant.serve()
    plant.deploy(9)
    assert "older than version 10.0.0" in refusal(plant.registration())
    plant.deploy(11)
    assert plant.serve() == "bolts 11.0.0"


def test_a_second_model_of_the_same_component_is_no_way_around(plant: Plant) -> None:
    plant.deploy(2)
    plant.serve()
    plant.deploy(1, at="elsewhere")
    plant.record("copy", "elsewhere", signed_as="bolts")
    assert "older than version 2.0.0" in refusal(plant.registration("copy"))


def test_the_same_version_and_other_components_go_on(plant: Plant) -> None:
    plant.deploy(2)
    plant.serve()
    plant.deploy(2)
    plant.deploy(1, "nuts")
    assert [plant.serve("bolts"), plant.serve("nuts")] == ["bolts 2.0.0", "nuts 1.0.0"]


def test_a_version_that_never_served_blocks_no_older_one(plant: Plant) -> None:
    """A new version that fails is rolled back by its deployment; that must serve again."""
    plant.deploy(1)
    plant.serve()
    plant.deploy(2)
    plant.registration().open()  # refused later on, by an engine
    plant.deploy(1)
    assert plant.serve() == "bolts 1.0.0"


@pytest.mark.parametrize("by", ["settings", "record"])
def test_an_operator_may_go_back(plant: Plant, by: str) -> None:
    plant.deploy(2)
    plant.serve()
    plant.deploy(1)
    plant.record("bolts", "bolts", allow_downgrade=by == "record")
    allowing = ModelsSettings(allow_downgrade=by == "settings")
    assert with_settings(plant.registration(), allowing).open().manifest.version == "1"
    plant.record("bolts", "bolts")
    assert "older than version 2.0.0" in refusal(plant.registration())


@pytest.mark.parametrize("content", ["", "{", '{"components": [{"component": "bolts"}]}', "[]"])
def test_a_damaged_list_of_versions_is_said_and_keeps_no_model_from_serving(
    plant: Plant, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    plant.served.write_text(content)
    plant.deploy(1)
    assert plant.serve() == "bolts 1.0.0"
    assert "versions.json can't be read" in caplog.text
    assert json.loads(plant.served.read_text())["components"][0]["version"] == "1.0.0"


def test_versions_that_cant_be_written_hold_while_the_agent_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    versions = ServedVersions(tmp_path / "file" / "versions.json")
    versions.served(Identity("bolts", "2.0.0"))
    assert "can't be written" in caplog.text
    with pytest.raises(InvalidPackage, match=r"older than version 2\.0\.0"):
        versions.check(tmp_path, Identity("bolts", "1.9.9"))


# --- signatures that say neither ---


def test_a_signature_of_format_1_is_refused_unless_it_is_allowed(plant: Plant) -> None:
    folder = micro.write(plant.models / "bolts", "classification")
    signed_unbound(folder, plant.key)
    text = refusal(plant.registration())
    assert "manifest.sig has format 1, which names neither the component nor" in text
    assert "models.allow_unbound_signatures" in text
    package = plant.registration(allow_unbound_signatures=True).open()
    assert (package.is_signed, package.identity) == (True, None)


# --- the agent as a whole ---


@pytest.fixture
def agent(tmp_path: Path, keys: Path) -> Iterator[Agent]:
    """It trusts plant.pem, keeps what it served, and serves bolts 2.0.0."""
    agent = guarded(tmp_path, keys)
    write(agent, keys, 2)
    with agent:
        agent.wait_for("bolts", ModelState.RUNNING)
        yield agent


def guarded(folder: Path, keys: Path, *settings: str) -> Agent:
    given = (f"models.trusted_keys={keys / 'plant.pem'}", f"results.folder={folder}", *settings)
    return Agent(folder, "--autostart", *[word for each in given for word in ("--set", each)])


def write(agent: Agent, keys: Path, version: int, as_: str = "bolts") -> None:
    folder = micro.write(agent.models / "bolts", "classification", version=str(version))
    signed(folder, keys / "plant.key", as_)


def says(agent: Agent, words: str) -> None:
    with agent.client() as client:
        until(lambda: words in client.describe("bolts").message)


def test_a_running_model_keeps_its_version_beside_an_older_one_and_anothers(
    agent: Agent, keys: Path
) -> None:
    write(agent, keys, 1)
    says(agent, "bolts 1.0.0, older than version 2.0.0")
    says(agent, "Version 2, ")
    write(agent, keys, 3, as_="nuts")
    says(agent, "signed as nuts 3.0.0, not as bolts")
    says(agent, "Version 2, ")
    write(agent, keys, 3)
    says(agent, "Version 3, ")


def test_an_older_version_is_refused_after_a_restart_and_taken_when_that_is_allowed(
    agent: Agent, keys: Path
) -> None:
    assert agent.stop() == 0
    write(agent, keys, 1)
    with agent:
        message = agent.wait_for("bolts", ModelState.FAILED).message
        assert "bolts 1.0.0, older than version 2.0.0" in message
    with guarded(agent.folder, keys, "models.allow_downgrade=true") as allowing:
        assert allowing.wait_for("bolts", ModelState.RUNNING).message.startswith("Version 1, ")
