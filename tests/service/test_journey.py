"""The whole way of scripts written for the original, with boto3 and the AWS CLI as they are."""

from __future__ import annotations

import json
import platform
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from edge_agent.cli import main
from edge_agent.client import images
from edge_agent.packaging.recipe import AGENT
from tests import ROOT
from tests.fakes.agent import Agent
from tests.packaging.device import PYTHON, Component
from tests.service.aws import Aws, needs_aws
from tests.service.running import RunningService

COOKIES = ROOT.parent / "shared" / "data" / "cookies"
MANIFEST = COOKIES / "manifests" / "train_class.manifest"
ORIGINAL = "lookoutvision-us-east-1-0e205be246"  # the bucket that the manifests name
HERE = "ARM64" if platform.machine() == "aarch64" else "X86_64"
COMPONENT = "plant.Cookies"

pytestmark = [
    needs_aws,
    pytest.mark.skipif(not COOKIES.exists(), reason="the image sets aren't here"),
    pytest.mark.timeout(900),
]

CREATE = """
import time

def until(describe, *ends):
    # As scripts do it, for want of waiters.
    while True:
        found = describe()
        if found["Status"] in ends:
            return found
        time.sleep(0.3)

project = client.create_project(ProjectName="cookies")["ProjectMetadata"]
client.create_dataset(
    ProjectName="cookies",
    DatasetType="train",
    DatasetSource={"GroundTruthManifest": {"S3Object": {"Bucket": "plant", "Key": "all.manifest"}}},
)
def dataset():
    found = client.describe_dataset(ProjectName="cookies", DatasetType="train")
    return found["DatasetDescription"]
made = until(dataset, "CREATE_COMPLETE", "CREATE_FAILED")
entries = client.get_paginator("list_dataset_entries").paginate(
    ProjectName="cookies", DatasetType="train", PaginationConfig={"PageSize": 10}
)
pages = [page["DatasetEntries"] for page in entries]
client.create_model(
    ProjectName="cookies",
    Description="the-first",
    OutputConfig={"S3Location": {"Bucket": "plant", "Prefix": "evaluation/"}},
    Tags=[{"Key": "line", "Value": "4"}],
)
def model():
    found = client.describe_model(ProjectName="cookies", ModelVersion="1")
    return found["ModelDescription"]
trained = until(model, "TRAINED", "TRAINING_FAILED")
result = {"project": project, "dataset": made, "pages": pages, "model": trained}
"""

DETECT = """
import time

units = {"MinInferenceUnits": 2, "MaxInferenceUnits": 3}
started = client.start_model(ProjectName="cookies", ModelVersion="1", **units)
def model():
    found = client.describe_model(ProjectName="cookies", ModelVersion="1")
    return found["ModelDescription"]
while model()["Status"] == "STARTING_HOSTING":
    time.sleep(0.3)
hosted = model()
verdicts = {}
for path in pictures:
    with open(path, "rb") as picture:
        answer = client.detect_anomalies(
            ProjectName="cookies", ModelVersion="1", Body=picture, ContentType="image/jpeg"
        )
    verdicts[path] = answer["DetectAnomalyResult"]
    verdicts[path].pop("AnomalyMask", None)
result = {"started": started["Status"], "hosted": hosted, "verdicts": verdicts}
"""

STOP = """
import time

stopped = client.stop_model(ProjectName="cookies", ModelVersion="1")["Status"]
def model():
    found = client.describe_model(ProjectName="cookies", ModelVersion="1")
    return found["ModelDescription"]["Status"]
while model() == "STOPPING_HOSTING":
    time.sleep(0.3)
try:
    client.detect_anomalies(
        ProjectName="cookies", ModelVersion="1", Body=b"any", ContentType="image/png"
    )
except client.exceptions.ConflictException as error:
    refusal = error.response
result = {"stopped": stopped, "status": model(), "refusal": refusal}
"""

PACKAGE = """
import time

jobs = [
    client.start_model_packaging_job(
        ProjectName="cookies", ModelVersion="1", Configuration={"Greengrass": configuration}
    )["JobName"]
    for configuration in configurations
]
def job(name):
    found = client.describe_model_packaging_job(ProjectName="cookies", JobName=name)
    return found["ModelPackagingDescription"]
while any(job(name)["Status"] in ("CREATED", "RUNNING") for name in jobs):
    time.sleep(0.3)
listed = client.get_paginator("list_model_packaging_jobs").paginate(
    ProjectName="cookies", PaginationConfig={"PageSize": 1}
)
names = [entry["JobName"] for page in listed for entry in page["ModelPackagingJobs"]]
result = {"jobs": [job(name) for name in jobs], "started": jobs, "listed": names}
"""


def configuration(name: str, **target: Any) -> Dict[str, Any]:
    location = {"Bucket": "plant", "Prefix": "components"}
    return {"S3OutputLocation": location, "ComponentName": name, **target}


def fill_buckets(service: RunningService) -> None:
    """What a user puts there: the manifest as it is, and the images where it says they are."""
    shutil.copyfile(MANIFEST, service.bucket("plant") / "all.manifest")
    folder = service.bucket(ORIGINAL) / "getting-started" / "training-images"
    folder.mkdir(parents=True)
    for picture in (COOKIES / "train").rglob("*.jpg"):
        shutil.copyfile(picture, folder / picture.name)


def check_trained(found: Dict[str, Any], service: RunningService) -> None:
    dataset, model, pages = found["dataset"], found["model"], found["pages"]
    assert dataset["Status"] == "CREATE_COMPLETE", dataset
    assert dataset["ImageStats"] == {"Total": 63, "Labeled": 63, "Normal": 31, "Anomaly": 32}
    assert [len(page) for page in pages] == [10] * 6 + [3]
    lines = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
    assert [json.loads(entry) for page in pages for entry in page] == lines
    assert model["Status"] == "TRAINED", model
    assert set(model["Performance"]) == {"F1Score", "Recall", "Precision"}
    for member in ("EvaluationManifest", "EvaluationResult"):
        assert (service.bucket(model[member]["Bucket"]) / model[member]["Key"]).is_file()


def check_verdicts(found: Dict[str, Any]) -> None:
    hosted, verdicts = found["hosted"], found["verdicts"]
    assert found["started"] == "STARTING_HOSTING"
    assert hosted["Status"] == "HOSTED", hosted
    assert (hosted["MinInferenceUnits"], hosted["MaxInferenceUnits"]) == (2, 3)
    assert len(verdicts) == 22
    right = [verdict["IsAnomalous"] == ("/anomaly/" in path) for path, verdict in verdicts.items()]
    assert sum(right) / len(right) > 0.8
    assert all(0 <= verdict["Confidence"] <= 1 for verdict in verdicts.values())


@contextmanager
def deployed(folder: Path, component: Path) -> Iterator[Agent]:
    """An agent that serves a component, which registers itself as on a device."""
    root = folder / "greengrass"
    records = root / "work" / AGENT / "models.d"
    records.parent.mkdir(parents=True)
    environment = {"PATH": f"{PYTHON}:/usr/bin:/bin", "AWS_IOT_THING_NAME": "press-7"}
    device = Component(root, component, environment, unpacks=True)
    device.install()
    device.run()
    try:
        with Agent(folder, "--records", str(records)) as agent:
            agent.run(device.name)
            yield agent
    finally:
        device.stop()


def test_scripts_of_the_original_go_their_whole_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [str(path) for path in sorted((COOKIES / "test").rglob("*.jpg"))]
    with RunningService(tmp_path) as service:
        fill_buckets(service)
        user = service.user()
        check_trained(user.boto3(CREATE, within_s=400), service)
        found = user.boto3(DETECT, pictures=pictures)
        check_verdicts(found)
        check_command_line(user, pictures[0], found["verdicts"][pictures[0]])
        stopped = user.boto3(STOP)
        jobs = user.boto3(
            PACKAGE,
            configurations=[
                configuration(COMPONENT, TargetPlatform={"Os": "LINUX", "Arch": HERE}),
                configuration("plant.Xavier", TargetDevice="jetson_xavier"),
            ],
        )
    assert (stopped["stopped"], stopped["status"]) == ("STOPPING_HOSTING", "TRAINED")
    assert stopped["refusal"]["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert stopped["refusal"]["ResourceType"] == "MODEL"
    assert [job["Status"] for job in jobs["jobs"]] == ["SUCCEEDED"] * 2, jobs
    assert jobs["listed"] == jobs["started"]

    component = service.bucket("plant") / "components" / f"{COMPONENT}-1.0.0"
    words = ["deploy", "--thing", "press-7", "--folder", str(component), "--dry-run"]
    assert main(words) == 0
    request = json.loads(capsys.readouterr().out)
    assert request["components"][COMPONENT]["componentVersion"] == "1.0.0"
    with deployed(tmp_path, component) as agent, agent.client() as client:
        for picture in pictures[:3] + pictures[-3:]:
            verdict = client.detect(COMPONENT, images.load(picture))
            assert verdict.is_anomalous == found["verdicts"][picture]["IsAnomalous"]


def check_command_line(user: Aws, picture: str, verdict: Dict[str, Any]) -> None:
    """The AWS CLI sees the same, in pages of its own as well."""
    model = ["--project-name", "cookies", "--model-version", "1"]
    said = user.cli("detect-anomalies", *model, "--content-type", "image/jpeg", "--body", picture)[
        "DetectAnomalyResult"
    ]
    assert said["Confidence"] == verdict["Confidence"]
    assert user.cli("describe-model", *model)["ModelDescription"]["Status"] == "HOSTED"
    listed = user.cli("list-dataset-entries", *model[:2], "--dataset-type", "train", "--labeled")
    assert len(listed["DatasetEntries"]) == 63
    arn = user.cli("list-models", *model[:2])["Models"][0]["ModelArn"]
    tags: List[Dict[str, str]] = user.cli("list-tags-for-resource", "--resource-arn", arn)["Tags"]
    assert tags == [{"Key": "line", "Value": "4"}]


def test_the_sdks_own_retries_wait_for_the_throttle(tmp_path: Path) -> None:
    script = """
answers = [client.list_projects()["ResponseMetadata"] for _ in range(6)]
result = [answer["RetryAttempts"] for answer in answers]
"""
    settings = {"quotas": {"calls_per_s": 2.0, "burst": 2}}
    with RunningService(tmp_path, settings) as service:
        retries = service.user().boto3(script)
    assert len(retries) == 6
    assert sum(retries) > 0
