"""What must be recorded at last, and couldn't be at once: the disk was full, the file locked."""

from __future__ import annotations

import logging
import threading
from typing import Callable, Optional, TypeVar

from edge_agent.service.faults import RecordsFailed

AGAIN_S = 2.0  # after records that couldn't be written

T = TypeVar("T")

log = logging.getLogger(__name__)


def until_recorded(record: Callable[[], T], what: str, closing: threading.Event) -> Optional[T]:
    """Call `record` until the records take it, and return its result.

    Once `closing` is set it isn't called again: None, and what is left is for the next start to
    find. `what`: for the log.
    """
    while True:
        try:
            return record()
        except RecordsFailed as error:
            log.warning("%s isn't recorded yet: %s", what, error)
        if closing.wait(AGAIN_S):
            return None
