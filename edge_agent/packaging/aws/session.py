"""The clients of AWS: every call bounded in time and tries, every error a sentence.

The sentences hold neither keys nor tokens.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
)

from rich.console import Console

from edge_agent.errors import InvalidRequest

if TYPE_CHECKING:
    import boto3
    from typing_extensions import Protocol

    Answer = Mapping[str, Any]  # as boto3 parses it; what is in it, the service's model says

    class _Paginator(Protocol):
        """A list that the service gives in pages."""

        def paginate(self, **request: object) -> Iterable[Answer]: ...

    class _Client(Protocol):
        """What all services have."""

        def get_paginator(self, operation: str, /) -> _Paginator: ...

    class _S3(_Client, Protocol):
        """Amazon S3."""

        def head_bucket(self, **request: object) -> Answer: ...
        def head_object(self, **request: object) -> Answer: ...
        def put_object(self, **request: object) -> Answer: ...
        def upload_fileobj(
            self, file: BinaryIO, bucket: str, key: str, /, **options: object
        ) -> None: ...

    class _ClientMeta(Protocol):
        """What a client was made for."""

        region_name: str

    class _GreengrassErrors(Protocol):
        """Classes of exceptions, made from the service's model."""

        ConflictException: Type[Exception]
        ResourceNotFoundException: Type[Exception]

    class _Greengrass(_Client, Protocol):
        """AWS IoT Greengrass V2."""

        meta: _ClientMeta
        exceptions: _GreengrassErrors

        def create_component_version(self, **request: object) -> Answer: ...
        def describe_component(self, **request: object) -> Answer: ...
        def create_deployment(self, **request: object) -> Answer: ...
        def get_deployment(self, **request: object) -> Answer: ...


GREENGRASS = "AWS IoT Greengrass"
TRIES = 5
CONNECT_WITHIN_S, ANSWER_WITHIN_S = 10, 60
POLL_EVERY_S = 5.0

DENIED = ("AccessDenied", "AccessDeniedException", "403")
THROTTLED = (
    "Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded",
    "SlowDown", "429",
)  # fmt: skip
# AWS quotes the signed request in the messages of some of these, so they aren't passed on.
BAD_CREDENTIALS = (
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "InvalidToken", "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
)  # fmt: skip
ELSEWHERE = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed")

# operation → permission, where the two have different names
PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListThingsInThingGroup": "iot:ListThingsInThingGroup",
    "ListJobExecutionsForJob": "iot:ListJobExecutionsForJob",
}

NO_CREDENTIALS = (
    "There are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a "
    "profile with --profile."
)
SIGN_IN_EXPIRED = "The AWS sign-in has expired; sign in again, then retry."
# class of botocore.exceptions → sentence
FAULTS = {
    "NoCredentialsError": NO_CREDENTIALS,
    "PartialCredentialsError": NO_CREDENTIALS,
    "NoRegionError": "There is no AWS region: name it with --region, or set AWS_DEFAULT_REGION.",
    "ProfileNotFound": "{error}. Name another with --profile.",
    "InvalidRegionError": "{error}. Correct --region.",
    "ParamValidationError": "The request isn't valid for AWS. {error}.",
    "CredentialRetrievalError": "The AWS credentials can't be read; sign in again, then retry.",
    "UnauthorizedSSOTokenError": SIGN_IN_EXPIRED,
    "SSOTokenLoadError": "The AWS sign-in can't be read; sign in again, then retry.",
    "TokenRetrievalError": SIGN_IN_EXPIRED,
}
UNREACHABLE = "{place} can't be reached: {error}. Check the network and --region."


class AwsOutcome(NamedTuple):
    """How publishing or a deployment ended: whether well, and in a sentence."""

    good: bool
    sentence: str

    def show(self) -> int:
        """Print the sentence, as an error unless it ended well; return the exit status."""
        if self.good:
            Console(soft_wrap=True, markup=False, highlight=False).print(self.sentence)
            return 0
        sys.stderr.write(f"edge-agent: {self.sentence}\n")
        return 1


class Aws:
    """One account in one region; credentials come from the environment or a profile.

    Clients are made when first used, and try each call at most `tries` times.
    """

    def __init__(
        self, region: Optional[str] = None, profile: Optional[str] = None, tries: int = 0
    ) -> None:
        self._tries = tries or TRIES
        with aws_errors("AWS"):
            import boto3
            from boto3.compat import filter_python_deprecation_warnings

            filter_python_deprecation_warnings()
            self._session: boto3.session.Session = boto3.session.Session(
                region_name=region, profile_name=profile
            )

    @property
    def region(self) -> str:
        """The region that is used, such as eu-central-1."""
        return self.greengrass.meta.region_name

    @cached_property
    def s3(self) -> _S3:
        """Amazon S3."""
        client: _S3 = self._client("s3")
        return client

    @cached_property
    def greengrass(self) -> _Greengrass:
        """AWS IoT Greengrass V2."""
        client: _Greengrass = self._client("greengrassv2")
        return client

    @cached_property
    def iot(self) -> _Client:
        """AWS IoT Core."""
        client: _Client = self._client("iot")
        return client

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of a resource of this account and region."""
        partition, account = self._identity
        return f"arn:{partition}:{service}:{self.region}:{account}:{resource}"

    @cached_property
    def _identity(self) -> Tuple[str, str]:
        """The partition (aws, aws-cn …) and account; every caller may ask for its own."""
        with aws_errors("AWS STS"):
            caller = self._client("sts").get_caller_identity()
        return caller["Arn"].split(":")[1], caller["Account"]

    def _client(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_WITHIN_S,
            read_timeout=ANSWER_WITHIN_S,
            retries={"total_max_attempts": self._tries, "mode": "standard"},
        )
        with aws_errors("AWS"):
            return self._session.client(service, config=config)


def polls(wait_s: float) -> Iterator[None]:
    """Yield at once, then every few seconds, for the last time when `wait_s` are over."""
    end = time.monotonic() + wait_s
    yield
    while time.monotonic() < end:
        time.sleep(max(0.0, min(POLL_EVERY_S, end - time.monotonic())))
        yield


@contextmanager
def aws_errors(place: str) -> Iterator[None]:
    """Turn what boto3 raises into InvalidRequest; `place` is what is called, such as s3://bucket."""
    try:
        from botocore import exceptions
    except ImportError:
        raise InvalidRequest(
            "Publishing and deploying need boto3: pip install 'edge-agent[publish]'."
        ) from None
    try:
        yield
    except exceptions.ClientError as error:
        raise InvalidRequest(refusal(place, error.operation_name, error.response)) from None
    except exceptions.BotoCoreError as error:
        sentence = FAULTS.get(type(error).__name__, UNREACHABLE)
        raise InvalidRequest(sentence.format(place=place, error=str(error).rstrip("."))) from None


def refusal(place: str, operation: str, answer: Answer) -> str:
    """Return the sentence for an error that `place` answered to `operation`."""
    error = answer.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    if code in BAD_CREDENTIALS:
        return f"AWS rejects these credentials ({code}); renew them, or use others."
    if code in DENIED:
        permission = PERMISSIONS.get(operation, f"greengrass:{operation}")
        return f"{place} denies access: these credentials need {permission}. AWS: {message}"
    if code in THROTTLED:
        return f"{place} gets too many calls ({code}); wait a minute, then run it again."
    if code == "NoSuchBucket" or (operation, code) == ("HeadBucket", "404"):
        return f"There is no {place}; create the bucket, or correct its name."
    if code in ELSEWHERE:
        return f"{place} is in another region; name it with --region, or choose another bucket."
    fields = "".join(f" {field['name']}: {field['message']}." for field in answer.get("fields", ()))
    return f"{place} refused {operation} ({code}): {message}{fields}"
