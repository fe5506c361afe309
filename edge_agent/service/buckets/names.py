"""What holds for every bucket: which names of buckets and keys can be used, and who may use them.

Keys are those of S3 that are also paths of files below one folder, whatever the disk: no part of
one is "." or "..", and the last isn't empty.
"""

from __future__ import annotations

import re
from typing import Callable, Mapping, NamedTuple, Sequence, Tuple

from edge_agent.logs import printable
from edge_agent.service.faults import ValidationFailed

SCHEME = "s3://"
PRIVATE = ".edge-agent-part-"  # begins the names of files that are being written
MOST_KEY_BYTES, MOST_PART_BYTES = 1024, 255
MOST_SHOWN = 300  # characters of a name in a sentence

_BUCKET = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{1,61}[0-9A-Za-z]")

Accounts = Mapping[str, Sequence[str]]  # who may use a bucket, by its name
IsAlone = Callable[[str], bool]  # whether an account is the only one, which may use all others


class S3Name(NamedTuple):
    """The bucket and key of an object."""

    bucket: str
    key: str

    @classmethod
    def of_uri(cls, uri: str) -> S3Name:
        """Read s3://BUCKET/KEY. Raises ValidationFailed: why it names no object."""
        bucket, _, key = uri[len(SCHEME) :].partition("/")
        if not uri.startswith(SCHEME):
            raise ValidationFailed(f"{_shown(uri)} isn't an object in S3. Write s3://BUCKET/KEY.")
        name = cls(bucket, key)
        name.parts()
        return name

    def __str__(self) -> str:
        return _shown(f"{SCHEME}{self.bucket}/{self.key}")

    def parts(self) -> Tuple[str, ...]:
        """Return the names of the folders and the file of the key, without empty ones.

        Raises ValidationFailed for a key that none can have here.
        """
        check_bucket(self.bucket)
        fault = _fault(self.key)
        if fault:
            raise ValidationFailed(f"{self} can't be used: {fault}. Choose another key.")
        return tuple(filter(None, self.key.split("/")))


def check_bucket(bucket: str) -> None:
    """Find that a bucket can have this name. Raises ValidationFailed."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ValidationFailed(
            f"{_shown(bucket)} can't be the name of a bucket. It has 3 to 63 letters, digits, '-', "
            "'_' and '.', begins and ends with a letter or digit, and has no '..'."
        )


def anyone(_account: str) -> bool:
    """Take every account for the only one."""
    return True


def check_account(account: str, bucket: str, accounts: Accounts, is_alone: IsAlone) -> None:
    """Find that the account may use the bucket, in whatever case both are written."""
    allowed = [users for name, users in accounts.items() if name.lower() == bucket.lower()]
    if any(account not in users for users in allowed) or not (allowed or is_alone(account)):
        raise no_bucket(bucket)


def no_bucket(bucket: str) -> ValidationFailed:
    """Return the error for a bucket that isn't there, or that is another account's."""
    return ValidationFailed(
        f"The bucket {_shown(bucket)} was not found, or this account may not use it. "
        "Correct its name, make it, or name its accounts in the service's setting buckets.accounts."
    )


class NoSuchObject(ValidationFailed):
    """The bucket can be used, and has no such object."""

    def __init__(self, name: S3Name) -> None:
        super().__init__(f"{name} was not found. Correct the key, or store the object there.")


def too_large(name: S3Name, size: int, most_bytes: int) -> ValidationFailed:
    """Return the error for an object of `size` bytes where at most `most_bytes` are taken."""
    return ValidationFailed(
        f"{name} is too large: it has {size} bytes, the most that is taken is {most_bytes}."
    )


def _fault(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "its key has characters that are none (lone surrogates)"
    parts = key.split("/")
    if size > MOST_KEY_BYTES:
        return f"its key has {size} bytes, the most is {MOST_KEY_BYTES}"
    if "\0" in key:
        return "its key has a zero character"
    if not parts[-1]:
        return "its key is empty or ends in a slash"
    if any(part in (".", "..") for part in parts):
        return "a part of its key between slashes is '.' or '..'"
    if any(len(part.encode()) > MOST_PART_BYTES for part in parts):
        return f"a part of its key between slashes has more than {MOST_PART_BYTES} bytes"
    if any(part.startswith(PRIVATE) for part in parts):
        return f"names that begin with {PRIVATE} are kept for files that are being written"
    return ""


def _shown(text: str) -> str:
    whole = printable(text)
    return whole if len(whole) <= MOST_SHOWN else f"{whole[:MOST_SHOWN]}..."
