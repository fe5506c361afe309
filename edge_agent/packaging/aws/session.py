"""The clients of AWS: made when first used, every call bounded in time and tries."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Optional, Tuple

from edge_agent.packaging.aws.refusals import sentences

TRIES = 5
CONNECT_WITHIN_S, ANSWER_WITHIN_S = 10, 60


class Aws:
    """One account in one region; credentials come from the environment or a profile."""

    def __init__(self, region: Optional[str] = None, profile: Optional[str] = None) -> None:
        with sentences("AWS"):
            import boto3
            from boto3.compat import filter_python_deprecation_warnings

            filter_python_deprecation_warnings()
            self._session: Any = boto3.session.Session(region_name=region, profile_name=profile)

    @property
    def region(self) -> str:
        """The region that is asked, such as eu-central-1."""
        return str(self.greengrass.meta.region_name)

    @cached_property
    def s3(self) -> Any:
        """Amazon S3."""
        return self._client("s3")

    @cached_property
    def greengrass(self) -> Any:
        """AWS IoT Greengrass V2."""
        return self._client("greengrassv2")

    @cached_property
    def iot(self) -> Any:
        """AWS IoT Core."""
        return self._client("iot")

    def arn(self, service: str, resource: str) -> str:
        """Name a resource of this account and region."""
        partition, account = self._identity
        return f"arn:{partition}:{service}:{self.region}:{account}:{resource}"

    @cached_property
    def _identity(self) -> Tuple[str, str]:
        """The partition (aws, aws-cn …) and account; every caller may ask for its own."""
        with sentences("AWS STS"):
            caller = self._client("sts").get_caller_identity()
        return caller["Arn"].split(":")[1], caller["Account"]

    def _client(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_WITHIN_S,
            read_timeout=ANSWER_WITHIN_S,
            retries={"total_max_attempts": TRIES, "mode": "standard"},
        )
        with sentences("AWS"):
            return self._session.client(service, config=config)
