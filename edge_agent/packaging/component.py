"""Writes a component folder, and runs the packaging job that does so.

recipes/NAME-VERSION.json          for local deployments and publishing
recipe.yaml                        the same, to read
artifacts/NAME/VERSION/model.zip   model package and registration program
tags.json                          the component's tags, if any, for publishing
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from edge_agent.errors import EdgeAgentError
from edge_agent.packaging import archive, signing
from edge_agent.packaging.aws.folder import TAGS_FILE
from edge_agent.packaging.component_spec import Component
from edge_agent.packaging.draft import PackageDraft
from edge_agent.packaging.graph.findings import GraphFinding
from edge_agent.packaging.jobs import Job, JobRequest, Jobs, staging
from edge_agent.packaging.options import check_free
from edge_agent.packaging.preparation import OnFinding, Preparation
from edge_agent.packaging.recipe import ARTIFACT, model_component
from edge_agent.packaging.target import Target
from edge_agent.runtime.packages.signature import Identity


@dataclass(frozen=True)
class Order:
    """All that a job has to do. upload: where else the component goes, s3://BUCKET/PREFIX."""

    draft: PackageDraft
    component: Component
    target: Target
    preparation: Preparation
    out: Path
    signing_key: Optional[Path] = None
    upload: str = ""

    def to_request(self) -> JobRequest:
        """Return what the job's record stores; of the key no more than that there is one."""
        ours = {"Signed": True} if self.signing_key else {}
        return JobRequest(
            project=self.draft.manifest.name,
            model_version=self.draft.manifest.version,
            configuration={
                **self.component.to_api(self.target, self.out, self.upload),
                **self.preparation.to_api(),
                **ours,
            },
            digest=self.draft.digest,
        )


def run(jobs: Jobs, job: Job, order: Order, report: OnFinding) -> Job:
    """Do the job in one step, so that its folder is there whole or not at all.

    What the checks find goes to `report`; warnings are stored in the job's message as well.
    """
    job = jobs.advance(job, "RUNNING")
    workplace = staging(job)
    warnings: List[str] = []

    def on_finding(finding: GraphFinding) -> None:
        report(finding)
        if finding.severity == "warning":
            warnings.append(finding.text)

    try:
        check_free(job.out)
        workplace.mkdir(parents=True)
        write(workplace, order, on_finding)
        _deliver(workplace, job.out, order.upload)
    except EdgeAgentError as error:
        return jobs.advance(job, "FAILED", str(error))
    except OSError as error:
        return jobs.advance(job, "FAILED", f"{job.out} can't be written: {error.strerror}.")
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return jobs.advance(job, "SUCCEEDED", " ".join(warnings))


def _deliver(made: Path, out: Path, place: str) -> None:
    if not place:
        made.rename(out)
        return
    from edge_agent.packaging.aws.upload import upload

    upload(made, place)


def write(folder: Path, order: Order, report: OnFinding) -> None:
    """Fill `folder`. Raises InvalidPackage, InvalidConfiguration, OSError."""
    component = order.component
    name, version = component.name, component.version
    recipe = model_component(
        name, version, component.description, order.target.architecture, component.agent
    )
    draft = order.preparation.apply(order.draft, order.target, report)
    artifacts = recipe.begin(folder)
    if component.tags:
        (folder / TAGS_FILE).write_text(json.dumps(component.tags, sort_keys=True) + "\n")
    key = order.signing_key
    signer = signing.Signer(key, Identity(name, version)) if key else None
    archive.write(artifacts / ARTIFACT, draft, signer)
