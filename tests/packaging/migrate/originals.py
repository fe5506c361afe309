"""Recipes, deployments and jobs as users of the original have them, and the run of a migration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import botocore.session
from botocore.validate import ParamValidator

from edge_agent.packaging.migrate.migrate_command import migrate
from edge_agent.packaging.migrate.migration import Migration
from edge_agent.packaging.recipe import AGENT, check

GROUP = "arn:aws:iot:eu-west-1:123456789012:thinggroup/Line4"
SECRET = "hunter2-4711"


def client(**changes: Any) -> Dict[str, Any]:
    """A camera program that calls the agent and publishes what it says."""
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "plant.Camera",
        "ComponentVersion": "1.0.3",
        "ComponentType": "aws.greengrass.generic",
        "ComponentDescription": "Shows the camera's pictures to the model",
        "ComponentPublisher": "Plant",
        "ComponentConfiguration": {
            "DefaultConfiguration": {
                "Topic": "line4/results",
                "accessControl": {
                    "aws.greengrass.ipc.mqttproxy": {
                        "plant.Camera:mqttproxy:1": {
                            "policyDescription": "Results to the cloud.",
                            "operations": ["aws.greengrass#PublishToIoTCore"],
                            "resources": ["line4/#"],
                        }
                    }
                },
            }
        },
        "ComponentDependencies": {
            AGENT: {"VersionRequirement": ">=0.1.0 <2.0.0", "DependencyType": "HARD"}
        },
        "Manifests": [
            {
                "Platform": {"os": "linux", "architecture": "aarch64"},
                "Lifecycle": {"run": "python3 -u {artifacts:path}/camera.py"},
                "Artifacts": [{"URI": "s3://plant/camera.py"}],
            }
        ],
        **changes,
    }


def with_lifecycle(lifecycle: Dict[str, Any], **changes: Any) -> Dict[str, Any]:
    recipe = client(**changes)
    recipe["Manifests"][0]["Lifecycle"] = lifecycle
    return recipe


def model(**changes: Any) -> Dict[str, Any]:
    """A model component as the original's packaging jobs and their lineage made them."""
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "plant.Bolts",
        "ComponentVersion": "3.0.0",
        "ComponentPublisher": "Amazon Lookout for Vision",
        "ComponentConfiguration": {
            "DefaultConfiguration": {
                "Autostart": False,
                "PYTHONPATH": "/usr/lib/agent",
                "ModelName": "bolts",
            }
        },
        "ComponentDependencies": {AGENT: {"VersionRequirement": "^1.0.0"}},
        "Manifests": [
            {
                "Platform": {"os": "linux", "architecture": "aarch64"},
                "Lifecycle": {
                    "Startup": {"Script": "convert", "Timeout": 900, "RequiresPrivilege": True},
                    "Shutdown": {"Script": "remove", "Timeout": 900},
                },
                "Artifacts": [
                    {"URI": "s3://plant/0a1b_greengrass_model_component.zip", "Unarchive": "ZIP"}
                ],
            }
        ],
        **changes,
    }


def deployment(**changes: Any) -> Dict[str, Any]:
    """What get-deployment told of a line with the original."""
    return {
        "targetArn": GROUP,
        "revisionId": "7",
        "deploymentId": "0b2c",
        "deploymentName": "Line 4",
        "deploymentStatus": "ACTIVE",
        "creationTimestamp": "2023-02-01T10:00:00+01:00",
        "isLatestForTarget": True,
        "components": {
            "aws.greengrass.Nucleus": {"componentVersion": "2.9.3"},
            AGENT: {
                "componentVersion": "1.1.1",
                "configurationUpdate": {"merge": '{"Socket": "unix:///run/l4v.sock"}'},
            },
            "plant.Bolts": {
                "componentVersion": "3.0.0",
                "configurationUpdate": {"merge": '{"Autostart": true}'},
            },
            "plant.Camera": {
                "componentVersion": "1.0.3",
                "configurationUpdate": {"merge": '{"Topic": "line5"}', "reset": ["/Device"]},
                "runWith": {"posixUser": "ggc_user:video"},
            },
        },
        "deploymentPolicies": {
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {"timeoutInSeconds": 60, "action": "NOTIFY_COMPONENTS"},
        },
        "iotJobConfiguration": {},
        "tags": {"line": "4", "aws:made-by": "console"},
        **changes,
    }


def job(options: Optional[str] = '{"mcpu": "core-avx2"}', **target: Any) -> Dict[str, Any]:
    """What DescribeModelPackagingJob told."""
    where = target or {"TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"}}
    return {
        "ModelPackagingDescription": {
            "JobName": "bolts-2",
            "ProjectName": "bolts",
            "ModelVersion": "2",
            "ModelPackagingConfiguration": {
                "Greengrass": {
                    **where,
                    "CompilerOptions": options,
                    "S3OutputLocation": {"Bucket": "plant-bucket", "Prefix": "components/"},
                    "ComponentName": "plant.Bolts",
                    "ComponentVersion": "2.0.0",
                    "ComponentDescription": "Bolts & nuts",
                    "Tags": [{"Key": "line", "Value": "4 left"}],
                }
            },
            "ModelPackagingMethod": "1.0.0",
            "Status": "SUCCEEDED",
        }
    }


def migrated(tmp_path: Path, *documents: Dict[str, Any], **settings: Any) -> Migration:
    """Migrate the documents; everything that would be written is checked."""
    paths = []
    for place, document in enumerate(documents):
        path = tmp_path / f"original{place}.json"
        path.write_text(json.dumps(document))
        paths.append(path)
    migration = Migration(**{"out": tmp_path / "out", "agent": AGENT, **settings})
    migrate(paths, migration)
    check_files(migration)
    return migration


def check_files(migration: Migration) -> None:
    """Fail unless the nuclei and the service would take every file."""
    model = botocore.session.get_session().get_service_model("greengrassv2")
    shape = model.operation_model("CreateDeployment").input_shape
    for name, content in migration.files.items():
        if "/recipes/" in name:
            check(content)
        elif name.endswith(".deployment.json"):
            problems = ParamValidator().validate(json.loads(content), shape)
            assert not problems.has_errors(), problems.generate_report()


def found(migration: Migration, status: str) -> List[Tuple[str, str]]:
    return [(item.thing, item.message) for item in migration.findings if item.status == status]


def said(migration: Migration, thing: str) -> str:
    """All that was said of one thing."""
    return " ".join(item.message for item in migration.findings if item.thing == thing)


def commands(migration: Migration) -> List[str]:
    return [line for item in migration.findings for line in item.commands]


def recipe_of(migration: Migration) -> Any:
    """The one recipe that is written."""
    (content,) = [migration.files[name] for name in migration.files if "/recipes/" in name]
    return json.loads(content)


def deployment_of(migration: Migration) -> Any:
    (content,) = [migration.files[name] for name in migration.files if name.endswith("t.json")]
    return json.loads(content)
