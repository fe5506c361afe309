"""What boto3 raises, as sentences; they hold neither keys nor tokens."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator

from edge_agent.errors import InvalidRequest

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
# class of botocore.exceptions → sentence
FAULTS = {
    "NoCredentialsError": NO_CREDENTIALS,
    "PartialCredentialsError": NO_CREDENTIALS,
    "NoRegionError": "There is no AWS region: name it with --region, or set AWS_DEFAULT_REGION.",
    "ProfileNotFound": "{error}. Name another with --profile.",
    "InvalidRegionError": "{error}. Mend --region.",
    "ParamValidationError": "AWS wouldn't take the request. {error}.",
    "CredentialRetrievalError": "The AWS credentials can't be got; sign in again, then retry.",
    "UnauthorizedSSOTokenError": "The AWS sign-in has expired; sign in again, then retry.",
    "SSOTokenLoadError": "The AWS sign-in can't be read; sign in again, then retry.",
    "TokenRetrievalError": "The AWS sign-in has expired; sign in again, then retry.",
}
UNREACHABLE = "{place} can't be asked: {error}. Check the network and --region."


@contextmanager
def sentences(place: str) -> Iterator[None]:
    """Turn what boto3 raises into InvalidRequest; `place` is what is asked, such as s3://bucket."""
    try:
        from botocore import exceptions
    except ImportError:
        raise InvalidRequest(
            "Publishing and deploying need boto3: pip install 'edge-agent[publish]'."
        ) from None
    try:
        yield
    except exceptions.ClientError as error:
        answer: Dict[str, Any] = error.response
        raise InvalidRequest(refusal(place, error.operation_name, answer)) from None
    except exceptions.BotoCoreError as error:
        sentence = FAULTS.get(type(error).__name__, UNREACHABLE)
        raise InvalidRequest(sentence.format(place=place, error=str(error).rstrip("."))) from None


def refusal(place: str, operation: str, answer: Dict[str, Any]) -> str:
    """Say what `place` answered to `operation`; `answer` is boto3's parsed response."""
    error = answer.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    if code in BAD_CREDENTIALS:
        return f"AWS doesn't take these credentials ({code}); renew them, or name others."
    if code in DENIED:
        permission = PERMISSIONS.get(operation, f"greengrass:{operation}")
        return f"{place} doesn't let these credentials in; they need {permission}. AWS: {message}"
    if code in THROTTLED:
        return f"{place} gets more calls than it takes ({code}); wait a minute, then run it again."
    if code == "NoSuchBucket" or (operation, code) == ("HeadBucket", "404"):
        return f"There is no {place}; create the bucket, or mend its name."
    if code in ELSEWHERE:
        return f"{place} lies in another region; name it with --region, or choose another bucket."
    fields = "".join(f" {field['name']}: {field['message']}." for field in answer.get("fields", ()))
    return f"{place} refused {operation} ({code}): {message}{fields}"
