"""Packages that somebody made to do harm: each is refused with its own sentence, in little memory.

A device that trusts keys takes no byte that wasn't signed.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tracemalloc
import zipfile
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest

from edge_agent.client import Client
from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FileEntry
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.packages.signature import TrustedKeys
from edge_agent.types import ModelState
from tests.contract.calls import Caller, plain, until
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.signatures import key, signed
from tests.faults.hostile import CASES, package_files, zipped

MIB = 1024 * 1024


def use(path: Path, trusted: object = None) -> Dict[str, bytes]:
    """Read all there is of a package, as loading a model does."""
    package = Package(path, 100 * MIB, trusted)  # type: ignore[arg-type]
    read = {entry.path: package.read(entry.path) for entry in package.manifest.files}
    package.read_model()
    return {**read, "manifest.json": package.manifest.to_json()}


def refusal(path: Path, trusted: object = None) -> str:
    with pytest.raises(InvalidPackage) as error:
        use(path, trusted)
    return str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_zip_is_refused_with_its_own_sentence(tmp_path: Path, case: str) -> None:
    write, words = CASES[case]
    write(tmp_path / "model.zip")
    text = refusal(tmp_path / "model.zip")
    for word in words:
        assert word in text
    assert len(text) < 3000
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


@pytest.mark.parametrize("case", [case for case in CASES if "bomb" in case or "million" in case])
def test_a_bomb_is_never_inflated_beyond_what_its_manifest_lists(tmp_path: Path, case: str) -> None:
    """64 MiB and more want to come out; a manifest may have 1 MiB, a directory as well."""
    CASES[case][0](tmp_path / "bomb.zip")
    tracemalloc.start()
    try:
        refusal(tmp_path / "bomb.zip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MIB


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_is_taken_and_files_that_nobody_listed_are_never_read(
    tmp_path: Path, method: int
) -> None:
    """So that the zips above fail for what is wrong with them."""
    extra = {"notes/read.me": b"hello", "notes/": b"", "MANIFEST.JSON": b"{", "a.zip": b"PK"}
    path = tmp_path / "model.zip"
    path.write_bytes(zipped({**package_files(), **extra}, method))
    assert set(use(path)) == {"manifest.json", "model.onnx"}
    with pytest.raises(InvalidPackage, match=r"doesn't list a file 'notes/read\.me'"):
        Package(path).read("notes/read.me")


def folder_with(path: Path, name: str, content: bytes) -> Path:
    model = micro.graph("classification")
    files = [FileEntry.of("model.onnx", model), FileEntry.of(name, content)]
    micro.write(path, "classification", model, files=[entry.model_dump() for entry in files])
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(content)
    assert name in use(path)
    return path


def test_a_link_on_the_way_to_a_file_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", "golden/0.png", b"picture")
    (folder / "golden").rename(tmp_path / "elsewhere")
    (folder / "golden").symlink_to(tmp_path / "elsewhere")
    assert "golden is a link; packages hold plain files only" in refusal(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "/proc/self/mem", "gone"])
def test_a_manifest_that_is_a_link_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "manifest.json").symlink_to(target)
    assert "manifest.json is a link" in refusal(tmp_path)


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        os.mkfifo(tmp_path / "fifo")
        for kind in ("fifo", "socket"):
            folder = tmp_path / f"with-{kind}"
            folder.mkdir()
            (tmp_path / kind).rename(folder / "manifest.json")
            assert "manifest.json isn't a plain file" in refusal(folder)


def test_a_package_that_is_no_plain_file_itself_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.zip")
    assert "isn't a plain file" in refusal(tmp_path / "model.zip")
    assert "isn't a plain file" in refusal(Path("/dev/zero"))


def test_a_file_larger_than_listed_is_refused_unread(tmp_path: Path) -> None:
    micro.write(tmp_path, "classification")
    os.truncate(str(tmp_path / "model.onnx"), 2**40)  # a hole; reading it would take all memory
    assert "model.onnx is larger than" in refusal(tmp_path)


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_file_replaced_after_the_check_is_refused(tmp_path: Path, as_zip: bool) -> None:
    """Units are opened later as well; what they get is what was checked, or nothing."""
    folder = micro.write(tmp_path / "model", "classification")
    path = folder
    if as_zip:
        path = tmp_path / "model.zip"
        path.write_bytes(zipped(package_files()))
    package = Package(path)
    before = package.read_model()
    other = before.replace(b"classification", b"classificatiom")
    assert len(other) == len(before)
    assert other != before
    if as_zip:
        manifest = micro.manifest("classification", other, version="2")
        path.write_bytes(zipped({"manifest.json": str(manifest).encode(), "model.onnx": other}))
    else:
        micro.write(folder, "classification", other, version="2")
    with pytest.raises(InvalidPackage, match=r"model\.onnx was altered or damaged"):
        package.read_model()
    assert package.manifest.version == "1"


# --- signed ---


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with plant.key, plant.pem, stranger.key and stranger.pem."""
    folder = tmp_path_factory.mktemp("keys")
    key(folder, "plant")
    key(folder, "stranger")
    return folder


@pytest.fixture(scope="module")
def trusted(keys: Path) -> TrustedKeys:
    return TrustedKeys.read(keys / "plant.pem")


def signed_files(tmp_path: Path, keys: Path) -> Dict[str, bytes]:
    model = micro.graph("classification")
    picture = b"not looked at here"
    files = [FileEntry.of("model.onnx", model), FileEntry.of("golden/0.png", picture)]
    listed = [entry.model_dump() for entry in files]
    folder = micro.write(tmp_path / "signed", "classification", model, files=listed)
    (folder / "golden").mkdir()
    (folder / "golden/0.png").write_bytes(picture)
    signed(folder, keys / "plant.key")
    names = ["manifest.json", "manifest.sig", "model.onnx", "golden/0.png"]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_byte_altered_in_a_signed_zip_is_refused_or_changes_nothing(
    tmp_path: Path, keys: Path, trusted: TrustedKeys, method: int
) -> None:
    """Every byte once, by a random bit pattern; only dates and the like may differ unnoticed."""
    path = tmp_path / "model.zip"
    whole = zipped(signed_files(tmp_path, keys), method)
    path.write_bytes(whole)
    before = use(path, trusted)
    generator = random.Random(5)
    refused = 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= generator.randrange(1, 256)
        path.write_bytes(bytes(altered))
        try:
            assert use(path, trusted) == before
        except InvalidPackage:
            refused += 1
    assert refused > len(whole) * 0.7


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden/0.png"])
def test_any_byte_altered_in_a_file_of_a_signed_folder_is_refused(
    tmp_path: Path, keys: Path, trusted: TrustedKeys, name: str
) -> None:
    content = signed_files(tmp_path, keys)[name]
    folder = tmp_path / "signed"
    use(folder, trusted)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        (folder / name).write_bytes(bytes(altered))
        text = refusal(folder, trusted)
        assert "altered" in text
        assert name in text


SIGNATURE_REFUSALS = ("isn't a signature", "isn't trusted here", "was altered after key")


def test_an_altered_signature_file_is_refused_or_says_the_same(
    tmp_path: Path, keys: Path, trusted: TrustedKeys
) -> None:
    """The last character of base64 has bits that nobody reads, and spaces may be others."""
    content = signed_files(tmp_path, keys)["manifest.sig"]
    folder = tmp_path / "signed"
    before = use(folder, trusted)
    said = set()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1
        (folder / "manifest.sig").write_bytes(bytes(altered))
        try:
            assert use(folder, trusted) == before
        except InvalidPackage as error:
            said.add(next(word for word in SIGNATURE_REFUSALS if word in str(error)))
    assert said == set(SIGNATURE_REFUSALS)


def test_a_manifest_isnt_even_parsed_before_its_signature_is_verified(
    tmp_path: Path, keys: Path, trusted: TrustedKeys
) -> None:
    micro.write(tmp_path, "classification")
    signed(tmp_path, keys / "plant.key")
    (tmp_path / "manifest.json").write_text("[" * 500_000)
    assert "altered after key" in refusal(tmp_path, trusted)


# --- the agent as a whole ---


def unsigned(folder: Path, keys: Path) -> None:
    micro.write(folder, "classification")


def strange(folder: Path, keys: Path) -> None:
    signed(micro.write(folder, "classification"), keys / "stranger.key")


def altered_manifest(folder: Path, keys: Path) -> None:
    signed(micro.write(folder, "classification"), keys / "plant.key")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"threshold": 0.5', '"threshold": 0.9'))


def altered_model(folder: Path, keys: Path) -> None:
    signed(micro.write(folder, "classification"), keys / "plant.key")
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(bytes(content))


def no_signature(folder: Path, keys: Path) -> None:
    micro.write(folder, "classification")
    (folder / "manifest.sig").write_text("trust me")


REFUSED = {
    "unsigned": (unsigned, ("isn't signed: it has no manifest.sig", "models.trusted_keys")),
    "strange": (strange, ("is signed by key", "isn't trusted here")),
    "altered-manifest": (altered_manifest, ("manifest.json was altered after key",)),
    "altered-model": (altered_model, ("model.onnx was altered or damaged",)),
    "no-signature": (no_signature, ("manifest.sig isn't a signature",)),
}


def test_a_good_package_serves_beside_all_hostile_zips(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--autostart")
    micro.write(agent.models / "good", "classification")
    for case, (write, _) in CASES.items():
        write(agent.models / f"{case}.zip")
    with agent:
        agent.wait_for("good", ModelState.RUNNING)
        for case, (_, words) in CASES.items():
            message = agent.wait_for(case, ModelState.FAILED).message
            for word in words:
                assert word in message
        with agent.channel() as channel:
            assert Caller(channel).detect("good", plain(255)).is_anomalous
    assert not list(tmp_path.rglob("evil*"))


@pytest.fixture
def guarded(tmp_path: Path, keys: Path) -> Iterator[Agent]:
    """An agent that trusts plant.pem; `good` is signed and runs."""
    agent = Agent(tmp_path, "--autostart", "--set", f"models.trusted_keys={keys / 'plant.pem'}")
    signed(micro.write(agent.models / "good", "classification"), keys / "plant.key")
    for name, (write, _) in REFUSED.items():
        write(agent.models / name, keys)
    with agent:
        agent.wait_for("good", ModelState.RUNNING)
        yield agent


def test_a_signed_package_serves_beside_all_that_arent(guarded: Agent) -> None:
    for name, (_, words) in REFUSED.items():
        message = guarded.wait_for(name, ModelState.FAILED).message
        for word in words:
            assert word in message
    with guarded.channel() as channel:
        assert Caller(channel).detect("good", plain(255)).is_anomalous


def test_a_new_version_changes_over_only_when_it_is_signed(guarded: Agent, keys: Path) -> None:
    folder = guarded.models / "good"
    micro.write(folder, "classification", version="2")
    with guarded.client() as client:
        assert "A newer package was refused" in message_with(client, "refused")
        assert message_with(client, "Version 1, ")
        signed(folder, keys / "plant.key")
        assert message_with(client, "Version 2, ")
    with guarded.channel() as channel:
        assert Caller(channel).detect("good", plain(255)).is_anomalous


def message_with(client: Client, words: str) -> str:
    until(lambda: words in client.describe("good").message)
    return client.describe("good").message


def start(tmp_path: Path, trusted_keys: Path) -> Tuple[int, str]:
    agent = Agent(tmp_path, "--set", f"models.trusted_keys={trusted_keys}")
    done = subprocess.run(agent.command(), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr + done.stdout


def test_an_agent_whose_trusted_keys_cant_be_used_doesnt_start(tmp_path: Path, keys: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (
        (keys / "plant.key", "holds a private key, which must not be on a device"),
        (tmp_path / "empty", "holds no *.pem file"),
        (tmp_path / "gone.pem", "gone.pem: No such file"),
    ):
        status, text = start(tmp_path, path)
        assert status != 0
        assert words in text
        assert "Traceback" not in text
        assert "PRIVATE KEY" not in text


def test_pipes_instead_of_a_record_and_of_a_package_dont_hang_the_agent(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--records", str(tmp_path / "models.d"), "--autostart")
    os.mkfifo(tmp_path / "model.zip")
    (tmp_path / "models.d").mkdir()
    os.mkfifo(tmp_path / "models.d" / "a.json")
    (tmp_path / "models.d" / "bad.json").write_text(
        f'{{"model_component": "bad", "package": "{tmp_path}/model.zip", "autostart": true}}'
    )
    with agent:
        assert "isn't a plain file" in agent.wait_for("bad", ModelState.FAILED).message
        assert "a.json is ignored: it isn't a plain file" in agent.log()
    shutil.rmtree(tmp_path / "models.d")
