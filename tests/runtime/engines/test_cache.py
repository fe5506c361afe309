"""The cache of engines: real files, real processes, disks that are small, full or read-only."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from edge_agent.errors import BuildFailed
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines import cache as module
from edge_agent.runtime.engines.cache import EngineCache, RefusedEngines
from tests.fakes.disks import disk
from tests.fakes.engines import engine_of

MIB = 1024 * 1024


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache", 100 * MIB)


def keep(cache: EngineCache, wanted: Fingerprint, content: bytes, seconds: float = 1.0) -> Path:
    with cache.workplace() as folder:
        engine = folder / "engine"
        engine.write_bytes(content)
        return cache.store(wanted, engine, seconds)


def files(cache: EngineCache) -> List[str]:
    return sorted(path.name for path in cache.timing("").parent.iterdir())


def test_an_engine_is_found_by_its_fingerprint_alone(cache: EngineCache) -> None:
    first, second = engine_of(), engine_of(precision="fp16")
    keep(cache, first, b"engine")

    found = cache.find(first)

    assert found is not None
    assert found.read_bytes() == b"engine"
    assert cache.find(second) is None
    assert files(cache) == [f"{first.id}.engine", f"{first.id}.json"]


def test_another_process_finds_it_as_well(cache: EngineCache, tmp_path: Path) -> None:
    keep(cache, engine_of(), b"engine")

    again = EngineCache(tmp_path / "cache", MIB)

    found = again.find(engine_of())
    assert found is not None
    assert found.read_bytes() == b"engine"


def test_an_empty_cache_has_nothing_and_needs_no_folder(cache: EngineCache, tmp_path: Path) -> None:
    wanted = engine_of()

    assert cache.find(wanted) is None
    assert cache.why_not(wanted) == ""
    assert RefusedEngines(tmp_path / "cache").find(wanted, "0123abcd") == ""
    assert cache.expected_s(wanted) is None
    cache.quarantine(wanted, "why")
    assert not (tmp_path / "cache").exists()


def test_what_has_changed_since_is_said(cache: EngineCache) -> None:
    keep(cache, engine_of(), b"engine")
    keep(cache, engine_of(tensorrt="8.4.1", cuda="10.2"), b"older")
    keep(cache, engine_of(model="0" * 64), b"of another model")

    assert cache.why_not(engine_of(tensorrt="8.6.1")) == "TensorRT 8.5.2.2 → 8.6.1"
    assert cache.why_not(engine_of(model="1" * 64)) == ""


def test_the_expected_time_is_that_of_the_most_similar_engine_built_here(
    cache: EngineCache,
) -> None:
    keep(cache, engine_of(), b"", 100.0)
    keep(cache, engine_of(precision="fp16"), b"", 200.0)
    keep(cache, engine_of(precision="fp16", cuda="12.2"), b"", 0.0)  # came with the package
    keep(cache, engine_of(gpu="Orin", tensorrt="8.6.1"), b"", 7.0)

    assert cache.expected_s(engine_of(tensorrt="8.6.1")) == 100.0
    assert cache.expected_s(engine_of(precision="fp16", cuda="12.2")) == 200.0
    assert cache.expected_s(engine_of(model="0" * 64)) is None


def lasting(tensorrt: str, **changes: Any) -> Fingerprint:
    return engine_of(tensorrt=tensorrt, version_compatible=True, **changes)


def test_a_version_compatible_engine_goes_on_serving_after_an_upgrade(
    cache: EngineCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, new = lasting("10.3.0"), lasting("10.16.1", driver="R36.4.0")
    keep(cache, old, b"engine", 60.0)

    found = cache.find(new)

    assert found is not None
    assert found.read_bytes() == b"engine"
    assert caplog.messages == [
        f"Engine {old.id}.engine is used further: "
        "TensorRT 10.3.0 → 10.16.1, driver R35.3.1 → R36.4.0"
    ]
    assert cache.is_taken_over(new)
    assert cache.expected_s(new) == 60.0, "how long building takes is still known"
    again = EngineCache(tmp_path / "cache", MIB)
    assert again.find(new) == found
    assert len(caplog.messages) == 1


def test_after_each_upgrade_it_counts_what_an_engine_was_built_for(cache: EngineCache) -> None:
    first, second, third = map(lasting, ("10.3.0", "10.7.0", "10.16.1"))
    keep(cache, first, b"engine")

    assert cache.find(third)
    assert cache.find(first) is not None, "a downgrade"
    assert not cache.is_taken_over(first)
    assert cache.find(third)
    assert cache.find(second), "it was built by an older one"
    assert cache.find(lasting("10.2.0")) is None


@pytest.mark.parametrize("new", [lasting("11.4.0"), lasting("10.2.0"), lasting("10.7.0", gpu="L4")])
def test_what_does_not_carry_is_not_found(new: Fingerprint, cache: EngineCache) -> None:
    old = lasting("10.3.0")
    keep(cache, old, b"engine")
    keep(cache, engine_of(tensorrt="10.3.0"), b"for one release")

    assert cache.find(new) is None
    assert cache.find(engine_of(tensorrt="10.16.1")) is None
    assert cache.find(old), "and it stays where it was"


def test_a_damaged_engine_does_not_go_on_serving(cache: EngineCache) -> None:
    old = lasting("10.3.0")
    cut(keep(cache, old, b"engine"))

    assert cache.find(lasting("10.16.1")) is None
    assert f"{old.id}.engine.bad" in files(cache)


def test_an_engine_built_after_all_is_not_taken_over(cache: EngineCache) -> None:
    new = lasting("10.16.1")
    keep(cache, lasting("10.3.0"), b"engine")
    assert cache.find(new)
    cache.quarantine(new, "other results")

    assert cache.find(new) is None
    keep(cache, new, b"built here")
    assert not cache.is_taken_over(new)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"), [(cut, "4095 bytes, and had 4096"), (flip, "its bytes have changed")]
)
def test_a_damaged_engine_is_put_aside_and_never_loaded(
    damage: Any, told: str, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = engine_of()
    path = keep(cache, wanted, os.urandom(4096))
    damage(path)

    with caplog.at_level(logging.WARNING):
        assert cache.find(wanted) is None

    assert told in caplog.text
    assert not path.exists()
    assert f"{wanted.id}.engine.bad" in files(cache)
    keep(cache, wanted, b"anew")
    assert cache.find(wanted) == path


@pytest.mark.parametrize("content", [b"", b"rubbish", b"{}", b"\xff\xff"])
def test_damaged_facts_are_left_out_with_a_word(
    content: bytes, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = engine_of()
    path = keep(cache, wanted, b"engine")
    path.with_suffix(".json").write_bytes(content)

    assert cache.find(wanted) is None
    assert cache.why_not(wanted) == ""
    assert f"{wanted.id}.json can't be read and is ignored" in caplog.text


def test_an_engine_that_fails_to_load_is_put_aside(cache: EngineCache) -> None:
    wanted = engine_of()
    path = keep(cache, wanted, b"engine")

    cache.quarantine(wanted, "TensorRT refuses it")

    assert cache.find(wanted) is None
    assert not path.exists()


def test_a_dropped_engine_is_gone(cache: EngineCache) -> None:
    path = keep(cache, engine_of(), b"engine")

    cache.drop(engine_of())
    cache.drop(engine_of(precision="fp16"))

    assert not path.exists()


def test_a_refused_engine_is_never_tried_again_unless_judged_otherwise(tmp_path: Path) -> None:
    folder, wanted = tmp_path / "cache", engine_of()

    RefusedEngines(folder).add(wanted, "0123abcd", "3 of 5 verdicts differ")

    for refusals in (RefusedEngines(folder), RefusedEngines(folder)):
        assert refusals.find(wanted, "0123abcd") == "3 of 5 verdicts differ"
        assert refusals.find(wanted, "ffffffff") == ""
        assert refusals.find(engine_of(precision="fp16"), "0123abcd") == ""


def test_engines_used_longest_ago_make_room_and_damaged_ones_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache", 3 * MIB)
    bad, old, used, new, newest = (engine_of(tensorrt=f"8.{number}") for number in range(5))
    for when, wanted in enumerate([used, old, bad]):
        os.utime(keep(cache, wanted, bytes(MIB)), (when, when))
    cache.quarantine(bad, "damaged")
    assert cache.find(used)

    keep(cache, new, bytes(MIB))
    names = [f"{wanted.id}.engine" for wanted in (old, used, new)]
    assert sorted(names) == [name for name in files(cache) if ".engine" in name]

    keep(cache, newest, bytes(MIB))
    assert cache.find(old) is None
    assert all(map(cache.find, [used, new, newest]))
    assert cache.expected_s(old) == 1.0, "how long it took is still known"


def test_an_engine_larger_than_the_limit_is_kept_alone(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache", MIB)
    keep(cache, engine_of(tensorrt="8.1"), b"small")

    keep(cache, engine_of(), bytes(2 * MIB))

    assert cache.find(engine_of())
    assert cache.find(engine_of(tensorrt="8.1")) is None


def test_what_is_remembered_of_lost_engines_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_RECORDS", 2)
    cache = EngineCache(tmp_path / "cache", 1)

    for number in range(6):
        keep(cache, engine_of(tensorrt=str(number)), b"engine")

    assert len(list((tmp_path / "cache").glob("*.json"))) == 3


def test_a_timing_cache_is_replaced_as_a_whole(cache: EngineCache, tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        file = tmp_path / "measured"
        file.write_bytes(content)
        cache.store_timing("..", file)  # no name leads out of the folder
        assert cache.timing("..").read_bytes() == content
    assert files(cache) == ["timing-.."]

    cache.forget_timing("..")
    cache.forget_timing("..")
    assert files(cache) == []


def test_an_engine_from_another_disk_is_copied(cache: EngineCache, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=1m") as other:
        (other / "engine").write_bytes(b"engine")
        path = cache.store(engine_of(), other / "engine", 0.0)

    assert path.read_bytes() == b"engine"
    assert cache.find(engine_of()) == path


def test_a_full_disk_is_a_sentence_and_leaves_no_half_engine(tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(bytes(2 * MIB))
    with disk(tmp_path / "disk", "size=1m") as small:
        cache = EngineCache(small / "cache", 100 * MIB)

        with pytest.raises(BuildFailed) as caught:
            cache.store(engine_of(), tmp_path / "engine", 1.0)

        assert f"the disk of {small}/cache is full" in str(caught.value)
        assert "MiB are free. Free space there, or set engine.cache" in str(caught.value)
        assert files(cache) == []
        assert cache.find(engine_of()) is None


def test_a_read_only_disk_is_a_sentence_and_its_engines_are_still_found(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=4m") as closed:
        cache = EngineCache(closed / "cache", 100 * MIB)
        path = keep(cache, engine_of(), b"engine")
        subprocess.run(["mount", "-o", "remount,ro", str(closed)], check=True)

        with pytest.raises(BuildFailed, match=r"can't be written \(Read-only file system\)\. Let"):
            keep(cache, engine_of(cuda="12"), b"engine")
        assert cache.find(engine_of()) == path

        refusals = RefusedEngines(closed / "cache")
        refusals.add(engine_of(), "0123abcd", "3 of 5 verdicts differ")
        assert refusals.find(engine_of(), "0123abcd") == "3 of 5 verdicts differ"


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    cache = EngineCache(tmp_path / "cache", MIB)

    with pytest.raises(BuildFailed, match=r"can't be stored in .*cache: File exists"):
        keep(cache, engine_of(), b"engine")
    assert cache.find(engine_of()) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_agent.runtime.engines.cache import RefusedEngines
from edge_agent.runtime.engines.cache import EngineCache
with EngineCache(Path(sys.argv[1]), 1).workplace() as folder:
    (folder / "model.onnx").write_bytes(b"model")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_behind_goes_with_the_next_build(
    cache: EngineCache, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cache")])
    (left,) = (tmp_path / "cache").glob("build-*")

    with cache.workplace() as first, cache.workplace() as second:
        assert not left.exists()
        assert first.exists()
        assert second.exists()

    assert files(cache) == []


WRITING = """
import sys
from pathlib import Path
from edge_agent.runtime.engines.cache import RefusedEngines
from edge_agent.runtime.engines.cache import EngineCache
from tests.fakes.disks import disk
from tests.fakes.engines import engine_of
cache = EngineCache(Path(sys.argv[1]), 1 << 30)
for number in range(40):
    with cache.workplace() as folder:
        engine = folder / "engine"
        engine.write_bytes(bytes([number]) * (1 << 18))
        cache.store(engine_of(), engine, 1.0)
"""


def test_processes_that_replace_an_engine_never_show_a_damaged_one(
    cache: EngineCache, tmp_path: Path
) -> None:
    keep(cache, engine_of(), b"first")
    command = [sys.executable, "-c", WRITING, str(tmp_path / "cache")]
    writers = [subprocess.Popen(command) for _ in range(2)]

    while any(writer.poll() is None for writer in writers):
        assert cache.find(engine_of()) is not None

    assert [writer.returncode for writer in writers] == [0, 0]
    assert not list((tmp_path / "cache").glob("*.bad"))
