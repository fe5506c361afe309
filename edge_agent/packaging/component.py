"""Writes a component folder, and runs the packaging job that does so.

recipes/NAME-VERSION.json          for local deployments and publishing
recipe.yaml                        the same, to read
artifacts/NAME/VERSION/model.zip   model package and registration program
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.errors import EdgeAgentError, InvalidConfiguration
from edge_agent.fields import Strict
from edge_agent.manifest import NAME_PATTERN
from edge_agent.packaging import archive
from edge_agent.packaging.jobs import Job, Jobs, staging
from edge_agent.packaging.recipe import AGENT, ARTIFACT, VERSION_PATTERN, model_component
from edge_agent.packaging.target import Target
from edge_agent.runtime.package import Package

TAG_PATTERN = r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$"
TagKey = Annotated[str, Field(min_length=1, max_length=128, pattern=TAG_PATTERN)]
TagValue = Annotated[str, Field(max_length=256, pattern=TAG_PATTERN)]


class Component(Strict):
    """What to make, with the lengths and patterns of the packaging API."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    description: Annotated[str, Field(min_length=1, max_length=256)]
    tags: Annotated[Dict[TagKey, TagValue], Field(max_length=200, default_factory=dict)]
    agent: Annotated[str, Field(pattern=NAME_PATTERN)] = AGENT

    def to_api(self, target: Target, out: Path) -> Dict[str, Any]:
        """Return it as the API's GreengrassConfiguration.

        OutputFolder and AgentComponent are ours; the former replaces S3OutputLocation.
        """
        return {
            **target.to_api(),
            "ComponentName": self.name,
            "ComponentVersion": self.version,
            "ComponentDescription": self.description,
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(self.tags.items())],
            "OutputFolder": str(out),
            "AgentComponent": self.agent,
        }


def run(jobs: Jobs, job: Job, package: Package, component: Component, target: Target) -> Job:
    """Do the job in one step, so that its folder is there whole or not at all."""
    job = jobs.advance(job, "RUNNING")
    workplace = staging(job)
    try:
        _check_free(job.out)
        workplace.mkdir(parents=True)
        write(workplace, package, component, target)
        workplace.rename(job.out)
    except EdgeAgentError as error:
        return jobs.advance(job, "FAILED", str(error))
    except OSError as error:
        return jobs.advance(job, "FAILED", f"{job.out} can't be written: {error.strerror}.")
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return jobs.advance(job, "SUCCEEDED")


def _check_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InvalidConfiguration(f"{out} exists already; choose another --out or remove it.")


def write(folder: Path, package: Package, component: Component, target: Target) -> None:
    """Fill `folder`. Raises InvalidPackage, InvalidConfiguration, OSError."""
    name, version = component.name, component.version
    recipe = model_component(
        name, version, component.description, target.architecture, component.agent
    )
    recipes, artifacts = folder / "recipes", folder / "artifacts" / name / version
    recipes.mkdir()
    artifacts.mkdir(parents=True)
    (recipes / f"{name}-{version}.json").write_bytes(recipe.to_json())
    (folder / "recipe.yaml").write_bytes(recipe.to_yaml())
    archive.write(artifacts / ARTIFACT, package)
