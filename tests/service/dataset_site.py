"""The operations of datasets as the service runs them: records, folders as buckets, imports."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Type

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.call import Answer, Call
from edge_agent.service.operations.datasets import Datasets
from edge_agent.service.operations.projects import Projects
from edge_agent.service.records.client_tokens import once
from edge_agent.service.records.database import Records
from edge_agent.service.settings import QuotaSettings, ServiceSettings
from edge_agent.service.work.dataset_imports import DatasetImports

ACCOUNT, OTHER = "123456789012", "210987654321"
READING = ("DescribeDataset", "ListDatasetEntries", "DescribeProject")
ENDS_WITHIN_S = 120.0


class DatasetSite:
    """Use it while `started`."""

    def __init__(
        self, root: Path, buckets: Buckets, quotas: Optional[QuotaSettings] = None
    ) -> None:
        self.root = root
        self.buckets: Any = buckets
        self.records = Records(root / "records.db")
        self.imports = DatasetImports(
            records=self.records, buckets=buckets, quotas=quotas or QuotaSettings()
        )
        datasets = Datasets(buckets=buckets, imports=self.imports)
        projects = Projects(ServiceSettings())
        self._operations = {
            "CreateProject": projects.create_project,
            "DescribeProject": projects.describe_project,
            "DeleteProject": projects.delete_project,
            "CreateDataset": datasets.create_dataset,
            "DescribeDataset": datasets.describe_dataset,
            "ListDatasetEntries": datasets.list_dataset_entries,
            "UpdateDatasetEntries": datasets.update_dataset_entries,
            "DeleteDataset": datasets.delete_dataset,
        }

    @contextmanager
    def started(self) -> Iterator[DatasetSite]:
        self.imports.start()
        try:
            yield self
        finally:
            self.imports.close()
            self.records.close()

    def __call__(self, operation: str, account: str = ACCOUNT, **parameters: Any) -> Answer:
        """Call an operation of the project "parts"."""
        parameters = {"ProjectName": "parts", **parameters}
        call = Call(
            "lookoutvision", operation, account, "AKID", "eu-west-1", "1", time.time(), parameters
        )
        run = self._operations[operation]
        if operation in READING:
            with self.records.read() as transaction:
                return run(call, transaction)
        with self.records.write() as transaction:
            return once(call, transaction, run)

    def describe(self, dataset_type: str = "train", project: str = "parts") -> Dict[str, Any]:
        asked = {"ProjectName": project, "DatasetType": dataset_type}
        description = self("DescribeDataset", **asked)["DatasetDescription"]
        assert isinstance(description, dict)
        return description

    def wait(self, dataset_type: str = "train", project: str = "parts") -> Dict[str, Any]:
        """Return the description once nothing is under way."""
        end = time.monotonic() + ENDS_WITHIN_S
        while time.monotonic() < end:
            description = self.describe(dataset_type, project)
            if not description["Status"].endswith("IN_PROGRESS"):
                return description
            time.sleep(0.01)
        raise TimeoutError(description["Status"])

    def create(self, key: str, dataset_type: str = "train") -> Dict[str, Any]:
        self("CreateDataset", DatasetType=dataset_type, DatasetSource=manifest("plant", key))
        return self.wait(dataset_type)

    def update(self, *lines: object) -> Dict[str, Any]:
        changes = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        answer = self("UpdateDatasetEntries", DatasetType="train", Changes=changes)
        assert answer == {"Status": "UPDATE_IN_PROGRESS"}
        return self.wait()

    def lines(self, **filters: Any) -> List[str]:
        """Return all lines, of as many pages as there are."""
        found: List[str] = []
        token: Dict[str, Any] = {}
        while True:
            page = self("ListDatasetEntries", **{"DatasetType": "train", **filters, **token})
            entries = page["DatasetEntries"]
            assert isinstance(entries, list)
            found += entries
            if "NextToken" not in page:
                return found
            token = {"NextToken": page["NextToken"]}

    def images(self, **filters: Any) -> List[str]:
        """Return the names of the listed images, without s3://plant/."""
        return [json.loads(line)["source-ref"][11:] for line in self.lines(**filters)]

    def put(self, key: str, lines: Iterable[object]) -> None:
        """Put a manifest into the bucket "plant"."""
        place = self.root / "buckets" / "plant" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("w") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)


@contextmanager
def opened(
    root: Path, *, quotas: Optional[QuotaSettings] = None, kind: Type[FolderBuckets] = FolderBuckets
) -> Iterator[DatasetSite]:
    """Start what works on datasets, as the service does."""
    (root / "buckets" / "plant").mkdir(parents=True, exist_ok=True)
    with DatasetSite(root, kind(root / "buckets", {"others": (OTHER,)}), quotas).started() as site:
        yield site


def manifest(bucket: str, key: str) -> Dict[str, Any]:
    return {"GroundTruthManifest": {"S3Object": {"Bucket": bucket, "Key": key}}}


def line(image: str, label: str = "", date: str = "") -> Dict[str, Any]:
    """Return a line of an image in the bucket "plant"; without label: not labelled."""
    if not label:
        return {"source-ref": f"s3://plant/{image}"}
    metadata = {
        "class-name": label,
        "human-annotated": "yes",
        "type": "groundtruth/image-classification",
        **({"creation-date": date} if date else {}),
    }
    return {
        "source-ref": f"s3://plant/{image}",
        "anomaly-label": int(label == "anomaly"),
        "anomaly-label-metadata": metadata,
    }
