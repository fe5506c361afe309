"""The zip of a component: always the same bytes, and only verified ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FileEntry
from edge_agent.packaging import archive, register
from edge_agent.packaging.draft import open_draft
from edge_agent.packaging.signing import Signer
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.packages.signature import Identity, TrustedKeys
from tests.fakes import micro


def packed(package: Path, out: Path) -> bytes:
    archive.write(out, open_draft(package, None))
    return out.read_bytes()


def with_file(folder: Path, name: str, content: bytes) -> Path:
    model = micro.graph("classification")
    entries = [FileEntry.of("model.onnx", model), FileEntry.of(name, content)]
    files = [entry.model_dump() for entry in entries]
    micro.write(folder, "classification", model, files=files)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def test_the_same_package_gives_the_same_bytes_on_another_day_and_from_a_zip(
    tmp_path: Path,
) -> None:
    package = with_file(tmp_path / "a", "notes/read.me", b"of the line\n")
    first = packed(package, tmp_path / "first.zip")
    for path in package.rglob("*"):
        os.utime(path, (time.time() - 1e7, time.time() - 1e7))
        path.chmod(0o700)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps(manifest, indent=4))
    second = packed(package, tmp_path / "second.zip")
    bundle = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", package))

    assert first == second == packed(bundle, tmp_path / "third.zip")


def test_another_model_gives_other_bytes(tmp_path: Path) -> None:
    first = packed(micro.write(tmp_path / "a", "classification"), tmp_path / "a.zip")

    assert first != packed(micro.write(tmp_path / "b", "anomaly_map"), tmp_path / "b.zip")


def test_the_zip_holds_the_package_its_bill_and_the_program_in_order(tmp_path: Path) -> None:
    packed(with_file(tmp_path / "a", "notes/read.me", b"of the line\n"), tmp_path / "a.zip")

    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        names = bundle.namelist()
        assert names == [
            "manifest.json", "bom.cdx.json", "model.onnx", "notes/read.me", "register.py",
        ]  # fmt: skip
        assert {entry.date_time[0] for entry in bundle.infolist()} == {1980}
        assert {entry.external_attr >> 16 for entry in bundle.infolist()} == {0o100644}
    package = Package(tmp_path / "a.zip")
    assert [entry.path for entry in package.manifest.files] == names[1:]
    assert package.read("notes/read.me") == b"of the line\n"
    assert package.read("register.py") == Path(register.__file__).read_bytes()
    bill = json.loads(package.read("bom.cdx.json"))
    assert {part["name"] for part in bill["components"]} == {*names[2:]}


def test_the_signature_covers_the_program_and_the_bill(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    public = tmp_path / "trusted.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    draft = open_draft(micro.write(tmp_path / "a", "classification"), None)
    signer = Signer(key, Identity("plant.Bolts", "1.0.0"))

    archive.write(tmp_path / "a.zip", draft, signer)

    signed = Package(tmp_path / "a.zip", trusted=TrustedKeys.read(public))
    assert signed.identity == Identity("plant.Bolts", "1.0.0")
    assert {"register.py", "bom.cdx.json"} <= {entry.path for entry in signed.manifest.files}
    archive.write(tmp_path / "b.zip", draft)
    with pytest.raises(InvalidPackage, match="sign"):
        Package(tmp_path / "b.zip", trusted=TrustedKeys.read(public))
    archive.write(tmp_path / "again.zip", draft, signer)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "a.zip").read_bytes()


@pytest.mark.parametrize("name", ["model.onnx", "notes.txt"])
def test_a_file_altered_by_one_byte_is_refused(tmp_path: Path, name: str) -> None:
    package = with_file(tmp_path / "a", "notes.txt", b"of the line\n")
    content = bytearray((package / name).read_bytes())
    content[-1] ^= 1
    (package / name).write_bytes(content)

    with pytest.raises(InvalidPackage, match="altered or damaged"):
        packed(package, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["register.py", "bom.cdx.json"])
def test_a_package_with_a_file_that_only_components_have_is_refused(
    tmp_path: Path, name: str
) -> None:
    package = with_file(tmp_path / "a", name, b"pass\n")

    with pytest.raises(InvalidPackage, match=f"lists a file {name} already; a component has its"):
        packed(package, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_package_that_lists_its_own_manifest_is_refused(tmp_path: Path, name: str) -> None:
    model = micro.graph("classification")
    entries = [FileEntry.of("model.onnx", model), FileEntry.of(name, b"{}")]
    micro.write(
        tmp_path / "a", "classification", model, files=[entry.model_dump() for entry in entries]
    )

    with pytest.raises(InvalidPackage, match=f"lists a file {name}, which packages have anyway"):
        packed(tmp_path / "a", tmp_path / "a.zip")
