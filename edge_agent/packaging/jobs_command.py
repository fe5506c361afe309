"""`edge-agent jobs`: list and describe packaging jobs, with the packaging API's names."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import List

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.jobs import PAGE, Job, Jobs
from edge_agent.packaging.json_document import Document
from edge_agent.sources import with_home

FOLDER = "~/.local/share/edge-agent/jobs"


def add_folder_argument(parser: argparse.ArgumentParser) -> None:
    """Define where the jobs are."""
    parser.add_argument(
        "--jobs-folder", type=_folder, default=FOLDER, metavar="FOLDER",
        help=f"records of jobs (default: {FOLDER})",
    )  # fmt: skip


def _folder(text: str) -> Path:
    return Path(with_home(text, "--jobs-folder"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `jobs`."""
    parser.add_argument("action", choices=["list", "describe"])
    parser.add_argument("job", nargs="?", default="", help="its name; not for list")
    parser.add_argument(
        "--max-results", type=int, default=PAGE, metavar="N", help=f"of list, 1 to {PAGE}"
    )
    parser.add_argument(
        "--next-token", metavar="TOKEN", help="of list: where the page before ended"
    )
    parser.add_argument("--json", action="store_true", help="as the packaging API answers")
    add_folder_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show a page of jobs or one job."""
    jobs = Jobs(arguments.jobs_folder)
    if arguments.action == "describe":
        if not arguments.job:
            raise InvalidConfiguration("Name the job to describe: edge-agent jobs describe NAME")
        job = jobs.find(arguments.job)
        _show(arguments, {"ModelPackagingDescription": _description(job)}, _facts(job))
        return 0
    if arguments.job:
        raise InvalidConfiguration(
            f"list takes no name; one job alone: edge-agent jobs describe {arguments.job}"
        )
    page, token = jobs.page(arguments.max_results, arguments.next_token)
    answer: Document = {"ModelPackagingJobs": [_metadata(job) for job in page]}
    if token:
        answer["NextToken"] = token
    _show(arguments, answer, _table(page))
    if token and not arguments.json:
        Console(soft_wrap=True).print(f"More with --next-token {token}")
    return 0


def _show(arguments: argparse.Namespace, answer: Document, table: Table) -> None:
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    else:
        Console().print(table)


def _table(jobs: List[Job]) -> Table:
    table = Table(
        Column("job", overflow="fold"),
        Column("model", overflow="fold"),
        Column("component", overflow="fold"),
        Column("status", no_wrap=True),
        Column("created (UTC)", no_wrap=True),
        padding=(0, 0),  # so that a name of ours fits into 80 columns
    )
    for job in jobs:
        configuration = job.request.configuration
        table.add_row(
            job.name,
            escape(f"{job.request.project} {job.request.model_version}"),
            f"{configuration['ComponentName']} {configuration['ComponentVersion']}",
            job.status,
            f"{datetime.fromtimestamp(job.created, timezone.utc):%Y-%m-%d %H:%M}",
        )
    return table


def _facts(job: Job) -> Table:
    table = Table(show_header=False)
    for key, value in {**_metadata(job), **job.request.configuration}.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(key, escape(text))
    return table


def _metadata(job: Job) -> Document:
    return {
        "JobName": job.name,
        "ProjectName": job.request.project,
        "ModelVersion": job.request.model_version,
        "Status": job.status,
        "StatusMessage": job.message,
        "CreationTimestamp": _time(job.created),
        "LastUpdatedTimestamp": _time(job.updated),
    }


def _description(job: Job) -> Document:
    configuration = job.request.configuration
    description: Document = {
        **_metadata(job),
        "ModelPackagingConfiguration": {"Greengrass": configuration},
    }
    if job.status == "SUCCEEDED":
        output = {key: configuration[key] for key in ("ComponentName", "ComponentVersion")}
        description["ModelPackagingOutputDetails"] = {"Greengrass": output}
    return description


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
