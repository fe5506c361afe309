"""An account that isn't one: S3, STS and things by moto, Greengrass by botocore's Stubber.

The stubber checks every request and answer against the service model, in the order given.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional

from botocore.stub import ANY, Stubber

from edge_agent.packaging.aws.session import Aws

ACCOUNT = "123456789012"  # moto's
REGION = "eu-central-1"
SECRET = "dummy-secret-key"
TOKEN = "dummy-session-token"
THEN = datetime(2026, 11, 21, tzinfo=timezone.utc)
THING = f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/edge-1"
GROUP = f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/line-4"
JOB = "job-1"


class Cloud:
    """The clients, stubbed; every scripted answer must be asked for."""

    def __init__(self) -> None:
        self.aws = Aws(REGION)
        self.greengrass = Stubber(self.aws.greengrass)
        self._stubs = [self.greengrass]
        self.greengrass.activate()

    @cached_property
    def iot(self) -> Stubber:
        """Made when needed, as its model is a big one."""
        stub = Stubber(self.aws.iot)
        self._stubs.append(stub)
        stub.activate()
        return stub

    def check(self) -> None:
        for stub in self._stubs:
            stub.assert_no_pending_responses()

    def answers(self, method: str, request: Dict[str, Any], **answer: Any) -> None:
        self.greengrass.add_response(method, answer, request)

    def refuses(self, method: str, request: Any, code: str, message: str = "") -> None:
        self.greengrass.add_client_error(
            method, code, message, expected_params=request, http_status_code=400
        )

    def keys(self) -> List[str]:
        listed = self.aws.s3.list_objects_v2(Bucket="plant")
        return [entry["Key"] for entry in listed.get("Contents", [])]

    def modified(self, key: str) -> Any:
        return self.aws.s3.head_object(Bucket="plant", Key=key)["LastModified"]

    def read(self, key: str) -> bytes:
        return bytes(self.aws.s3.get_object(Bucket="plant", Key=key)["Body"].read())

    # ------------------------------------------------------------------ components

    def has(self, name: str, state: str, tags: Dict[str, str], **status: Any) -> None:
        """Script one describe_component."""
        self.answers(
            "describe_component",
            {"arn": component(name)},
            arn=component(name),
            componentName=name,
            status={"componentState": state, **status},
            tags=tags,
        )

    def lacks(self, name: str) -> None:
        self.refuses("describe_component", {"arn": component(name)}, "ResourceNotFoundException")

    def creates(self, name: str, recipe: Any = ANY, tags: Any = ANY) -> None:
        self.answers(
            "create_component_version",
            {"inlineRecipe": recipe, "tags": tags},
            componentName=name,
            componentVersion="1.0.0",
            creationTimestamp=THEN,
            status={"componentState": "REQUESTED"},
        )

    # ------------------------------------------------------------------ deployments

    def deployed(self, target: str, current: Optional[Dict[str, Any]]) -> None:
        """Script the questions for the target's deployment; None: it has none."""
        found = {"targetArn": target, "deploymentId": "old", "deploymentStatus": "ACTIVE"}
        self.answers(
            "list_deployments",
            {"targetArn": target, "historyFilter": "LATEST_ONLY"},
            deployments=[] if current is None else [found],
        )
        if current is not None:
            self.answers("get_deployment", {"deploymentId": "old"}, revisionId="7", **current)

    def deploys(self, request: Dict[str, Any], job: Optional[str] = None) -> None:
        answer = {"deploymentId": "new", **({"iotJobId": job} if job else {})}
        self.answers("create_deployment", {**request}, **answer)

    def effective(self, thing: str, status: Optional[str], **more: Any) -> None:
        """Script what a core device tells; None: of other deployments only."""
        told = {
            "deploymentId": "new" if status else "old",
            "deploymentName": "d",
            "targetArn": GROUP,
            "coreDeviceExecutionStatus": status or "SUCCEEDED",
            "creationTimestamp": THEN,
            "modifiedTimestamp": THEN,
            **more,
        }
        self.answers(
            "list_effective_deployments",
            {"coreDeviceThingName": thing},
            effectiveDeployments=[told],
        )

    def group(self, *things: str) -> None:
        self.iot.add_response(
            "list_things_in_thing_group",
            {"things": list(things)},
            {"thingGroupName": "line-4", "recursive": True},
        )

    def job(self, states: Dict[str, str], status: str = "ACTIVE") -> None:
        """Script one look at the deployment and its job."""
        self.answers("get_deployment", {"deploymentId": "new"}, deploymentStatus=status)
        arn = THING.replace("edge-1", "{}")
        found = [
            {"thingArn": arn.format(thing), "jobExecutionSummary": {"status": state}}
            for thing, state in states.items()
        ]
        self.iot.add_response(
            "list_job_executions_for_job", {"executionSummaries": found}, {"jobId": JOB}
        )


def component(name: str) -> str:
    return f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{name}:versions:1.0.0"


def folder(
    path: Path, name: str = "plant.Bolts", content: bytes = b"a model", description: str = "Bolts"
) -> Path:
    """Write a component folder with one artifact."""
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": "1.0.0",
        "ComponentDescription": description,
        "ComponentPublisher": "Edge Agent",
        "ComponentConfiguration": {"DefaultConfiguration": {"Autostart": False}},
        "ComponentDependencies": {},
        "Manifests": [
            {
                "Platform": {"os": "linux", "runtime": "*", "architecture": "amd64"},
                "Lifecycle": {"run": {"Script": "exec true"}},
                "Artifacts": [
                    {
                        "URI": f"s3://BUCKET_NAME/{name}/1.0.0/model.zip",
                        "Unarchive": "ZIP",
                        "Permission": {"Read": "ALL", "Execute": "ALL"},
                    }
                ],
            }
        ],
    }
    artifacts = path / "artifacts" / name / "1.0.0"
    artifacts.mkdir(parents=True)
    (artifacts / "model.zip").write_bytes(content)
    (path / "recipes").mkdir()
    (path / "recipes" / f"{name}-1.0.0.json").write_text(json.dumps(recipe))
    return path
