from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.faults import ValidationFailed
from tests import ROOT

ACCOUNT = "123456789012"
MIB = 1024 * 1024


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "buckets" / "plant"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def buckets(bucket: Path) -> FolderBuckets:
    return FolderBuckets(bucket.parent, {})


def everything(folder: Path) -> List[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_bucket_may_be_a_link_to_a_folder_anywhere(
    tmp_path: Path, buckets: FolderBuckets
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "images").mkdir(parents=True)
    (elsewhere / "images" / "a.jpg").write_bytes(b"a")
    (tmp_path / "buckets" / "linked").symlink_to(elsewhere)
    assert buckets.read(ACCOUNT, "linked", "images/a.jpg", MIB) == b"a"
    buckets.write(ACCOUNT, "linked", "images/b.jpg", elsewhere / "images" / "a.jpg")
    assert (elsewhere / "images" / "b.jpg").read_bytes() == b"a"


def test_links_inside_a_bucket_count(bucket: Path, buckets: FolderBuckets) -> None:
    (bucket / "images").mkdir()
    (bucket / "images" / "a.jpg").write_bytes(b"a")
    (bucket / "b.jpg").symlink_to("images/a.jpg")
    (bucket / "same").symlink_to(bucket / "images")
    assert buckets.read(ACCOUNT, "plant", "b.jpg", MIB) == b"a"
    assert buckets.read(ACCOUNT, "plant", "same/a.jpg", MIB) == b"a"


def test_links_that_lead_out_are_refused(
    tmp_path: Path, bucket: Path, buckets: FolderBuckets
) -> None:
    secret = tmp_path / "buckets" / "other" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    (bucket / "file").symlink_to(secret)
    (bucket / "folder").symlink_to(secret.parent)
    (bucket / "up").symlink_to("..")
    for key in ("file", "folder/secret", "up/other/secret"):
        for use in (
            lambda: buckets.read(ACCOUNT, "plant", key, MIB),  # noqa: B023
            lambda: list(buckets.lines(ACCOUNT, "plant", key, MIB)),  # noqa: B023
            lambda: buckets.fetch(ACCOUNT, "plant", key, tmp_path),  # noqa: B023
        ):
            with pytest.raises(ValidationFailed, match="leads out of the bucket"):
                use()
    for key in ("folder/new", "up/other/new", "up/new/x/y"):
        with pytest.raises(ValidationFailed, match="leads out of the bucket"):
            buckets.write(ACCOUNT, "plant", key, secret)
    assert everything(tmp_path / "buckets" / "other") == ["secret"]


def test_what_is_written_in_the_place_of_a_link_leaves_its_target(
    tmp_path: Path, bucket: Path, buckets: FolderBuckets
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (bucket / "file").symlink_to(target)
    source = tmp_path / "source"
    source.write_bytes(b"new")
    buckets.write(ACCOUNT, "plant", "file", source)
    assert (target.read_bytes(), (bucket / "file").read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path), Path.mkdir])
def test_what_is_no_file_is_no_object(
    bucket: Path, buckets: FolderBuckets, make: Callable[[Path], None]
) -> None:
    make(bucket / "thing")
    with pytest.raises(ValidationFailed, match="was not found"):
        buckets.read(ACCOUNT, "plant", "thing", MIB)


def test_an_object_and_a_folder_cannot_have_one_name(
    bucket: Path, buckets: FolderBuckets, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    buckets.write(ACCOUNT, "plant", "a/b", source)
    with pytest.raises(ValidationFailed, match="s3://plant/a can't be stored: there are objects"):
        buckets.write(ACCOUNT, "plant", "a", source)
    with pytest.raises(ValidationFailed, match="before a slash is an object"):
        buckets.write(ACCOUNT, "plant", "a/b/c", source)
    with pytest.raises(ValidationFailed, match="before a slash is an object"):
        buckets.write(ACCOUNT, "plant", "a/b/c/d", source)
    assert everything(bucket) == ["a", "a/b"]


def test_readers_see_the_old_or_the_new_object_and_no_other(
    bucket: Path, buckets: FolderBuckets, tmp_path: Path
) -> None:
    sources = [tmp_path / "0", tmp_path / "1"]
    for source in sources:
        source.write_bytes(source.name.encode() * MIB)
    buckets.write(ACCOUNT, "plant", "model/head.bin", sources[0])
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(5):
            for source in sources:
                buckets.write(ACCOUNT, "plant", "model/head.bin", source)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = set()
    while not done.is_set():
        content = buckets.read(ACCOUNT, "plant", "model/head.bin", MIB)
        assert len(content) == MIB
        seen.add(content[:1] if len(set(content)) == 1 else content)
    writer.join()
    assert seen <= {b"0", b"1"}
    assert everything(bucket) == ["model", "model/head.bin"]


def test_a_file_that_is_being_written_is_no_object(bucket: Path, buckets: FolderBuckets) -> None:
    (bucket / ".edge-agent-part-1").write_bytes(b"half")
    (bucket / "link").symlink_to(".edge-agent-part-1")
    for key in (".edge-agent-part-1", "link"):
        with pytest.raises(ValidationFailed):
            buckets.read(ACCOUNT, "plant", key, MIB)


def test_of_two_folders_stored_at_once_the_first_that_is_whole_stays(
    bucket: Path, buckets: FolderBuckets, tmp_path: Path
) -> None:
    folder, slow, fast = S3Name("plant", "a/b"), tmp_path / "slow", tmp_path / "fast"
    for source in (slow, fast):
        source.mkdir()
        (source / "one").write_text(source.name)
    os.mkfifo(slow / "two")
    (fast / "two").write_text("fast")

    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(buckets.write_folder, ACCOUNT, folder, slow, ["one", "two"], "1")
        with (slow / "two").open("w"):  # waits until it is read
            buckets.write_folder(ACCOUNT, folder, fast, ["one", "two"], "2")
        with pytest.raises(
            ValidationFailed, match="s3://plant/a/b can't be stored: something else"
        ):
            storing.result()

    assert everything(bucket) == ["a", "a/b", "a/b/one", "a/b/two"]
    assert {(bucket / "a/b" / name).read_text() for name in ("one", "two")} == {"fast"}


PART = st.sampled_from(
    ["", ".", "..", "a", "b", "up", "out", "~", "a\\b", "..\\..", " ", "A", "a\n"]
)
KEYS = st.one_of(st.text(max_size=40), st.lists(PART, max_size=6).map("/".join))


@settings(max_examples=100)
@given(key=KEYS)
def test_no_key_leads_out_of_its_bucket(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bucket = Path(folder).resolve() / "buckets" / "plant"
        (bucket / "a").mkdir(parents=True)
        (bucket / "up").symlink_to("..")
        (bucket / "out").symlink_to(folder)
        buckets = FolderBuckets(bucket.parent, {})
        with contextlib.suppress(ValidationFailed):
            buckets.write(ACCOUNT, "plant", key, Path(__file__))
            place = buckets.fetch(ACCOUNT, "plant", key, bucket)
            assert bucket in place.parents
            assert place.read_bytes() == Path(__file__).read_bytes()
        assert [path.name for path in Path(folder).iterdir()] == ["buckets"]
        assert [path.name for path in bucket.parent.iterdir()] == ["plant"]


@given(st.text(max_size=80))
def test_a_uri_gives_a_usable_name_or_a_sentence(text: str) -> None:
    for uri in (text, f"s3://{text}", f"s3://bucket/{text}"):
        sentence = ""
        try:
            name = S3Name.of_uri(uri)
        except ValidationFailed as refused:
            sentence = str(refused)
        else:
            assert f"s3://{name.bucket}/{name.key}" == uri
            assert name.parts()
            continue
        assert sentence.endswith(".")
        assert sentence.isprintable()


def test_a_killed_writer_leaves_no_part_once_the_object_is_stored_again(
    tmp_path: Path, bucket: Path, buckets: FolderBuckets
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(8 * MIB))
    command = [sys.executable, "-m", "tests.service.buckets.killed_writer"]
    left = set()
    for seed in range(6):
        with subprocess.Popen(
            [*command, str(bucket.parent), str(source)], stdout=subprocess.PIPE, cwd=ROOT
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"stored\n"
            time.sleep(random.Random(seed).uniform(0.0, 0.05))  # the moment is what is tried
            writer.kill()
        left.update(everything(bucket))
        assert (bucket / "a.json").read_bytes() == source.read_bytes()
    assert len(left) <= 2, "one part at the most"
    buckets.write(ACCOUNT, "plant", "a.json", source)
    assert everything(bucket) == ["a.json"]


def test_of_writers_at_the_same_time_each_stores_all_of_its_own(
    tmp_path: Path, bucket: Path, buckets: FolderBuckets
) -> None:
    sources = [tmp_path / str(number) for number in range(8)]
    for number, source in enumerate(sources):
        source.write_bytes(bytes([number]) * MIB)

    def store(source: Path) -> Set[int]:
        for _ in range(10):
            buckets.write(ACCOUNT, "plant", "a.json", source)
        found = buckets.read(ACCOUNT, "plant", "a.json", MIB)
        assert len(found) == MIB
        return set(found)

    with ThreadPoolExecutor(8) as threads:
        assert all(len(found) == 1 for found in threads.map(store, sources))
    assert everything(bucket) == ["a.json"]
