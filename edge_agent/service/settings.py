"""The service's settings, from `--config FILE` (JSON), command line and defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Optional, Tuple

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Annotated

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, parse_json, read_json
from edge_agent.setting_types import LOOPBACK, Port, host_of

DEFAULT_LISTEN = "127.0.0.1:8600"
MOST_BYTES = 2**20  # of a settings file

Account = Annotated[str, Field(pattern="^[0-9]{12}$")]
Count = Annotated[int, Field(ge=0)]
FromHere = Annotated[Path, AfterValidator(Path.absolute)]  # child processes run in another folder


class QuotaSettings(Strict):
    """What an account may have; the original's defaults."""

    projects: Count = 100
    models: Count = 100  # of a project
    train_images: Count = 16_000  # of a training dataset, or of the only one
    test_images: Count = 4_000
    hosted_models: Count = 5
    inference_units: Count = 5  # of each hosted model
    trainings: Count = 2  # at a time
    packaging_jobs: Count = 2  # at a time
    calls_per_s: Annotated[float, Field(gt=0)] = 5.0  # of one operation
    burst: Annotated[int, Field(ge=1)] = 1000  # the original's isn't public


class BucketSettings(Strict):
    """Where buckets are. `accounts`: who may use a bucket; others are of the only account."""

    endpoint: Optional[str] = None  # URL of an S3 service; None: folders below ROOT/buckets
    region: str = "us-east-1"
    access_key: str = ""
    secret_key_file: Optional[FromHere] = None
    accounts: Dict[str, Tuple[str, ...]] = Field(default_factory=dict)


class ServiceSettings(Strict):
    """All settings of `edge-agent service serve`."""

    listen: Port = DEFAULT_LISTEN  # host:port
    tls_certificate: Optional[Path] = None  # PEM chain
    tls_key: Optional[Path] = None  # PEM
    without_tls: bool = False  # beyond this machine: whoever sees the network reads all calls
    unsigned: bool = False  # whether calls without a signature are taken, on loopback only
    unsigned_account: Account = "000000000000"
    children: Annotated[int, Field(ge=1)] = 1  # processes that train at a time, and that package
    runtime_settings: Optional[FromHere] = None  # a settings file of the runtimes that host models
    quotas: QuotaSettings = QuotaSettings()
    buckets: BucketSettings = BucketSettings()

    @model_validator(mode="after")
    def _check_who_can_call(self) -> ServiceSettings:
        host = host_of(self.listen)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key are needed together")
        if host in LOOPBACK:
            return self
        if self.unsigned:
            raise ValueError(
                f"unsigned is for 127.0.0.1, ::1 and localhost only, and listen is on {host}; make "
                "access keys with `edge-agent service keys add`"
            )
        if not (self.tls_certificate or self.without_tls):
            raise ValueError(
                f"listen on {host} needs tls_certificate and tls_key; or set without_tls to true, "
                "where nobody else can see the network"
            )
        return self


def load(file: Optional[Path], listen: Optional[str]) -> ServiceSettings:
    """Read a settings file; `listen` of the command line wins over it.

    Raises InvalidConfiguration with a sentence for each wrong setting.
    """
    name = f"Configuration file {file}" if file else "Configuration"
    try:
        values = parse_json(_content(file)) if file else {}
        if listen and isinstance(values, dict):
            values = {**values, "listen": listen}
        return read_json(ServiceSettings, json.dumps(values).encode())
    except ValueError as error:
        raise InvalidConfiguration(f"{name}: {error}") from None


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidConfiguration(f"Configuration file {file}: {error.strerror}.") from None
    if len(content) > MOST_BYTES:
        raise InvalidConfiguration(f"Configuration file {file} has over {MOST_BYTES} bytes.")
    return content
