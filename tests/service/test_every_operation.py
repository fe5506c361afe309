"""Every operation, called by the original client: its answer is what the original's shape says.

What came over HTTP is compared, since the client leaves out members that it doesn't know.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Dict

import pytest
from sqlalchemy import update

from edge_agent.service.records.schema import MODELS
from tests.service.aws import needs_aws
from tests.service.hosted import HostingService, picture
from tests.service.running import ACCOUNT, RunningService
from tests.service.wire.shape_values import MODEL

pytestmark = [needs_aws, pytest.mark.timeout(300)]

# Checks each answer that comes, against the service model of the client itself.
SCRIPT = """
import base64, json, time
found = {}

def check(shape, value, at):
    kind = shape.type_name
    if kind == "structure":
        assert isinstance(value, dict), at
        unknown = set(value) - set(shape.members)
        missing = set(shape.required_members) - set(value)
        assert not unknown and not missing, (at, unknown, missing)
        for name, member in value.items():
            check(shape.members[name], member, f"{at}.{name}")
    elif kind == "list":
        assert isinstance(value, list), at
        for number, item in enumerate(value):
            check(shape.member, item, f"{at}.{number}")
    else:
        types = {"string": str, "boolean": bool, "integer": int, "blob": str}
        assert isinstance(value, types.get(kind, (int, float))), (at, value)
        assert value in shape.metadata.get("enum", [value]), (at, value)

def see(http_response, parsed, model, **_):
    if http_response.status_code >= 300:
        return
    shape = model.output_shape
    located = [m for m in shape.members.values() if "location" in m.serialization]
    assert not located and "payload" not in shape.serialization
    check(shape, json.loads(http_response.content), model.name)
    assert http_response.status_code == model.http.get("responseCode", 200)
    found[model.name] = parsed

client.meta.events.register("after-call.lookoutvision", see)

def until(wanted, describe, **names):
    while True:
        status = next(each["Status"] for each in describe(**names).values() if "Status" in each)
        if status in wanted:
            return status
        time.sleep(0.1)

image = base64.b64decode(image)
project, model = {"ProjectName": "cookies"}, {"ProjectName": "cookies", "ModelVersion": "1"}
train = {"ProjectName": "new", "DatasetType": "train"}
s3 = {"S3Location": {"Bucket": "plant", "Prefix": "out/"}}
entry = {"source-ref": "s3://plant/1.png", "anomaly-label": 1,
         "anomaly-label-metadata": {"class-name": "normal", "human-annotated": "yes",
                                    "type": "groundtruth/image-classification"}}
arn = client.describe_model(**model)["ModelDescription"]["ModelArn"]
client.list_projects(); client.list_models(**project)
client.tag_resource(ResourceArn=arn, Tags=[{"Key": "line", "Value": "4"}])
client.list_tags_for_resource(ResourceArn=arn)
client.untag_resource(ResourceArn=arn, TagKeys=["line"])
client.start_model(**model, MinInferenceUnits=1)
until(["HOSTED"], client.describe_model, **model)
client.detect_anomalies(**model, Body=image, ContentType="image/png")
client.stop_model(**model)
until(["TRAINED"], client.describe_model, **model)
client.start_model_packaging_job(**model, JobName="job", Configuration={"Greengrass": {
    "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}, "ComponentName": "plant.Cookies",
    "S3OutputLocation": {"Bucket": "plant"}}})
client.list_model_packaging_jobs(**project)
until(["SUCCEEDED", "FAILED"], client.describe_model_packaging_job, JobName="job", **project)
client.delete_model(**model)
client.create_project(ProjectName="new")
client.create_dataset(**train)
client.update_dataset_entries(**train, Changes=json.dumps(entry))
until(["UPDATE_COMPLETE"], client.describe_dataset, **train)
client.list_dataset_entries(**train)
client.describe_project(ProjectName="new")
client.create_dataset(**{**train, "DatasetType": "test"})
client.create_model(ProjectName="new", OutputConfig=s3)
until(["TRAINING_FAILED"], client.describe_model, ProjectName="new", ModelVersion="1")
client.delete_model(ProjectName="new", ModelVersion="1")
while client.list_models(ProjectName="new")["Models"]:
    time.sleep(0.1)
client.delete_dataset(**train)
client.delete_dataset(**{**train, "DatasetType": "test"})
client.delete_project(ProjectName="new")
result = found
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """What the client made of the answer to each operation."""
    folder: Path = tmp_path_factory.mktemp("service")
    service = RunningService(folder)
    trained = HostingService(service.root)
    arn = f"arn:aws:lookoutvision:us-east-1:{ACCOUNT}:model/cookies/1"
    trained.add_model("classification")
    with trained.records.write() as transaction:
        transaction.connection.execute(update(MODELS).values(arn=arn))
    trained.records.close()
    service.bucket("plant")
    with service:
        image = base64.b64encode(picture(200)).decode()
        found: Dict[str, Any] = service.user().boto3(SCRIPT, within_s=240, image=image)
        assert "Traceback" not in service.log()
    return found


@pytest.mark.parametrize("name", MODEL.operation_names)
def test_the_answer_is_what_the_shape_of_the_operation_says(
    answers: Dict[str, Any], name: str
) -> None:
    assert answers[name]["ResponseMetadata"]["RetryAttempts"] >= 0
