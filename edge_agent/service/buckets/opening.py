"""Which buckets the settings ask for; children of the service open them as it does."""

from __future__ import annotations

from pathlib import Path

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.settings import BucketSettings

FOLDER = "buckets"  # below the root


def open_buckets(root: Path, settings: BucketSettings) -> Buckets:
    """Return the buckets of a service whose files are below `root`.

    Raises InvalidConfiguration: what is wrong with the settings of an S3 service.
    """
    if settings.endpoint is None:
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return FolderBuckets(folder, settings.accounts)
    from edge_agent.service.buckets.s3 import S3Buckets

    return S3Buckets(settings)
