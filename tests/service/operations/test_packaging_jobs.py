"""Model packaging jobs: what is asked for, what the child process makes, what is answered."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

import pytest
from sqlalchemy import insert, select, update

from edge_agent.errors import InvalidRequest
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.packaging.graph.findings import GraphFinding, warning
from edge_agent.runtime.packages.package import Package
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import (
    Conflict,
    QuotaExceeded,
    ResourceNotFound,
    ValidationFailed,
)
from edge_agent.service.operations.packaging_jobs import PackagingJobs
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PACKAGING_JOBS, PROJECTS, WORK
from edge_agent.service.settings import BucketSettings, ServiceSettings
from edge_agent.service.work.children import Children
from edge_agent.service.work.packaging import Packaging
from tests.fakes import micro

ACCOUNT, OTHER = "123456789012", "210987654321"
PLATFORM = {"Os": "LINUX", "Arch": "X86_64"}
OTHER_NAME = {"ComponentName": "plant.Nuts"}
WITHIN_S = 60.0


class World:
    """A service's records, buckets and work with one trained model; `start` begins the work."""

    def __init__(self, root: Path, settings: ServiceSettings) -> None:
        self.root = root
        self.records = Records(root / "records.db")
        self.work = Children(root=root, settings=settings, records=self.records)
        self.bucket = root / "buckets" / "plant"
        self.bucket.mkdir(parents=True)
        buckets = open_buckets(root, settings.buckets)
        self.jobs = PackagingJobs(settings=settings, buckets=buckets, work=self.work)
        self.package = root / "models" / ACCOUNT / "bolts" / "3"
        micro.write(self.package, "classification", name="bolts", version="3")
        self._insert()

    def _insert(self) -> None:
        with self.records.write() as transaction:
            project = {"account": ACCOUNT, "name": "bolts", "arn": "arn:p", "created": 1.0}
            model = {"project_id": 1, "version": 3, "arn": "arn:m", "created": 1.0}
            output = {"output_bucket": "plant", "status": "TRAINED"}
            transaction.connection.execute(insert(PROJECTS).values(project))
            transaction.connection.execute(insert(MODELS).values({**model, **output}))

    def close(self) -> None:
        self.work.close()
        self.records.close()

    def has(self, status: str) -> None:
        """Give the model another status."""
        with self.records.write() as transaction:
            transaction.connection.execute(update(MODELS).values(status=status))

    def start(self, account: str = ACCOUNT, **parameters: Any) -> str:
        configuration = {"Greengrass": wanted(**parameters.pop("greengrass", {}))}
        given = {"ProjectName": "bolts", "ModelVersion": "3", "Configuration": configuration}
        with self.records.write() as transaction:
            answer = self.jobs.start_model_packaging_job(
                call("StartModelPackagingJob", account, **{**given, **parameters}), transaction
            )
        return str(answer["JobName"])

    def describe(self, name: str, account: str = ACCOUNT) -> Dict[str, Any]:
        given = {"ProjectName": "bolts", "JobName": name}
        with self.records.read() as transaction:
            answer = self.jobs.describe_model_packaging_job(
                call("DescribeModelPackagingJob", account, **given), transaction
            )
        found: Dict[str, Any] = answer["ModelPackagingDescription"]  # type: ignore[assignment]
        return found

    def list(self, account: str = ACCOUNT, **parameters: Any) -> Answer:
        given = {"ProjectName": "bolts", **parameters}
        with self.records.read() as transaction:
            return self.jobs.list_model_packaging_jobs(
                call("ListModelPackagingJobs", account, **given), transaction
            )

    def run(self, folder: str) -> None:
        """Do what a child process does, here."""
        place = self.root / folder
        place.mkdir()
        kind = Packaging(self.root, ServiceSettings())
        assert kind.run(parameters(folder), place) == {"warnings": []}

    def ended(self, name: str) -> Dict[str, Any]:
        """Wait until a job has ended."""
        end = time.monotonic() + WITHIN_S
        while True:
            job = self.describe(name)
            if job["Status"] in ("SUCCEEDED", "FAILED"):
                return job
            assert time.monotonic() < end, job
            time.sleep(0.02)

    def files(self) -> List[str]:
        """All that lies in the bucket."""
        found = (path for path in self.bucket.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.bucket)) for path in found)


def call(operation: str, account: str, **parameters: Any) -> Call:
    return Call(
        service="lookoutvision",
        operation=operation,
        account=account,
        access_key="AKID",
        region="eu-west-1",
        request_id="1",
        now=1000.0,
        parameters=parameters,
    )


def wanted(**changes: Any) -> Dict[str, Any]:
    """A GreengrassConfiguration; None takes a member away."""
    values = {
        "TargetPlatform": PLATFORM,
        "S3OutputLocation": {"Bucket": "plant", "Prefix": "components/"},
        "ComponentName": "plant.Bolts",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def parameters(part: str, **changes: Any) -> Dict[str, Any]:
    """Those of the work of a job; `changes` of its configuration."""
    described = {"ComponentVersion": "3.0.0", "ComponentDescription": "Bolts"}
    return {
        "account": ACCOUNT,
        "project": "bolts",
        "version": "3",
        "configuration": wanted(**described, **changes),
        "part": part,
    }


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[World]:
    quotas = {"packaging_jobs": 4}
    made = World(tmp_path, ServiceSettings.model_validate({"quotas": quotas, "children": 2}))
    yield made
    made.close()


# asking


def test_a_job_is_created_at_once_and_described_as_it_was_asked_for(world: World) -> None:
    tags = [{"Key": "line", "Value": "4"}]
    name = world.start(
        JobName="job-1", Description="for line 4", greengrass={"Tags": tags}, ModelVersion="latest"
    )

    job = world.describe(name)

    assert (name, job["Status"], job["ModelVersion"]) == ("job-1", "CREATED", "3")
    assert job["StatusMessage"] == "The job waits for its turn."
    assert job["ModelPackagingJobDescription"] == "for line 4"
    assert job["ModelPackagingConfiguration"]["Greengrass"] == {
        **wanted(Tags=tags),
        "ComponentVersion": "3.0.0",
        "ComponentDescription": "Model version 3 of project bolts",
    }
    assert "ModelPackagingOutputDetails" not in job


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"TargetDevice": "jetson_xavier"}, "Two targets are named; name one, either TargetDevice"),
        ({"TargetPlatform": None}, "No target is named; name one"),
        ({"CompilerOptions": "[1]"}, "CompilerOptions: .*an object"),
        ({"CompilerOptions": '{"gpu-code": "sm_72"}'}, "CompilerOptions: unknown option"),
        (
            {"TargetPlatform": {**PLATFORM, "Accelerator": "NVIDIA"}},
            "CompilerOptions: .*gpu-code.*NVIDIA targets have gpu-code, trt-ver, cuda-ver",
        ),
        (
            {"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]},
            "a key is there twice",
        ),
        ({"Tags": [{"Key": "aws:a", "Value": "1"}]}, "tags of AWS itself start with aws:"),
        ({"ComponentVersion": "01.0.0"}, "Component: version"),
        ({"ComponentName": ".."}, "can't name a folder"),
        ({"S3OutputLocation": {"Bucket": "plant", "Prefix": "../other"}}, "a part of its key"),
        ({"S3OutputLocation": {"Bucket": "nobodys"}}, "The bucket nobodys was not found"),
    ],
)
def test_what_the_shapes_dont_say_is_refused_with_the_apis_words(
    world: World, changes: Dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationFailed, match=sentence) as caught:
        world.start(greengrass=changes)

    assert "--" not in str(caught.value)
    assert world.list()["ModelPackagingJobs"] == []


@pytest.mark.parametrize("status", ["TRAINING", "TRAINING_FAILED", "DELETING"])
def test_only_a_trained_model_is_packaged(world: World, status: str) -> None:
    world.has(status)
    with pytest.raises(Conflict, match=f"is {status}; only a trained model") as caught:
        world.start()
    assert caught.value.members["ResourceType"] == "MODEL"


@pytest.mark.parametrize("status", ["HOSTED", "STARTING_HOSTING", "HOSTING_FAILED"])
def test_a_hosted_model_is_a_trained_one(world: World, status: str) -> None:
    world.has(status)
    assert world.describe(world.start())["Status"] == "CREATED"


def test_a_name_belongs_to_one_job(world: World) -> None:
    world.start(JobName="job-1")
    with pytest.raises(Conflict, match="job-1 already; choose another JobName") as caught:
        world.start(JobName="job-1")
    assert caught.value.members["ResourceId"] == "job-1"


def test_jobs_without_a_name_get_one_each(world: World) -> None:
    assert world.start() != world.start(greengrass=OTHER_NAME)


def test_an_account_has_some_jobs_at_a_time(world: World) -> None:
    for number in range(4):
        world.start(greengrass={"ComponentName": f"plant.Bolts{number}"})
    with pytest.raises(QuotaExceeded, match=r"quotas\.packaging_jobs"):
        world.start()
    with world.records.write() as transaction:
        transaction.connection.execute(update(PACKAGING_JOBS).values(status="FAILED"))
    world.start()


def test_one_job_at_a_time_makes_a_component_at_a_place(world: World) -> None:
    place = {"Bucket": "plant", "Prefix": "components"}
    world.start(JobName="job-1", greengrass={"CompilerOptions": "{'mcpu': 'core-avx2'}"})
    with pytest.raises(
        Conflict, match=r"job-1 is making s3://plant/components/plant\.Bolts-3\.0\.0"
    ) as caught:
        world.start(greengrass={"S3OutputLocation": place, "ComponentVersion": "3.0.0"})
    assert caught.value.members["ResourceId"] == "job-1"
    for other in (
        OTHER_NAME,
        {"ComponentVersion": "3.0.1"},
        {"S3OutputLocation": {"Bucket": "plant"}},
    ):
        world.start(greengrass=other)


@pytest.mark.parametrize(
    ("account", "changes"),
    [
        (OTHER, {}),
        (ACCOUNT, {"ProjectName": "nuts"}),
        (ACCOUNT, {"ModelVersion": "4"}),
    ],
)
def test_what_isnt_there_or_is_anothers_is_not_found(
    world: World, account: str, changes: Dict[str, str]
) -> None:
    with pytest.raises(ResourceNotFound):
        world.start(account, **changes)


def test_jobs_are_another_accounts_secret(world: World) -> None:
    name = world.start()
    for ask in (lambda: world.describe(name, OTHER), lambda: world.list(OTHER)):
        with pytest.raises(ResourceNotFound):
            ask()


def test_jobs_are_listed_by_the_page(world: World) -> None:
    names = [world.start(greengrass={"ComponentVersion": f"{n}.0.0"}) for n in range(3)]
    first: Any = world.list(MaxResults=2)
    second: Any = world.list(MaxResults=2, NextToken=first["NextToken"])

    pages = [first["ModelPackagingJobs"], second["ModelPackagingJobs"]]
    assert [[job["JobName"] for job in page] for page in pages] == [names[:2], names[2:]]
    assert "NextToken" not in second
    assert "ModelPackagingConfiguration" not in pages[0][0]


def test_an_output_that_cant_be_written_is_refused_at_once(world: World) -> None:
    (world.bucket / "components").write_text("an object")
    with pytest.raises(
        ValidationFailed, match=r"s3://plant/components/plant\.Bolts-3\.0\.0 can't be stored"
    ):
        world.start()
    assert world.list()["ModelPackagingJobs"] == []


# making


@pytest.mark.parametrize(
    ("target", "architecture"),
    [
        ({"TargetPlatform": PLATFORM, "CompilerOptions": '{"mcpu": "core-avx2"}'}, "amd64"),
        ({"TargetPlatform": None, "TargetDevice": "jetson_xavier"}, "aarch64"),
    ],
)
def test_the_component_is_there_when_the_job_has_succeeded(
    world: World, target: Dict[str, Any], architecture: str
) -> None:
    world.work.start()

    job = world.ended(world.start(greengrass={**target, "Tags": [{"Key": "line", "Value": "4"}]}))

    assert job["Status"] == "SUCCEEDED", job["StatusMessage"]
    assert job["StatusMessage"] == "The component is at s3://plant/components/plant.Bolts-3.0.0."
    assert job["ModelPackagingOutputDetails"]["Greengrass"] == {
        "ComponentVersionArn": "arn:aws:greengrass:eu-west-1:aws:components:plant.Bolts"
        ":versions:3.0.0",
        "ComponentName": "plant.Bolts",
        "ComponentVersion": "3.0.0",
    }
    component = ComponentFolder.read(world.bucket / "components" / "plant.Bolts-3.0.0")
    assert (component.name, component.version) == ("plant.Bolts", "3.0.0")
    assert component.tags() == {"line": "4"}
    assert list(component.artifacts()) == ["plant.Bolts/3.0.0/model.zip"]
    assert component.recipe["Manifests"][0]["Platform"]["architecture"] == architecture


def test_a_model_that_cant_be_packaged_fails_with_a_sentence(world: World) -> None:
    (world.package / "model.onnx").write_bytes(b"no graph")
    world.work.start()

    job = world.ended(world.start())

    assert job["Status"] == "FAILED"
    assert job["StatusMessage"].startswith("The model's package: model.onnx was altered")
    assert str(world.root) not in job["StatusMessage"]
    assert "ModelPackagingOutputDetails" not in job
    assert world.files() == []


def test_what_is_said_of_a_component_names_no_folder_of_the_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(out: Path, order: object, report: Callable[[GraphFinding], None]) -> None:
        out.mkdir()
        (out / "recipe.yaml").touch()
        report(warning(f"{out}/engine.plan, {world.package} and /opt/lib/x.so are large."))

    monkeypatch.setattr("edge_agent.packaging.component.write", warn)
    place = world.root / "job"
    place.mkdir()
    result = Packaging(world.root, ServiceSettings()).run(parameters("job"), place)
    assert result == {"warnings": ["engine.plan, The model's package and x.so are large."]}


def test_a_job_fails_also_where_the_buckets_can_no_longer_be_opened(
    world: World, tmp_path: Path
) -> None:
    name = world.start()
    lost = BucketSettings(
        endpoint="http://127.0.0.1:9", access_key="key", secret_key_file=tmp_path / "lost"
    )
    with world.records.write() as transaction:
        given: Dict[str, Any] = transaction.connection.scalars(select(WORK.c.parameters)).one()
        Packaging(world.root, ServiceSettings(buckets=lost)).failed(given, "Why.", transaction)
    assert world.ended(name)["Status"] == "FAILED"


def test_the_documented_options_are_described_as_given_and_what_is_made_is_said(
    world: World,
) -> None:
    options = "{'gpu-code': 'sm_75', 'trt-ver': '7.1.3', 'cuda-ver': '10.2'}"
    platform = {**PLATFORM, "Accelerator": "NVIDIA"}
    world.work.start()

    job = world.ended(
        world.start(greengrass={"TargetPlatform": platform, "CompilerOptions": options})
    )

    assert job["Status"] == "SUCCEEDED", job["StatusMessage"]
    assert job["ModelPackagingConfiguration"]["Greengrass"]["CompilerOptions"] == options
    assert "The component is made for TensorRT 8.5.2 with CUDA 11.4" in job["StatusMessage"]
    component = ComponentFolder.read(world.bucket / "components" / "plant.Bolts-3.0.0")
    (model,) = component.artifacts().values()
    target = Package(model).manifest.target
    assert target is not None
    assert (target.gpu_code, target.trt_ver, target.cuda_ver) == ("sm_75", "8.5.2", "11.4")


def test_two_jobs_at_once_make_a_component_each(world: World) -> None:
    world.work.start()
    names = [world.start(greengrass=name) for name in ({}, OTHER_NAME)]

    assert [world.ended(name)["Status"] for name in names] == ["SUCCEEDED", "SUCCEEDED"]
    for name in ("plant.Bolts", "plant.Nuts"):
        component = ComponentFolder.read(world.bucket / "components" / f"{name}-3.0.0")
        assert list(component.artifacts()) == [f"{name}/3.0.0/model.zip"]
    assert {path.name for path in (world.bucket / "components").iterdir()} == {
        "plant.Bolts-3.0.0",
        "plant.Nuts-3.0.0",
    }


def test_a_root_that_was_copied_packages_its_own_models(world: World, tmp_path: Path) -> None:
    name = world.start()
    world.work.close()
    world.records.close()
    copy = tmp_path / "elsewhere" / "root"
    shutil.copytree(world.root, copy)
    shutil.rmtree(world.package)

    world.records = Records(copy / "records.db")
    world.work = Children(root=copy, settings=ServiceSettings(), records=world.records)
    world.work.start()
    assert world.ended(name)["Status"] == "SUCCEEDED"

    assert ComponentFolder.read(copy / "buckets/plant/components/plant.Bolts-3.0.0").artifacts()
    assert world.files() == []


def test_everything_is_on_disk_before_the_job_has_succeeded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: Set[Tuple[int, int]] = set()  # inodes, as the folder gets its name afterwards
    real = os.fsync

    def fsync(file: int) -> None:
        found = os.fstat(file)
        synced.add((found.st_ino, found.st_mtime_ns))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    world.run("job")

    made = world.bucket / "components" / "plant.Bolts-3.0.0"
    for path in (made, made.parent, world.bucket, *made.rglob("*")):
        found = path.stat()
        assert (found.st_ino, found.st_mtime_ns) in synced, path


def test_a_version_that_is_there_stays_as_it_is(world: World) -> None:
    world.run("first")
    before = {name: (world.bucket / name).read_bytes() for name in world.files()}

    world.run("same")
    micro.write(world.package, "anomaly_map", name="bolts", version="3")
    with pytest.raises(InvalidRequest, match="choose another ComponentVersion"):
        world.run("other")

    assert before == {name: (world.bucket / name).read_bytes() for name in world.files()}


def test_a_bucket_that_went_away_is_named(world: World) -> None:
    world.bucket.rmdir()
    with pytest.raises(ValidationFailed, match="The bucket plant was not found"):
        world.run("job")
