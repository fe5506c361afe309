"""Trainings of the real service: many calls at once, kills at any moment, everything in S3."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from moto.server import ThreadedMotoServer

from edge_agent.runtime.packages.package import Package
from tests.service.aws import needs_aws
from tests.service.buckets.conftest import s3_client, s3_settings
from tests.service.operations.test_model_training import entry
from tests.service.running import RunningService
from tests.service.served import PROJECTS, UNSIGNED_ACCOUNT, ask
from tests.training import pictures

KILLS = int(os.environ.get("SERVICE_KILLS", "3"))
ENDS_WITHIN_S = 500.0
PLENTY: Dict[str, Any] = {
    "calls_per_s": 10_000.0,
    "burst": 10_000,
    "models": 1000,
    "trainings": 1000,
}

pytestmark = pytest.mark.timeout(900)

TOKENS = """
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

client = session.client("lookoutvision", config=Config(max_pool_connections=50))
client.create_project(ProjectName="plates")
client.create_dataset(ProjectName="plates", DatasetType="train")

def create(number):
    answer = client.create_model(
        ProjectName="plates",
        ClientToken=f"token-{number % 8}",
        OutputConfig={"S3Location": {"Bucket": "output"}},
    )
    return [number % 8, answer["ModelMetadata"]["ModelVersion"]]

with ThreadPoolExecutor(50) as threads:
    answers = list(threads.map(create, range(1000)))
result = answers
"""

DESCRIBE = """
import time

def models():
    found = client.get_paginator("list_models").paginate(ProjectName="plates")
    return [model for page in found for model in page["Models"]]
while any(model["Status"] == "TRAINING" for model in models()):
    time.sleep(0.3)
result = models()
"""

SEGMENTATION = """
import time

client.create_project(ProjectName="plates")
client.create_dataset(
    ProjectName="plates",
    DatasetType="train",
    DatasetSource={"GroundTruthManifest": {"S3Object": {"Bucket": "plant", "Key": "m"}}},
)
def dataset():
    found = client.describe_dataset(ProjectName="plates", DatasetType="train")
    return found["DatasetDescription"]
while dataset()["Status"] == "CREATE_IN_PROGRESS":
    time.sleep(0.2)
client.create_model(
    ProjectName="plates", OutputConfig={"S3Location": {"Bucket": "output", "Prefix": "runs"}}
)
def model():
    found = client.describe_model(ProjectName="plates", ModelVersion="1")
    return found["ModelDescription"]
said = []
while model()["Status"] == "TRAINING":
    message = model()["StatusMessage"]
    said += [message] if message not in said else []
    time.sleep(0.1)
result = {"dataset": dataset(), "model": model(), "said": said}
"""


@needs_aws
def test_of_a_thousand_calls_with_the_same_tokens_each_token_trains_once(tmp_path: Path) -> None:
    settings = {"quotas": PLENTY, "children": 2}
    with RunningService(tmp_path, settings) as service:
        service.bucket("output")
        user = service.user()
        answers = user.boto3(TOKENS, within_s=ENDS_WITHIN_S)
        models = user.boto3(DESCRIBE, within_s=ENDS_WITHIN_S)
    versions = dict(answers)
    assert Counter(token for token, _ in answers) == dict.fromkeys(range(8), 125)
    assert all(versions[token] == version for token, version in answers)
    assert sorted(versions.values()) == [model["ModelVersion"] for model in models]
    assert {model["Status"] for model in models} == {"TRAINING_FAILED"}  # without any image
    assert all("has 0 normal and 0 anomaly" in model["StatusMessage"] for model in models)
    assert service.log().count(" failed: The dataset has 0 normal") == 8


class Line:
    """A service without signatures, which trains with drawn parts."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        service.bucket("output")
        images = pictures.write(service.bucket("plant"), 20, 10)
        paths = sorted(images.glob("*/*.png"))
        lines = [entry(path, images, with_mask=False).line for path in paths]
        (images / "m").write_text("\n".join(lines))

    def call(self, method: str, path: str = "", **body: object) -> Any:
        target = f"{PROJECTS}{path}"
        content = json.dumps(body).encode() if body else b""
        headers = {"content-type": "application/json"}
        received = ask(self.service.port, method, target, content, headers)
        assert received.status in (200, 202), received
        return received.content

    def create_dataset(self) -> None:
        self.call("POST", ProjectName="plates")
        source = {"GroundTruthManifest": {"S3Object": {"Bucket": "plant", "Key": "m"}}}
        self.call("POST", "/plates/datasets", DatasetType="train", DatasetSource=source)
        self.await_("/plates/datasets/train", "DatasetDescription", "CREATE_IN_PROGRESS")

    def create_model(self) -> str:
        place = {"S3Location": {"Bucket": "output"}}
        answer = self.call("POST", "/plates/models", OutputConfig=place)
        return str(answer["ModelMetadata"]["ModelVersion"])

    def await_(self, path: str, member: str, while_: str) -> Dict[str, Any]:
        deadline = time.monotonic() + ENDS_WITHIN_S
        while True:
            found: Dict[str, Any] = self.call("GET", path)[member]
            if found["Status"] != while_:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def files(self, version: str) -> List[str]:
        return [path.name for path in (self.service.bucket("output")).iterdir()
                if path.name.endswith(f"-{version}.json")]  # fmt: skip

    def package(self, version: str) -> Path:
        return self.service.root / "models" / UNSIGNED_ACCOUNT / "plates" / version


def test_trainings_of_a_killed_service_end_with_all_or_with_a_sentence(tmp_path: Path) -> None:
    service = RunningService(tmp_path, {"unsigned": True, "quotas": PLENTY})
    line = Line(service)
    with service:
        line.create_dataset()
        for seed in range(KILLS):
            version = line.create_model()
            time.sleep(random.Random(seed).uniform(0.0, 8.0))  # the moment is what is tried
            service.kill()
            service.start()
            check_ended(line, version)
        pids = [path.read_bytes() for path in commands()]
    assert not [pid for pid in pids if str(tmp_path).encode() in pid and b"work.child" in pid]


def check_ended(line: Line, version: str) -> None:
    model = line.await_(f"/plates/models/{version}", "ModelDescription", "TRAINING")
    if model["Status"] == "TRAINED":
        assert Package(line.package(version)).manifest.version == version
        assert len(line.files(version)) == 2
    else:
        assert model["Status"] == "TRAINING_FAILED"
        assert model["StatusMessage"].startswith("The service was stopped while this")
        assert not line.package(version).exists()
        assert not line.files(version)
    names = [path.name for path in line.service.bucket("output").rglob("*")]
    assert not [name for name in names if name.startswith(".")]
    deadline = time.monotonic() + ENDS_WITHIN_S
    while list((line.service.root / "work").iterdir()):  # it goes after the status is there
        assert time.monotonic() < deadline
        time.sleep(0.05)


def commands() -> Iterator[Path]:
    return (path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())


@needs_aws
def test_a_segmentation_model_is_trained_with_everything_in_s3(tmp_path: Path) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        s3 = s3_client(endpoint)
        count = upload_parts(s3, tmp_path)
        buckets = s3_settings(tmp_path, endpoint, {}).model_dump(mode="json")
        with RunningService(tmp_path, {"buckets": buckets}) as service:
            found = service.user().boto3(SEGMENTATION, within_s=ENDS_WITHIN_S)
        check_segmentation(found, service, s3, count)
    finally:
        server.stop()


def upload_parts(s3: Any, folder: Path) -> int:
    """Put images, masks and their manifest into the bucket plant; return how many images."""
    images = pictures.write(folder / "plant", 20, 10)
    paths = sorted(images.glob("*/*.png"))
    lines = [entry(path, images, with_mask=True).line for path in paths]
    for name in ("plant", "output"):
        s3.create_bucket(Bucket=name)
    for path in images.rglob("*.png"):
        s3.put_object(Bucket="plant", Key=str(path.relative_to(images)), Body=path.read_bytes())
    s3.put_object(Bucket="plant", Key="m", Body="\n".join(lines).encode())
    shutil.rmtree(images)
    return len(lines)


def check_segmentation(found: Dict[str, Any], service: RunningService, s3: Any, count: int) -> None:
    model = found["model"]
    assert found["dataset"]["ImageStats"] == {
        "Total": count, "Labeled": count, "Normal": 20, "Anomaly": 10,
    }  # fmt: skip
    assert model["Status"] == "TRAINED", model
    assert any(message.startswith("Training with 24 images.") for message in found["said"])
    assert not [message for message in found["said"] if str(service.root) in message]
    keys = {each["Key"] for each in s3.list_objects_v2(Bucket="output")["Contents"]}
    assert keys == {
        "runs/EvaluationManifest-plates-1.json", "runs/EvaluationResult-plates-1.json",
    }  # fmt: skip
    lines = [json.loads(each) for each in content(s3, model["EvaluationManifest"]).splitlines()]
    assert len(lines) == 6
    for line in lines:
        assert line["anomaly-mask-ref"].startswith("s3://plant/masks/")
        assert "internal-color-map" in line["anomaly-mask-ref-metadata"]
        assert line["anomaly-label-detected"] in (0, 1)
    metrics = json.loads(content(s3, model["EvaluationResult"]))["AggregatedEvaluationResults"]
    (pixels,) = metrics["Metrics"]["PixelAnomalyClassMetrics"]
    assert (pixels["ClassName"], pixels["AIOU"] > 0.2) == ("stain", True)


def content(s3: Any, place: Dict[str, str]) -> str:
    return str(s3.get_object(Bucket=place["Bucket"], Key=place["Key"])["Body"].read().decode())
