"""Objects by bucket and key, as the API names them."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Optional, Protocol, Sequence

from edge_agent.service.buckets.names import S3Name


class Buckets(Protocol):
    """Where `s3://bucket/key` leads. Keys never lead out of their bucket.

    Every method raises ValidationFailed (of `service.faults`) with a sentence that names bucket and
    key when there is no such bucket or object, or when the account may not use the bucket.
    """

    def check(self, account: str, bucket: str) -> None:
        """Find that the account may use the bucket, and that it is there.

        Asks no other machine: where buckets are on one, a missing one shows when it is used.
        """

    def check_output(self, account: str, folder: S3Name) -> None:
        """Find, as `check` does, that objects may be stored below the key of `folder`."""

    def read(self, account: str, bucket: str, key: str, most_bytes: int) -> bytes:
        """Return an object of at most `most_bytes`."""

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        """Yield the lines of an object of at most `most_bytes`, without holding all of it."""

    def fetch(
        self, account: str, bucket: str, key: str, folder: Path, most_bytes: Optional[int] = None
    ) -> Path:
        """Return a file with the object: the object itself, or a copy made below `folder`.

        `most_bytes`: refuse a larger one; None: a caller knows how large it is.
        """

    def check_writable(self, account: str, bucket: str, key: str) -> None:
        """Find that an object could be stored there now; none is."""

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        """Store the content of `source`, all of it at once, in place of what is there."""

    def write_folder(
        self, account: str, folder: S3Name, source: Path, files: Sequence[str], part: str
    ) -> None:
        """Store files of `source` below the key of `folder`, in this order.

        Where buckets are folders and nothing is there yet, all of them appear at once. part: a
        name of the caller's own for what is hidden until then.
        """

    def remove(self, account: str, bucket: str, key: str) -> None:
        """Remove an object, where there is one."""

    def discard_part(self, account: str, folder: S3Name, part: str) -> None:
        """Remove what is hidden and was left by a `write_folder` that was killed."""
