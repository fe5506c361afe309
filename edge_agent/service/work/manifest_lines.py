"""Lines of a manifest → entries of a dataset, or a sentence that names the lines that are wrong.

What label a line gives is for `class_names` to say.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional

from pydantic import TypeAdapter, ValidationError

from edge_agent.errors import InvalidRequest
from edge_agent.evaluation.label_manifest import BYTE_ORDER_MARK
from edge_agent.evaluation.label_words import METADATA
from edge_agent.fields import parse_json
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.records.dataset_entries import DatasetEntry
from edge_agent.service.work.class_names import label_in

IMAGE = "source-ref"
MOST_CHARACTERS = 8192  # of a line, by the service model
MOST_BYTES = 4 * MOST_CHARACTERS
TOO_LONG = f"it has more than {MOST_CHARACTERS} characters"
MOST_FAULTS = 5  # that are named

_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)


class ManifestLines:
    """Reads the lines of one manifest, whose images are all in one bucket."""

    def __init__(self, added: float, most_lines: int, bucket: Optional[str] = None) -> None:
        """Begin. `added`: seconds since 1970; `bucket`: of the images, None: of the first line."""
        self._added, self._most_lines, self._bucket = added, most_lines, bucket
        self._faults: List[str] = []
        self._folders: List[int] = []  # numbers of their lines

    @property
    def left_out(self) -> str:
        """Say which lines gave no entry and were no fault; "" for none. Begins with a blank."""
        if not self._folders:
            return ""
        lines = "1 line was" if len(self._folders) == 1 else f"{len(self._folders)} lines were"
        return f" {lines} left out, from line {self._folders[0]}: {IMAGE} is a folder."

    def entries(self, raw_lines: Iterable[bytes]) -> Iterator[DatasetEntry]:
        """Yield the entries of lines; blank ones are left out, and those that name a folder.

        Raises InvalidRequest, after some of the entries, when lines are wrong, there are too many,
        or none gives an entry.
        """
        is_empty = True
        for number, raw in enumerate(raw_lines, start=1):
            if number > self._most_lines:
                self._faults.append(f"There are more than {self._most_lines} lines.")
                break
            if number == 1 and raw.startswith(BYTE_ORDER_MARK):
                raw = raw[len(BYTE_ORDER_MARK) :]
            if not raw.strip():
                continue
            entry = self._entry(number, raw)
            if entry is not None and not self._faults:
                is_empty = False
                yield entry
            if len(self._faults) == MOST_FAULTS:
                break
        if self._faults:
            raise InvalidRequest(f"{' '.join(self._faults)} Correct the lines, then try again.")
        if is_empty:
            raise InvalidRequest(
                f"There is no line with an image. Write a JSON object with {IMAGE} per image."
            )

    def _entry(self, number: int, raw: bytes) -> Optional[DatasetEntry]:
        try:
            return self._checked(number, raw)
        except (InvalidRequest, ValidationFailed) as error:
            self._faults.append(f"Line {number}: {str(error).rstrip('.')}.")
            return None

    def _checked(self, number: int, raw: bytes) -> Optional[DatasetEntry]:
        """Return the entry, None for a folder; S3's tools make an object for one, without content.

        Raises InvalidRequest or ValidationFailed: what is wrong with the line.
        """
        text = _text(raw)
        try:
            line = parse_json(text)
        except ValueError as error:
            raise InvalidRequest(f"it isn't JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(line, dict) or not isinstance(line.get(IMAGE), str):
            raise InvalidRequest(f"it must be a JSON object whose {IMAGE} is s3://BUCKET/KEY")
        is_folder = line[IMAGE].endswith("/")
        name = S3Name.of_uri(line[IMAGE].rstrip("/"))
        if is_folder:
            self._folders.append(number)
            return None
        self._bucket = self._bucket or name.bucket
        if name.bucket != self._bucket:
            raise InvalidRequest(
                f"its image is in the bucket {name.bucket}, others are in {self._bucket}; "
                "the images of a dataset must be in one bucket"
            )
        label = label_in(line) or None
        return DatasetEntry(line[IMAGE], text, label, _creation(line, self._added))


def _text(raw: bytes) -> str:
    """Return the text of a line, without blanks around it. Raises InvalidRequest."""
    if len(raw) > MOST_BYTES:
        raise InvalidRequest(TOO_LONG)
    try:
        text = raw.decode().strip(" \t\r\n")
    except UnicodeDecodeError:
        raise InvalidRequest("it isn't UTF-8") from None
    if len(text) > MOST_CHARACTERS:
        raise InvalidRequest(TOO_LONG)
    return text


def _creation(line: Mapping[str, Any], added: float) -> float:
    """Return the first creation-date of the line's metadata that is a date; else `added`."""
    groups: List[Dict[str, Any]] = [
        group for key, group in line.items() if key.endswith(METADATA) and isinstance(group, dict)
    ]
    for text in (group.get("creation-date") for group in groups):
        try:
            time = _TIME.validate_python(text if isinstance(text, str) else None)
        except ValidationError:
            continue
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    return added
