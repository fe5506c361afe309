"""Packaging by a real service: as the original's documents ask for it, all at once, and killed."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from sqlalchemy import insert

from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.root import ServiceRoot
from edge_agent.service.work.children import INTERRUPTED
from scripts.service_bench.calls import Caller
from tests.fakes import micro
from tests.service.aws import CLI, Aws, needs_aws
from tests.service.running import ACCOUNT, RunningService

ROOMY = {
    "children": 2,
    "quotas": {"packaging_jobs": 100, "calls_per_s": 1e6, "burst": 1_000_000},
}
KILLS = 15
STAGES = (
    "The job waits",
    "The model is being checked",
    "The component is being stored",
    "The component is at",
)
PROJECT = "test-project-01"

pytestmark = needs_aws

# From the developer guide, "Packaging your model (SDK)".
DOCUMENTED = {
    "SampleComponentNameX86TargetPlatform-0.1.0": r"""
aws lookoutvision start-model-packaging-job \
  --project-name test-project-01 \
  --model-version 1 \
  --description="Model Packaging Job for G4 Instance using TargetPlatform Option" \
  --configuration "Greengrass={TargetPlatform={Os='LINUX',Arch='X86_64',Accelerator='NVIDIA'},CompilerOptions='{\'gpu-code\': \'sm_75\', \'trt-ver\': \'7.1.3\', \'cuda-ver\': \'10.2\'}',S3OutputLocation={Bucket='bucket',Prefix='test-project-01/folder'},ComponentName='SampleComponentNameX86TargetPlatform',ComponentVersion='0.1.0',ComponentDescription='This is my component',Tags=[{Key='modelKey0',Value='modelValue'}, {Key='modelKey1',Value='modelValue'}]}"
""",  # noqa: E501
    "jetson_component-2.0.0": r"""
aws lookoutvision start-model-packaging-job \
  --project-name test-project-01 \
  --model-version 1 \
  --description="description" \
  --configuration "Greengrass={TargetDevice='jetson_xavier',S3OutputLocation={Bucket='bucket',Prefix='component_folder'},ComponentName='jetson_component',ComponentVersion='2.0.0',ComponentDescription='jetson model component',Tags=[{Key='tag_key1',Value='tag_value1'}, {Key='tag_key2',Value='tag_value2'}]}"
""",  # noqa: E501
}

FORMS = """
import time

def started(name, **target):
    location = {"Bucket": "bucket", "Prefix": "boto3"}
    wanted = {"ComponentName": name, "S3OutputLocation": location, **target}
    return client.start_model_packaging_job(
        ProjectName=project, ModelVersion="1", Configuration={"Greengrass": wanted}
    )["JobName"]

jobs = [started(name, **target) for name, target in targets.items()]

def job(name):
    found = client.describe_model_packaging_job(ProjectName=project, JobName=name)
    return found["ModelPackagingDescription"]

ended = ("SUCCEEDED", "FAILED")
while not all(job(name)["Status"] in ended for name in jobs):
    time.sleep(0.1)
pages = client.get_paginator("list_model_packaging_jobs").paginate(
    ProjectName=project, PaginationConfig={"PageSize": 2}
)
listed = [[entry["JobName"] for entry in page["ModelPackagingJobs"]] for page in pages]
result = {"jobs": [job(name) for name in jobs], "listed": listed}
"""
CPU, GPU = {"Os": "LINUX", "Arch": "X86_64"}, {"Os": "LINUX", "Accelerator": "NVIDIA"}
TARGETS: Dict[str, Dict[str, Any]] = {
    "xavier": {"TargetDevice": "jetson_xavier"},
    "x86": {"TargetPlatform": CPU, "CompilerOptions": "{'mcpu': 'skylake-avx512'}"},
    "g5": {
        "TargetPlatform": {**GPU, "Arch": "X86_64"},
        "CompilerOptions": '{"gpu-code": "sm_80", "trt-ver": "8.2.0", "cuda-ver": "11.2"}',
    },
    "arm": {
        "TargetPlatform": {"Os": "LINUX", "Arch": "ARM64"},
        "CompilerOptions": "{'mattr': ['+neon', '+vfpv4']}",
    },
}

CONCURRENT = """
import random
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config

patient = session.client(
    "lookoutvision", config=Config(max_pool_connections=25, retries={"total_max_attempts": 10})
)

def start(number):
    wanted = {
        "ComponentName": f"c{number}", "S3OutputLocation": {"Bucket": "bucket"},
        "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
    }
    answer = patient.start_model_packaging_job(
        ProjectName=project, ModelVersion="1", ClientToken=f"t{number}",
        Configuration={"Greengrass": wanted},
    )
    return number, answer["JobName"]

numbers = [number % 4 for number in range(1000)]
random.Random(5).shuffle(numbers)
with ThreadPoolExecutor(25) as pool:
    result = list(pool.map(start, numbers))
"""


def add_model(records: Records) -> None:
    project = {"account": ACCOUNT, "name": PROJECT, "arn": "arn:p", "created": 1.0}
    model = {"project_id": 1, "version": 1, "arn": "arn:m", "created": 1.0}
    output = {"output_bucket": "bucket", "status": "TRAINED"}
    with records.write() as transaction:
        transaction.connection.execute(insert(PROJECTS).values(project))
        transaction.connection.execute(insert(MODELS).values({**model, **output}))


@pytest.fixture(name="service")
def _service(tmp_path: Path) -> Iterator[RunningService]:
    """A service with one trained model and a bucket `bucket`; not started yet."""
    service = RunningService(tmp_path, ROOMY)
    service.bucket("bucket")
    with closing(ServiceRoot(service.root)) as root, closing(root.records()) as records:
        add_model(records)
    package = service.root / "models" / ACCOUNT / PROJECT / "1"
    micro.write(package, "classification", name=PROJECT, version="1")
    yield service
    if service.process is not None and service.process.poll() is None:
        service.kill()


def ended(user: Aws) -> List[Dict[str, Any]]:
    """Wait until all jobs have ended; return their descriptions."""
    script = """
import time
def jobs():
    pages = client.get_paginator("list_model_packaging_jobs").paginate(ProjectName=project)
    return [entry for page in pages for entry in page["ModelPackagingJobs"]]
while any(job["Status"] in ("CREATED", "RUNNING") for job in jobs()):
    time.sleep(0.1)
result = [
    client.describe_model_packaging_job(ProjectName=project, JobName=job["JobName"])
    ["ModelPackagingDescription"] for job in jobs()
]
"""
    found: List[Dict[str, Any]] = user.boto3(script, project=PROJECT)
    return found


def test_the_commands_of_the_developer_guide_make_components(service: RunningService) -> None:
    with service:
        user = service.user()
        for command in DOCUMENTED.values():
            environment = {**user.environment, "PATH": f"{CLI.parent}:{user.environment['PATH']}"}
            subprocess.run(
                ["bash", "-c", command], env=environment, check=True, capture_output=True
            )
        jobs = ended(user)

    assert [job["Status"] for job in jobs] == ["SUCCEEDED", "SUCCEEDED"], jobs
    options = "{'gpu-code': 'sm_75', 'trt-ver': '7.1.3', 'cuda-ver': '10.2'}"
    assert jobs[0]["ModelPackagingConfiguration"]["Greengrass"]["CompilerOptions"] == options
    assert "CompilerOptions" not in jobs[1]["ModelPackagingConfiguration"]["Greengrass"]
    for name, prefix in zip(DOCUMENTED, ("test-project-01/folder", "component_folder")):
        component = ComponentFolder.read(service.bucket("bucket") / prefix / name)
        assert f"{component.name}-{component.version}" == name
        assert len(component.tags()) == 2


def test_every_form_of_target_is_packaged_through_boto3(service: RunningService) -> None:
    with service:
        found = service.user().boto3(FORMS, project=PROJECT, targets=TARGETS)

    assert [job["Status"] for job in found["jobs"]] == ["SUCCEEDED"] * len(TARGETS), found
    names = [job["JobName"] for job in found["jobs"]]
    assert found["listed"] == [names[:2], names[2:]]
    for (name, target), job in zip(TARGETS.items(), found["jobs"]):
        described = job["ModelPackagingConfiguration"]["Greengrass"]
        assert {key: described[key] for key in target} == target
        assert ComponentFolder.read(
            service.bucket("bucket") / "boto3" / f"{name}-1.0.0"
        ).artifacts()


def test_1000_concurrent_calls_with_duplicated_tokens_start_a_job_each_token(
    service: RunningService,
) -> None:
    with service:
        user = service.user()
        answers = user.boto3(CONCURRENT, within_s=240, project=PROJECT)
        jobs = ended(user)

    assert len(answers) == 1000
    assert {name for _, name in answers} == {job["JobName"] for job in jobs}
    assert [job["Status"] for job in jobs] == ["SUCCEEDED"] * 4
    folders = sorted(path.name for path in service.bucket("bucket").iterdir())
    assert folders == [f"c{number}-1.0.0" for number in range(4)]


def await_message(service: RunningService, message: str) -> None:
    """Wait until the last job's status message begins so, or the job has ended."""
    query = "SELECT message, status FROM packaging_jobs ORDER BY id DESC LIMIT 1"
    with closing(sqlite3.connect(service.root / "records.db", timeout=60)) as records:
        while True:
            found, status = records.execute(query).fetchone()
            if found.startswith(message) or status in ("SUCCEEDED", "FAILED"):
                return
            time.sleep(0.005)


def test_a_service_that_is_killed_while_it_packages_leaves_no_half_component(
    service: RunningService,
) -> None:
    user, chance = service.user(), random.Random(4)
    key = {"AccessKeyId": user.access_key, "SecretAccessKey": user.secret_key}
    place = service.bucket("bucket")
    for number in range(KILLS):
        service.start()
        wanted = {
            "TargetPlatform": CPU,
            "ComponentName": f"c{number}",
            "S3OutputLocation": {"Bucket": "bucket"},
        }
        with closing(Caller(service.port, key)) as caller:
            values = {"ModelVersion": "1", "Configuration": {"Greengrass": wanted}}
            caller.call("POST", f"/projects/{PROJECT}/modelpackagingjobs", values)
        await_message(service, STAGES[number % len(STAGES)])
        time.sleep(chance.uniform(0, 0.1))
        service.kill()
    with service:
        jobs = ended(user)

    assert len(jobs) == KILLS
    for job in jobs:
        name = job["ModelPackagingConfiguration"]["Greengrass"]["ComponentName"]
        folder = place / f"{name}-1.0.0"
        if job["Status"] == "FAILED":
            assert job["StatusMessage"] == INTERRUPTED
        else:
            assert job["Status"] == "SUCCEEDED"
        if job["Status"] == "SUCCEEDED" or folder.exists():
            assert ComponentFolder.read(folder).artifacts()
    assert {job["Status"] for job in jobs} == {"SUCCEEDED", "FAILED"}
    assert not list(place.glob(".edge-agent-part-*"))
    assert not list((service.root / "work").iterdir())
