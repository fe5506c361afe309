"""The commands people type, against a real agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.client import images
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    micro.write(running.models / "map", "anomaly_map")
    micro.write(running.models / "spare", "classification")
    with running:
        running.run("map")
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    good = np.zeros((96, 128, 3), np.uint8)
    bad = good.copy()
    bad[32:64, 32:64, 0] = 255  # red is what the micro model takes for a defect
    images.save(folder / "good.png", good)
    images.save(folder / "bad.png", bad)
    return folder


def test_detect_prints_one_json_object_an_image(
    agent: Agent, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(pictures), "--address", agent.address, "--json"]) == 0
    bad, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (Path(bad["image"]).name, bad["is_anomalous"]) == ("bad.png", True)
    assert (Path(good["image"]).name, good["is_anomalous"]) == ("good.png", False)
    (region,) = bad["regions"]
    assert (region["left"], region["top"], region["width"], region["height"]) == (32, 33, 32, 30)
    assert bad["anomalies"][1]["name"] == "anomaly"
    assert (bad["camera_problems"], good["camera_problems"]) == ([], ["black"])
    assert good["result_id"] == ""  # this agent publishes nothing


def test_detect_on_a_folder_ends_in_a_table_and_a_summary(
    agent: Agent, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(pictures), "--address", agent.address, "--transport", "bytes"]) == 0
    out = capsys.readouterr().out
    assert "bad.png" in out
    assert "normal (black picture)" in out
    assert "2 judged: 1 anomalous, 1 normal; 0 not judged" in out


@pytest.mark.parametrize(("form", "status"), [([], 1), (["--json"], 141)])  # rich ends with 1
def test_detect_ends_quietly_when_its_reader_has_enough(
    agent: Agent, pictures: Path, form: List[str], status: int
) -> None:
    words = ["detect", str(pictures), "--model", "map", "--address", agent.address, *form]
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == status
    assert "Traceback" not in said
    assert "Broken" not in said


def test_overlay_shows_the_mask_where_the_defect_is(
    agent: Agent, pictures: Path, tmp_path: Path
) -> None:
    target = tmp_path / "overlay.png"
    command = ["detect", str(pictures / "bad.png"), "--model", "map", "--address", agent.address]
    assert main([*command, "--overlay", str(target)]) == 0
    drawn, plain = images.load(target), images.load(pictures / "bad.png")
    assert (drawn[40:56, 40:56] != plain[40:56, 40:56]).any()


def test_a_bad_image_is_reported_and_the_others_are_judged(
    agent: Agent, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    small = tmp_path / "small.png"
    images.save(small, np.zeros((10, 10, 3), np.uint8))
    files = [str(broken), str(small), str(pictures / "good.png")]
    assert main(["detect", *files, "--address", agent.address, "--json"]) == 1
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert "can't be read as an image" in first["error"]
    assert "10x10 pixels" in second["error"]
    assert third["is_anomalous"] is False


def detect(agent: Agent, *words: object) -> int:
    return main(["detect", *map(str, words), "--model", "map", "--address", agent.address])


def test_overlays_keep_the_paths_of_their_images(
    agent: Agent, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("a.png", "a.jpg", "A.PNG", "day/a.png", "day/b.png")
    for name in names:
        images.save(tmp_path / "in" / name, images.load(pictures / "bad.png"))
    assert detect(agent, tmp_path / "in", "--overlay", tmp_path / "out") == 0
    drawn = sorted(
        str(path.relative_to(tmp_path / "out")) for path in images.find([tmp_path / "out"])
    )
    assert len({name.lower() for name in drawn}) == len(names)
    assert {"a.png", "day/a.png", "day/b.png"} <= {name.lower() for name in drawn}
    assert "day/b.png" in capsys.readouterr().out


def test_an_overlay_is_never_written_over_an_image(
    agent: Agent, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, picture = tmp_path / "in", tmp_path / "in" / "a.png"
    images.save(picture, images.load(pictures / "bad.png"))
    images.save(folder / "day" / "b.png", images.load(pictures / "bad.png"))
    before = picture.read_bytes()
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "link.png").symlink_to(picture)
    os.link(picture, tmp_path / "hard.png")
    attempts = [
        (folder, folder), (folder, tmp_path / "link"), (folder, folder / "day"),
        (picture, picture), (picture, tmp_path / "link.png"), (picture, folder),
        (picture, tmp_path / "hard.png"),
    ]  # fmt: skip
    for source, target in attempts:
        assert detect(agent, source, "--overlay", target) == 2
        sentence = capsys.readouterr().err
        assert (
            "would be written over" in sentence or "holds images that are to be judged" in sentence
        )
    assert picture.read_bytes() == before
    assert [path.name for path in images.find([folder])] == ["a.png", "b.png"]
    assert detect(agent, folder, "--overlay", folder / "out") == 0  # beside them it may lie
    assert (
        detect(agent, folder, "--overlay", folder / "out") == 2
    )  # now its overlays would be judged


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_an_overlay_is_written_over_an_earlier_one_and_nothing_else(
    agent: Agent, pictures: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"a{suffix}"
    assert detect(agent, pictures / "bad.png", "--overlay", target) == 0
    assert detect(agent, pictures / "good.png", "--overlay", target) == 0
    images.save(target, images.load(target))  # a person's work on it
    before = target.read_bytes()
    assert detect(agent, pictures / "bad.png", "--overlay", target) == 2
    assert "exists and isn't an overlay" in capsys.readouterr().err
    images.save(tmp_path / "out" / "bad.png", images.load(pictures / "bad.png"))
    assert detect(agent, pictures / "bad.png", "--overlay", tmp_path / "out") == 2
    assert target.read_bytes() == before


def test_of_many_refused_files_the_first_are_named(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(103):
        (tmp_path / f"{index:03}.png").write_bytes(b"")
    assert detect(agent, tmp_path) == 1
    out = capsys.readouterr().out
    assert "099.png" in out
    assert "100.png" not in out
    assert "3 more aren't judged; --json names all of them." in out
    assert "103  it is empty" in out


def test_what_is_left_out_is_counted_at_the_end(
    agent: Agent, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (pictures / "bad.png").read_bytes()
    for name in (b"good.png", b"._good.png", b"x.png/in.png", b"teil-\xe4\n.png"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    for name in ("cut-1.png", "cut-2.png"):
        (tmp_path / name).write_bytes(content[:-20])
    os.mkfifo(tmp_path / "pipe.png")
    assert detect(agent, tmp_path) == 1
    out = capsys.readouterr().out
    assert "3 judged: 3 anomalous, 0 normal; 3 not judged" in out
    assert "4 files are left out:" in out
    assert "2  it is cut short or damaged: a part of the PNG is missing" in out
    assert "1  it isn't a file" in out
    assert "1  its name begins with a dot" in out
    assert "teil-\\xe4\\n.png" in out
    assert detect(agent, tmp_path, "--json") == 1
    printed = capsys.readouterr()
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert len(records) == 6
    errors = {Path(record["image"]).name for record in records if "error" in record}
    assert errors == {"cut-1.png", "cut-2.png", "pipe.png"}
    assert "4 files are left out:" in printed.err


def test_models_lists_starts_describes_and_stops(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    def models(*words: str) -> str:
        assert main(["models", *words, "--address", agent.address, "--json"]) == 0
        return capsys.readouterr().out

    assert [json.loads(line)["status"] for line in models("list").splitlines()] == [
        "RUNNING",
        "STOPPED",
    ]
    assert json.loads(models("start", "spare"))["status"] == "RUNNING"
    assert json.loads(models("describe", "spare"))["model_component"] == "spare"
    assert json.loads(models("stop", "spare"))["status"] == "STOPPED"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["models", "start", "nope"], "'nope' isn't deployed on this device. Deployed models: map"),
        (["models", "stop", "spare"], "The model is STOPPED"),
        (["detect", "/nowhere.png"], "/nowhere.png doesn't exist"),
        (["models", "start", "map"], "The model is RUNNING"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    agent: Agent, words: list, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--address", agent.address]) == 2
    assert sentence in capsys.readouterr().err


def test_without_an_agent_the_commands_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "list", "--address", f"unix://{tmp_path}/none.sock"]) == 2
    assert "none.sock" in capsys.readouterr().err
