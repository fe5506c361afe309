"""Model packages that cannot serve: how each is written, and what must be said of it."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import onnx
from onnx import TensorProto, external_data_helper, helper

from tests.fakes import micro

Write = Callable[[Path], Any]


def change(folder: Path, **values: Any) -> None:
    """Write a package and put other values into its manifest."""
    micro.write(folder, "classification")
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest.update(values)
    file.write_text(json.dumps(manifest))


def alter(folder: Path) -> None:
    """Same size, one bit changed."""
    micro.write(folder, "classification")
    file = folder / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def cut(folder: Path) -> None:
    micro.write(folder, "classification")
    os.truncate(str(folder / "model.onnx"), 100)


def link_out(folder: Path) -> None:
    micro.write(folder.parent.parent / f"{folder.name}-elsewhere", "classification")
    micro.write(folder, "classification")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(f"../../{folder.name}-elsewhere/model.onnx")


def without_model(folder: Path) -> None:
    micro.write(folder, "classification")
    (folder / "model.onnx").unlink()


def directory_as_model(folder: Path) -> None:
    without_model(folder)
    (folder / "model.onnx").mkdir()


def fifo_as_model(folder: Path) -> None:
    without_model(folder)
    os.mkfifo(str(folder / "model.onnx"))


def external(location: str) -> Write:
    def write(folder: Path) -> None:
        model = onnx.load_from_string(micro.graph("classification"))
        tensor = next(entry for entry in model.graph.initializer if entry.name == "c255")
        tensor.raw_data = b"\0\0\x7fC"
        tensor.ClearField("float_data")
        external_data_helper.set_external_data(tensor, location=location)
        tensor.ClearField("raw_data")
        micro.write(folder, "classification", model.SerializeToString())

    return write


def external_in_a_branch(folder: Path) -> None:
    """Hidden in the sub-graph of an If."""
    model = onnx.load_from_string(micro.graph("classification"))
    value = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    value.ClearField("float_data")
    value.raw_data = b"\0\0\0\0"
    external_data_helper.set_external_data(value, location="/etc/passwd")
    value.ClearField("raw_data")
    out = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [1])
    branch = helper.make_graph([], "branch", [], [out], [value])
    node = helper.make_node("If", ["yes"], ["found"], then_branch=branch, else_branch=branch)
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.node.append(node)
    micro.write(folder, "classification", model.SerializeToString())


def other_operator(folder: Path) -> None:
    model = onnx.load_from_string(micro.graph("classification"))
    model.graph.node[0].op_type = "Teleport"
    micro.write(folder, "classification", model.SerializeToString())


def zipped(folder: Path, pack: Callable[[zipfile.ZipFile, Dict[str, bytes]], Any]) -> None:
    model = micro.graph("classification")
    manifest = json.dumps(micro.manifest("classification", model)).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        pack(bundle, {"model.onnx": model, "manifest.json": manifest})
    folder.with_name(folder.name + ".zip").write_bytes(content.getvalue())


def pack_all(bundle: zipfile.ZipFile, files: Dict[str, bytes]) -> None:
    for name, data in files.items():
        bundle.writestr(name, data)


def zip_leading_out(folder: Path) -> None:
    zipped(folder, lambda bundle, files: pack_all(bundle, {**files, "../../evil.txt": b"evil"}))


def zip_with_an_absolute_path(folder: Path) -> None:
    zipped(folder, lambda bundle, files: pack_all(bundle, {**files, "/tmp/evil.txt": b"evil"}))


def zip_with_a_link(folder: Path) -> None:
    def pack(bundle: zipfile.ZipFile, files: Dict[str, bytes]) -> None:
        bundle.writestr("manifest.json", files["manifest.json"])
        link = zipfile.ZipInfo("model.onnx")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(link, "/etc/passwd")

    zipped(folder, pack)


def zip_without_manifest_at_its_root(folder: Path) -> None:
    zipped(folder, lambda bundle, files: pack_all(
        bundle, {f"package/{name}": data for name, data in files.items()}
    ))  # fmt: skip


def zip_bomb(folder: Path) -> None:
    """50 MiB of zeros where the manifest says a few hundred bytes."""

    def pack(bundle: zipfile.ZipFile, files: Dict[str, bytes]) -> None:
        pack_all(bundle, {**files, "model.onnx": bytes(50 * 1024 * 1024)})

    zipped(folder, pack)


def zip_damaged_in_its_data(folder: Path) -> None:
    """The compressed manifest is garbage; all headers are in order."""
    zipped(folder, pack_all)
    file = folder.with_name(folder.name + ".zip")
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as bundle:
        entry = bundle.getinfo("manifest.json")
    start = entry.header_offset + 30 + len(entry.filename)
    content[start : start + entry.compress_size] = b"\xff" * entry.compress_size
    file.write_bytes(bytes(content))


def zip_cut_short(folder: Path) -> None:
    zipped(folder, pack_all)
    file = folder.with_name(folder.name + ".zip")
    os.truncate(str(file), file.stat().st_size // 2)


def nested_too_deeply(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"format":' + "[" * 100_000 + "]" * 100_000 + "}")


ENTRY = {"size": 1, "sha256": "0" * 64}
INPUT = {"tensor": "image", "height": 64, "width": 64}

# name of the case → (how it is written, words its message must have)
CASES: Dict[str, Tuple[Write, Tuple[str, ...]]] = {
    "altered": (alter, ("model.onnx", "altered or damaged", "sha-256")),
    "cut-short": (cut, ("model.onnx", "altered or damaged", "100 bytes")),
    "no-model": (without_model, ("model.onnx is missing", "root")),
    "model-is-a-folder": (directory_as_model, ("model.onnx", "Is a directory")),
    "model-is-a-fifo": (fifo_as_model, ("model.onnx", "isn't a plain file")),
    "link-out": (link_out, ("model.onnx is a link",)),
    "garbage": (
        lambda folder: micro.write(folder, "classification", b"\x08\x07garbage"),
        ("model.onnx isn't an ONNX file",),
    ),
    "empty": (lambda folder: micro.write(folder, "classification", b""), ("model.onnx",)),
    "other-operator": (other_operator, ("onnxruntime", "Teleport")),
    "external": (external("weights.bin"), ("model.onnx", "'c255'", "'weights.bin'")),
    "external-absolute": (external("/etc/passwd"), ("model.onnx", "'/etc/passwd'")),
    "external-in-branch": (external_in_a_branch, ("model.onnx", "'hidden'", "'/etc/passwd'")),
    "other-input": (
        lambda folder: change(folder, input={**INPUT, "tensor": "picture"}),
        ("'picture'", "image"),
    ),
    "other-size": (lambda folder: change(folder, input={**INPUT, "height": 65}), ("65",)),
    "other-output": (
        lambda folder: change(folder, outputs={"score": "verdict"}), ("verdict", "score"),
    ),
    "absolute-path": (
        lambda folder: change(folder, files=[{**ENTRY, "path": "/etc/passwd"}]),
        ("manifest.json", "files.0.path", "inside the package"),
    ),
    "parent-path": (
        lambda folder: change(folder, files=[{**ENTRY, "path": "../cls/model.onnx"}]),
        ("manifest.json", "files.0.path", "inside the package"),
    ),
    "format-2": (lambda folder: change(folder, format=2), ("manifest.json has format 2", "Update")),
    "unknown-field": (
        lambda folder: change(folder, color="red"), ("manifest.json", "color: unknown key", "task"),
    ),
    "unknown-inner-field": (
        lambda folder: change(folder, decision={"treshold": 0.5}),
        ("decision.treshold: unknown key", "threshold"),
    ),
    "wrong-type": (
        lambda folder: change(folder, input={**INPUT, "height": "64"}), ("input.height", "'64'"),
    ),
    "wrong-range": (
        lambda folder: change(folder, decision={"threshold": 1.5}), ("decision.threshold", "1.5"),
    ),
    "not-a-number": (
        lambda folder: change(folder, decision={"threshold": float("nan")}),
        ("manifest.json isn't JSON", "'NaN' isn't finite"),
    ),
    "not-json": (
        lambda folder: (folder.mkdir(), (folder / "manifest.json").write_bytes(b"\xff{"))[1],
        ("manifest.json",),
    ),
    "not-an-object": (
        lambda folder: (folder.mkdir(), (folder / "manifest.json").write_text("[1]"))[1],
        ("manifest.json must hold one JSON object",),
    ),
    "nested-too-deeply": (nested_too_deeply, ("manifest.json",)),
    "manifest-too-large": (
        lambda folder: change(folder, trained_by="x" * 2**21), ("manifest.json is larger than",),
    ),
    "too-large": (
        lambda folder: change(folder, files=[{**ENTRY, "path": "model.onnx", "size": 2**21}]),
        (f"{2**21} bytes", f"{2**20}", "models.package_limit_mib"),
    ),
    "zip-leading-out": (zip_leading_out, ("'../../evil.txt' leads out",)),
    "zip-absolute": (zip_with_an_absolute_path, ("'/tmp/evil.txt' leads out",)),
    "zip-with-link": (zip_with_a_link, ("model.onnx is a link",)),
    "zip-without-root": (zip_without_manifest_at_its_root, ("manifest.json is missing", "root")),
    "zip-bomb": (zip_bomb, ("model.onnx is larger than",)),
    "zip-damaged": (zip_damaged_in_its_data, ("zip",)),
    "zip-cut-short": (zip_cut_short, ("isn't a readable zip",)),
}  # fmt: skip
