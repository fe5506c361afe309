from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from pydantic import SecretStr

from edge_agent.config import Settings, build
from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict
from edge_agent.runtime.host.configuration import settings_tree
from tests.fakes.nucleus.configuration import of_yaml

WORK = Path("/greengrass/own folder")


def settings(configuration: Dict[str, Any], *assignments: str) -> Settings:
    before = copy.deepcopy(configuration)
    tree = settings_tree(configuration, WORK)
    assert configuration == before
    return build(tree, {}, assignments)


def setting(of: Strict, path: str) -> Any:
    for name in path.split("."):
        of = getattr(of, name)
    return of


def tree(path: str, value: Any) -> Dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def test_what_has_no_place_of_its_own_lies_in_the_work_folder() -> None:
    default = settings({})
    assert default.models.records == WORK / "models.d"
    assert default.results.folder == WORK / "results"
    assert default.server.stop_within_s < 5.0  # the nucleus waits no longer
    assert default.models.resume
    assert not settings({"models": {"resume": False}}).models.resume
    given = {"models": {"records": "/a"}, "results": {"folder": "/b"}}
    assert settings(given).models.records == Path("/a")
    assert settings(given).results.folder == Path("/b")
    assert settings(given, "results.folder=/c").results.folder == Path("/c")


@pytest.mark.parametrize("key", ["Socket", "socket", "SOCKET"])
def test_the_originals_socket_is_ours(key: str) -> None:
    assert settings({key: "unix:///run/eye.sock"}).server.socket == "unix:///run/eye.sock"
    both = {key: "unix:///run/eye.sock", "server": {"socket": "unix:///run/other.sock"}}
    assert settings(both).server.socket == "unix:///run/other.sock"
    with pytest.raises(InvalidConfiguration, match=r"server\.socket"):
        settings({key: "/run/eye.sock"})


def test_the_nucleuss_policies_are_no_settings() -> None:
    policies = {"aws.greengrass.ipc.mqttproxy": {"a:1": {"resources": ["*"]}}}
    for key in ("accessControl", "AccessControl"):
        assert settings({key: policies}) == settings({})


@pytest.mark.parametrize("empty", ["", None, "null"])
def test_an_empty_value_is_the_default(empty: Any) -> None:
    for path, _value in leaves(settings({})):
        assert settings(tree(path, empty)) == settings({}), path
    for group in ("server", "models", "results", "engine", "updates"):
        assert settings({group: empty}) == settings({})
    assert settings({"Socket": empty}) == settings({})
    assert settings({"models": {"thresholds": {"caps": empty}}}) == settings({})


@pytest.mark.parametrize(
    ("path", "told", "meant"),
    [
        ("results.mqtt.port", 443.0, 443),
        ("results.mqtt.port", "443", 443),
        ("results.mqtt.port", "443.0", 443),
        ("engine.max_inference_units", "2", 2),
        ("engine.max_inference_units", 2.0, 2),
        ("models.autostart", "true", True),
        ("models.autostart", "True", True),
        ("models.autostart", "false", False),
        ("models.memory_limit_mib", "512", 512),
        ("updates.quiet_s", "2.5", 2.5),
        ("updates.quiet_s", 3, 3.0),
        ("results.thing", 4.0, "4"),
        ("results.thing", 4, "4"),
        ("results.thing", 4.5, "4.5"),
        ("results.mqtt.pkcs11_pin", 1234.0, SecretStr("1234")),
        ("results.mqtt.endpoint", 7, "7"),
        ("server.socket_mode", 660, "660"),
        ("server.socket_mode", 660.0, "660"),
        ("models.folder", 5.0, Path("5")),
        ("models.thresholds", {"caps": "0.25", "Bolts": 1}, {"caps": 0.25, "Bolts": 1.0}),
        ("engine.backends", ["onnxruntime"], ("onnxruntime",)),
    ],
)
def test_a_value_is_what_was_meant(path: str, told: Any, meant: Any) -> None:
    assert setting(settings(tree(path, told)), path) == meant


def test_every_default_survives_a_yaml_recipe_on_lite() -> None:
    default = settings({})
    written = default.model_dump(mode="json")
    written["results"]["mqtt"]["pkcs11_pin"] = ""
    assert settings(written) == default
    assert settings(of_yaml(written)) == default
    assert settings(json.loads(json.dumps(upper(written)))) == default


def test_classics_spelling_of_a_key_does_not_matter() -> None:
    told = {"RESULTS": {"Mqtt": {"PORT": 443}}, "Models": {"Thresholds": {"Caps": 0.2}}}
    assert settings(told).results.mqtt.port == 443
    assert settings(told).models.thresholds == {"Caps": 0.2}  # a model's name has its case


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"log_levl": "INFO"}, "log_levl: unknown key; known here: decision, engine, log_level"),
        ({"results": {"mqtt": {"Porrt": 1}}}, "results.mqtt.Porrt: unknown key"),
        ({"log_level": "INFO", "LOG_LEVEL": "DEBUG"}, "LOG_LEVEL: unknown key"),
        ({"Log_Level": "INFO", "LOG_LEVEL": "DEBUG"}, "LOG_LEVEL: unknown key"),
        ({"models": 5}, "models: a group of settings is expected"),
        ({"results": {"mqtt": "yes"}}, "results.mqtt: a group of settings is expected"),
        ({"log_level": {"a": 1}}, "log_level: input should be"),
        ({"models": {"thresholds": 0.5}}, "models.thresholds: input should be"),
        ({"engine": {"threads": "many"}}, "engine.threads: input should be"),
        ({"results": {"thing": True}}, "results.thing: input should be"),
        ({"results": {"mqtt": {"port": 443.5}}}, "results.mqtt.port: input should be"),
    ],
)
def test_what_makes_no_sense_is_named(told: Dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        settings(told)
    assert named in str(raised.value)


def leaves(of: Strict, path: str = "") -> Iterator[Tuple[str, Any]]:
    """Every setting's dotted name and value."""
    for name in type(of).model_fields:
        value = getattr(of, name)
        if isinstance(value, Strict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def upper(values: Any) -> Any:
    """Other spellings of the keys; what is in `thresholds` and the like is empty by default."""
    if isinstance(values, dict):
        return {key.upper(): upper(value) for key, value in values.items()}
    return values


def test_the_settings_have_no_names_that_differ_in_case_only() -> None:
    names: List[str] = [path.lower() for path, _value in leaves(settings({}))]
    assert len(set(names)) == len(names)
