"""Projects with 10,000 models and 100,000 entries of a dataset, and the time of their pages."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Dict, List, NamedTuple
from urllib.parse import quote

from sqlalchemy import insert

from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import DATASETS, ENTRIES, MODELS, PROJECTS
from edge_agent.service.root import ServiceRoot
from scripts.service_bench.calls import Caller

ACCOUNT = "123456789012"
PROJECT = "many"
MANY_MODELS, MANY_ENTRIES = 10_000, 100_000
ENDS = 10  # pages at either end whose median counts


class PageTimes(NamedTuple):
    """Milliseconds a page."""

    first_ms: float
    last_ms: float
    pages: int


def fill(root: Path) -> None:
    """Write the project into the records of a service that doesn't run."""
    with closing(ServiceRoot(root)) as folder, closing(folder.records()) as records:
        _insert(records)


def _insert(records: Records) -> None:
    with records.write() as transaction:
        run = transaction.connection.execute
        project = {"account": ACCOUNT, "name": PROJECT, "arn": "arn:many", "created": 1.0}
        number: int = run(insert(PROJECTS).values(project).returning(PROJECTS.c.id)).scalar_one()
        run(insert(MODELS), [_model(number, version + 1) for version in range(MANY_MODELS)])
        values = {"project_id": number, "type": "train", "created": 1.0, "updated": 1.0}
        dataset = insert(DATASETS).values({**values, "status": "CREATE_COMPLETE"})
        dataset_id: int = run(dataset.returning(DATASETS.c.id)).scalar_one()
        run(insert(ENTRIES), [_entry(dataset_id, entry) for entry in range(MANY_ENTRIES)])


def _model(project: int, version: int) -> Dict[str, object]:
    return {
        "project_id": project,
        "version": version,
        "arn": f"arn:aws:lookoutvision:us-east-1:{ACCOUNT}:model/{PROJECT}/{version}",
        "created": 1.0,
        "status": "TRAINED",
        "message": "Training completed successfully.",
        "output_bucket": "plant",
        "performance": {"F1Score": 0.9, "Recall": 0.9, "Precision": 0.9},
    }


def _entry(dataset: int, number: int) -> Dict[str, object]:
    label = "anomaly" if number % 3 == 0 else "normal"
    source = f"s3://plant/images/{number:06}.jpg"
    line = {
        "source-ref": source,
        "anomaly-label": 1 if label == "anomaly" else 0,
        "anomaly-label-metadata": {
            "confidence": 1,
            "job-name": "labeling-job/auto-label",
            "class-name": label,
            "human-annotated": "yes",
            "creation-date": "2022-08-22T20:49:51.426",
            "type": "groundtruth/image-classification",
        },
    }
    values = {"dataset_id": dataset, "source_ref": source, "line": json.dumps(line)}
    return {**values, "label": label, "created": 1.0}


def page_times(caller: Caller, path: str) -> PageTimes:
    """Read a whole list, 100 a page, and time the pages at both ends."""
    took: List[float] = []
    token, separator = "", "&" if "?" in path else "?"
    while True:
        began = time.perf_counter()
        answer = caller.call("GET", path + token)
        took.append(time.perf_counter() - began)
        if "NextToken" not in answer:
            break
        token = f"{separator}nextToken={quote(answer['NextToken'], safe='')}"
    return PageTimes(median(took[:ENDS]) * 1e3, median(took[-ENDS:]) * 1e3, len(took))
