"""Packages made to do harm, beside those of tests/faults/test_hostile_archives.py."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict

import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper

from edge_agent.config import ModelsSettings
from edge_agent.errors import InvalidPackage, OutOfMemory
from edge_agent.manifest import FileEntry, parse
from edge_agent.runtime.models.loaded_model import check_memory
from edge_agent.runtime.packages import external_data
from edge_agent.runtime.packages.deployments import Store
from tests.fakes import micro
from tests.faults.hostile import directory, package_files, with_end, zipped
from tests.faults.test_hostile_archives import use

MIB = 1024 * 1024


def refusal(path: Path) -> str:
    with pytest.raises(InvalidPackage) as error:
        use(path)
    return str(error.value)


# --- too many files ---


def test_a_zip_of_thousands_of_files_is_refused_before_one_of_them_is_read(tmp_path: Path) -> None:
    """Its directory was read for every file: ten thousand times ten thousand entries."""
    path = tmp_path / "model.zip"
    path.write_bytes(zipped({**package_files(), **{f"{n}": b"" for n in range(5000)}}))
    began = time.process_time()
    assert "lists too many files" in refusal(path)
    assert time.process_time() - began < 5.0


def test_a_zip_that_hides_how_many_files_it_has_is_refused_as_well(tmp_path: Path) -> None:
    content = zipped({**package_files(), **{f"{n}": b"" for n in range(5000)}})
    start, size = directory(content)
    end = content[-22:]
    lying = content[:-22] + end[:8] + struct.pack("<2H", 2, 2) + end[12:]
    assert directory(lying) == (start, size)
    path = tmp_path / "model.zip"
    path.write_bytes(with_end(lying, size, start))
    assert "lists too many files" in refusal(path)


def test_a_manifest_of_thousands_of_files_is_refused(tmp_path: Path) -> None:
    model = micro.graph("classification")
    empty = [FileEntry.of(f"{number}", b"") for number in range(2000)]
    listed = [entry.model_dump() for entry in (FileEntry.of("model.onnx", model), *empty)]
    micro.write(tmp_path, "classification", model, files=listed)
    assert "lists 2001 files; at most 1024 are allowed" in refusal(tmp_path)


# --- names ---


@pytest.mark.parametrize("path", ["a\nb", "a\0b", "\x1b[2Jb", "a\u202eb", "a\x85b"])
def test_a_file_of_an_unprintable_name_is_refused(tmp_path: Path, path: str) -> None:
    model = micro.graph("classification")
    files = [FileEntry.of("model.onnx", model).model_dump()]
    files.append({**files[0], "path": path})
    micro.write(tmp_path, "classification", model, files=files)
    text = refusal(tmp_path)
    assert "plain relative path inside the package" in text
    assert text.isprintable()


@pytest.mark.parametrize("key", ["a\nERROR b", "\x1b[31m", "\u2028"])
def test_a_strangers_key_brings_no_control_characters_into_a_sentence(key: str) -> None:
    values = micro.manifest("classification", b"")
    for changed in ({**values, key: 1}, {**values, "decision": {key: 1}}):
        with pytest.raises(InvalidPackage) as error:
            parse(json.dumps(changed).encode())
        assert str(error.value).isprintable()
        assert "unknown key" in str(error.value)


# --- sizes ---


def test_a_file_that_isnt_the_model_takes_no_more_than_the_limit_either(tmp_path: Path) -> None:
    """It is read as a whole; a hole in a file costs its author nothing."""
    model = micro.graph("classification")
    files = [FileEntry.of("model.onnx", model).model_dump()]
    files.append({"path": "notes", "size": 1500 * MIB, "sha256": "0" * 64})
    folder = micro.write(tmp_path / "bolts", "classification", model, files=files)
    (folder / "notes").touch()
    os.truncate(folder / "notes", 1500 * MIB)
    registration = Store(ModelsSettings(folder=tmp_path)).scan()["bolts"]
    with pytest.raises(OutOfMemory, match=r"models\.memory_limit_mib"):
        check_memory(registration, ModelsSettings(memory_limit_mib=1024))


@pytest.mark.parametrize("size", [100 * MIB, 2**40])
def test_a_manifest_of_any_size_is_refused_unread(tmp_path: Path, size: int) -> None:
    (tmp_path / "manifest.json").touch()
    os.truncate(tmp_path / "manifest.json", size)
    assert "manifest.json is larger than 1048576 bytes" in refusal(tmp_path)


def test_a_zip_in_a_zip_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(zipped({"model.zip": zipped(package_files()), "model.zip/manifest.json": b""}))
    assert "manifest.json is missing" in refusal(path)


def test_a_zip_whose_entry_says_zip64_is_refused(tmp_path: Path) -> None:
    """The size is to be found in an extra field that isn't there."""
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in package_files().items():
            with bundle.open(name, "w", force_zip64=True) as file:
                file.write(content)
    whole = bytearray(path.read_bytes())
    start, _ = directory(bytes(whole))
    struct.pack_into("<L", whole, start + 24, 0xFFFFFFFF)
    path.write_bytes(bytes(whole))
    assert "model.zip" in refusal(path)


# --- graphs ---


def external(location: str) -> Any:
    tensor = helper.make_tensor("secret", TensorProto.FLOAT, [1], b"\0\0\0\0", raw=True)
    external_data_helper.set_external_data(tensor, location=location, offset=0, length=4)
    tensor.ClearField("raw_data")
    return tensor


def in_a_sparse_tensor(tensor: Any) -> Any:
    model = onnx.load_from_string(micro.graph("classification"))
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    return model


def in_a_default_of_a_function(tensor: Any) -> Any:
    """An attribute that no node has: the function brings its value."""
    model = onnx.load_from_string(micro.graph("classification"))
    function = model.functions.add()
    function.name, function.domain = "Reads", "plant"
    function.output.append("value")
    function.opset_import.extend(model.opset_import)
    node = function.node.add(op_type="Constant", output=["value"])
    node.attribute.add(name="value", ref_attr_name="value", type=onnx.AttributeProto.TENSOR)
    function.attribute_proto.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    model.graph.node.add(op_type="Reads", domain="plant", output=["read"])
    model.opset_import.add(domain="plant", version=1)
    return model


PLACES: Dict[str, Callable[[Any], Any]] = {
    "sparse": in_a_sparse_tensor, "function-default": in_a_default_of_a_function,
}  # fmt: skip


@pytest.mark.parametrize("location", ["/proc/self/mem", "/dev/zero", "*/_ORT_MEM_ADDR_/*", "a"])
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_that_lies_elsewhere_is_found_wherever_it_hides(place: str, location: str) -> None:
    model = PLACES[place](external(location)).SerializeToString()
    with pytest.raises(InvalidPackage, match="keeps tensor 'secret' in another file"):
        external_data.check(model)


def test_a_graph_nested_a_thousand_times_is_refused() -> None:
    """Each level is a branch of an If in the branch of the one above."""
    content = b""
    for _ in range(1000):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            content = field + varint(len(content)) + content
    with pytest.raises(InvalidPackage, match="it can't be parsed"):
        external_data.check(b"\x3a" + varint(len(content)) + content + b"\x42\x02\x10\x0d")


def varint(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])
