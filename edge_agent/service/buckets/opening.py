"""Which buckets the settings ask for; children of the service open them as it does."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Optional

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.buckets.only_account import OnlyAccount
from edge_agent.service.records.database import Records
from edge_agent.service.root import RECORDS
from edge_agent.service.settings import BucketSettings

FOLDER = "buckets"  # below the root


def open_buckets(
    root: Path, settings: BucketSettings, records: Optional[Records] = None
) -> Buckets:
    """Return the buckets of a service whose files are below `root`.

    `records`: the service's; None: a child's, which opens them to see which accounts there are.
    Raises InvalidConfiguration: what is wrong with the settings of an S3 service.
    """
    is_alone = OnlyAccount(lru_cache(lambda: records or Records(root / RECORDS)))
    if records is not None and not settings.accounts:
        is_alone.accounts()  # so that the log says at the start when they are several
    if settings.endpoint is None:
        folder = root / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return FolderBuckets(folder, settings.accounts, is_alone)
    from edge_agent.service.buckets.s3 import S3Buckets

    return S3Buckets(settings, is_alone)
