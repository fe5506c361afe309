"""Training through the API beside `edge-agent train` and `evaluate` on the same images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, NamedTuple

from edge_agent.service.work.class_names import label_in
from edge_agent.service.work.training_images import Fetched, Image, split
from scripts.service_bench.calls import Caller

PROJECT = "cookies"
POLL_S = 0.1
MANIFEST = Path("manifests") / "train_class.manifest"


class TrainingTimes(NamedTuple):
    """Seconds for the same model."""

    api_s: float
    command_s: float


def measure(caller: Caller, root: Path, cookies: Path, folder: Path) -> TrainingTimes:
    """Train the cookies both ways, one after the other."""
    images = {path.name: path for path in (cookies / "train").rglob("*.jpg")}
    lines = (cookies / MANIFEST).read_text().splitlines()
    _fill_bucket(root, lines, images)
    api_s = _by_api(caller)
    return TrainingTimes(api_s, _by_command(lines, images, folder))


def _fill_bucket(root: Path, lines: list[str], images: Dict[str, Path]) -> None:
    for line in lines:
        source = json.loads(line)["source-ref"]
        place = root / "buckets" / source[len("s3://") :]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images[place.name], place)
    plant = root / "buckets" / "plant"
    plant.mkdir(parents=True, exist_ok=True)
    (plant / "train.manifest").write_text("\n".join(lines) + "\n")


def _by_api(caller: Caller) -> float:
    place = {"Bucket": "plant", "Key": "train.manifest"}
    source = {"GroundTruthManifest": {"S3Object": place}}
    caller.call("POST", "/projects", {"ProjectName": PROJECT})
    dataset = {"DatasetType": "train", "DatasetSource": source}
    caller.call("POST", f"/projects/{PROJECT}/datasets", dataset)
    path = f"/projects/{PROJECT}/datasets/train"
    while caller.call("GET", path)["DatasetDescription"]["Status"] != "CREATE_COMPLETE":
        time.sleep(POLL_S)
    began = time.monotonic()
    output = {"OutputConfig": {"S3Location": {"Bucket": "plant"}}}
    caller.call("POST", f"/projects/{PROJECT}/models", output)
    while True:
        model = caller.call("GET", f"/projects/{PROJECT}/models/1")["ModelDescription"]
        if model["Status"] == "TRAINED":
            return time.monotonic() - began
        if model["Status"] != "TRAINING":
            raise RuntimeError(model["StatusMessage"])
        time.sleep(POLL_S)


def _by_command(lines: list[str], images: Dict[str, Path], folder: Path) -> float:
    places = {}
    labelled = [Image.of(line, label_in(json.loads(line))) for line in lines]
    whole = Fetched({images[image.source.rpartition("/")[2]]: image for image in labelled})
    for name, part in zip(("train", "test"), split(whole)):
        for path, image in part.images.items():
            place = folder / name / image.label / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        places[name] = str(folder / name)
    command, model = [sys.executable, "-m", "edge_agent"], str(folder / "model")
    began = time.monotonic()
    for words in (["train", places["train"], "--out", model], ["evaluate", model, places["test"]]):
        subprocess.run([*command, *words], check=True, capture_output=True)
    return time.monotonic() - began
