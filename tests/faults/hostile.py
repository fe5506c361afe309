"""Zips made to do harm: how each is written, and what must be said of it."""

from __future__ import annotations

import io
import json
import stat
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

from tests.fakes import micro

MIB = 1024 * 1024
Files = Dict[str, bytes]
Write = Callable[[Path], Any]
END_BYTES = 22


def package_files() -> Files:
    model = micro.graph("classification")
    manifest = json.dumps(micro.manifest("classification", model)).encode()
    return {"manifest.json": manifest, "model.onnx": model}


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return content.getvalue()


def with_entry(name: str, data: bytes = b"evil") -> Write:
    return lambda path: path.write_bytes(zipped({**package_files(), name: data}))


def renamed(old: bytes, new: bytes) -> Write:
    """A file is written as `old` and bears the name `new`, which no writer would give it."""

    def write(path: Path) -> None:
        path.write_bytes(zipped({**package_files(), old.decode(): b"evil"}).replace(old, new))

    return write


def of_kind(mode: int) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as bundle:
            entry = zipfile.ZipInfo("model.onnx")
            entry.create_system, entry.external_attr = 3, (mode | 0o644) << 16
            bundle.writestr(entry, "/etc/passwd")
            bundle.writestr("manifest.json", package_files()["manifest.json"])

    return write


def bomb(name: str, method: int = zipfile.ZIP_DEFLATED, says: int = 64 * MIB) -> Write:
    """A file of 64 MiB of spaces in a few kilobytes; its headers say `says` bytes."""

    def write(path: Path) -> None:
        content = zipped({**package_files(), name: b" " * (64 * MIB)}, method)
        path.write_bytes(content.replace(struct.pack("<L", 64 * MIB), struct.pack("<L", says)))

    return write


def directory(content: bytes) -> Tuple[int, int]:
    """Place and size of the directory."""
    size, start = struct.unpack_from("<2L", content, len(content) - END_BYTES + 12)
    return start, size


def with_end(content: bytes, size: int, start: int, comment: int = 0) -> bytes:
    tail = content[-END_BYTES:-10] + struct.pack("<2LH", size, start, comment)
    return content[:-END_BYTES] + tail


def million_of_files(path: Path) -> None:
    """Only the directory has them: 48 bytes each, and 1 KiB of objects for who believes it."""
    content = zipped(package_files())
    start, size = directory(content)
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 2, *[0] * 6) + b"ab"
    many = content[: start + size] + entry * 1_000_000 + content[-END_BYTES:]
    path.write_bytes(with_end(many, size + len(entry) * 1_000_000, start))


def overlapping(path: Path) -> None:
    """Both names of the directory stand for the same data."""
    content = bytearray(zipped(package_files()))
    start, _ = directory(bytes(content))
    second = bytes(content).index(b"PK\x01\x02", start + 4)
    struct.pack_into("<L", content, second + 42, 0)
    path.write_bytes(bytes(content))


def zip64_behind_a_plain_end(path: Path) -> None:
    """The plain end tells of one directory, the zip64's of another; readers differ."""
    content = zipped(package_files())
    start, size = directory(content)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) - END_BYTES, 1)
    path.write_bytes(content[:-END_BYTES] + record + locator + content[-END_BYTES:])


def encrypted(path: Path) -> None:
    content = bytearray(zipped(package_files()))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(bytes(content))


def two_manifests(path: Path) -> None:
    """Readers take the first or the last one; one is harmless, the other isn't."""
    other = package_files()["manifest.json"].replace(b'"1"', b'"2"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_two = {**package_files(), "manifest.jso_": other}
        path.write_bytes(zipped(with_two).replace(b"manifest.jso_", b"manifest.json"))


def changed(change: Callable[[bytes], bytes]) -> Write:
    return lambda path: path.write_bytes(change(zipped(package_files())))


def with_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in package_files().items():
            bundle.writestr(name, data)
        bundle.comment = b"#" * 65535


def with_manifest(make: Callable[[Dict[str, Any]], bytes]) -> Write:
    def write(path: Path) -> None:
        files = package_files()
        files["manifest.json"] = make(json.loads(files["manifest.json"]))
        path.write_bytes(zipped(files))

    return write


def list_twice(manifest: Dict[str, Any]) -> bytes:
    manifest["files"] *= 2
    return json.dumps(manifest).encode()


def many_wrong_keys(manifest: Dict[str, Any]) -> bytes:
    return json.dumps({**manifest, **{f"key{count}": 0 for count in range(50_000)}}).encode()


def other_digest(manifest: Dict[str, Any]) -> bytes:
    manifest["files"][0]["sha256"] = "0" * 64
    return json.dumps(manifest).encode()


CASES: Dict[str, Tuple[Write, Tuple[str, ...]]] = {
    "absolute": (with_entry("/tmp/evil.txt"), ("'/tmp/evil.txt' leads out of the package",)),
    "upwards": (with_entry("a/../../evil.txt"), ("'a/../../evil.txt' leads out",)),
    "backslashes": (with_entry("..\\..\\evil.txt"), ("evil.txt' leads out",)),
    "drive": (with_entry("C:\\evil.txt"), ("evil.txt' leads out",)),
    "drive-relative": (with_entry("C:evil.txt"), ("'C:evil.txt' leads out",)),
    "share": (with_entry("\\\\host\\share\\evil.txt"), ("evil.txt' leads out",)),
    "wide-dots": (
        with_entry("\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}\N{FULLWIDTH SOLIDUS}evil"),
        ("evil' leads out",),
    ),
    "name-with-a-nul": (renamed(b"model.onnx_evil", b"model.onnx\0evil"), ("goes by two names",)),
    "two-manifests": (two_manifests, ("holds two files manifest.json", "create it again")),
    "other-case": (
        lambda path: path.write_bytes(
            zipped({name.upper(): data for name, data in package_files().items()})
        ),
        ("manifest.json is missing", "root"),
    ),
    "link": (of_kind(stat.S_IFLNK), ("model.onnx is a link", "plain files only")),
    "fifo": (of_kind(stat.S_IFIFO), ("model.onnx isn't a plain file",)),
    "device": (of_kind(stat.S_IFCHR), ("model.onnx isn't a plain file",)),
    "bomb": (bomb("manifest.json"), ("manifest.json is larger than",)),
    "bomb-model": (bomb("model.onnx"), ("model.onnx is larger than",)),
    "bomb-that-lies": (bomb("manifest.json", says=300), ("isn't a readable zip", "manifest.json")),
    "bomb-bzip2": (
        bomb("manifest.json", zipfile.ZIP_BZIP2, 300), ("method 12", "store or deflate it"),
    ),
    "bomb-lzma": (
        bomb("manifest.json", zipfile.ZIP_LZMA, 300), ("method 14", "store or deflate it"),
    ),
    "million-of-files": (million_of_files, ("lists too many files", "the model's files only")),
    "overlapping": (overlapping, ("overlaps another file",)),
    "zip64": (zip64_behind_a_plain_end, ("is a zip64", "as a folder")),
    "nested": (
        lambda path: path.write_bytes(zipped({"package.zip": zipped(package_files())})),
        ("manifest.json is missing", "root"),
    ),
    "comment": (with_comment, ("isn't a readable zip", "a comment or other data at its end")),
    "data-at-the-end": (changed(lambda zip_: zip_ + b"evil"), ("or other data at its end",)),
    "data-in-front": (changed(lambda zip_: b"#!/bin/sh\n" + zip_), ("belongs to no file",)),
    "two-zips": (changed(lambda zip_: zip_ + zip_), ("belongs to no file",)),
    "cut-short": (changed(lambda zip_: zip_[:-1]), ("isn't a readable zip", "cut short")),
    "half": (changed(lambda zip_: zip_[: len(zip_) // 2]), ("isn't a readable zip",)),
    "empty": (lambda path: path.write_bytes(b""), ("isn't a readable zip",)),
    "encrypted": (encrypted, ("manifest.json is encrypted", "without a password")),
    "wrong-digest": (with_manifest(other_digest), ("model.onnx was altered or damaged", "0" * 64)),
    "listed-twice": (with_manifest(list_twice), ("lists a file twice",)),
    "deep-manifest": (
        with_manifest(lambda _: b'{"format":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("manifest.json isn't JSON",),
    ),
    "huge-manifest": (
        with_manifest(lambda manifest: json.dumps(manifest).encode() + b" " * MIB),
        ("manifest.json is larger than 1048576 bytes",),
    ),
    "many-wrong-keys": (with_manifest(many_wrong_keys), ("key0: unknown key", "... and more.")),
}  # fmt: skip
