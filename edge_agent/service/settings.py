"""The service's settings, from `--config FILE` (JSON), command line and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict

Count = Annotated[int, Field(ge=0)]


class QuotaSettings(Strict):
    """What an account may have; the original's defaults."""

    projects: Count = 100
    models: Count = 100  # of a project
    hosted_models: Count = 5
    inference_units: Count = 5  # of all hosted models together
    trainings: Count = 2  # at a time
    packaging_jobs: Count = 2  # at a time
    calls_per_s: Annotated[float, Field(gt=0)] = 50.0  # of one operation
    burst: Annotated[int, Field(ge=1)] = 100


class BucketSettings(Strict):
    """Where buckets are. `accounts`: who may use a bucket; one that isn't named is open to all."""

    endpoint: Optional[str] = None  # URL of an S3 service; None: folders below ROOT/buckets
    region: str = "us-east-1"
    access_key: str = ""
    secret_key_file: Optional[Path] = None
    accounts: Dict[str, Tuple[str, ...]] = Field(default_factory=dict)


class ServiceSettings(Strict):
    """All settings of `edge-agent service serve`."""

    listen: str = "127.0.0.1:8600"
    tls_certificate: Optional[Path] = None
    tls_key: Optional[Path] = None
    unsigned: bool = False  # whether calls without a signature are taken, on loopback only
    unsigned_account: str = "000000000000"
    children: Annotated[int, Field(ge=1)] = 1  # processes that train, import or package at a time
    runtime_settings: Optional[Path] = None  # a settings file of the runtimes that host models
    quotas: QuotaSettings = QuotaSettings()
    buckets: BucketSettings = BucketSettings()
