"""What must be recorded at last, and couldn't be at once: the disk was full, the file locked."""

from __future__ import annotations

import logging
import threading
from typing import Callable

from edge_agent.service.faults import RecordsFailed

AGAIN_S = 2.0  # after records that couldn't be written

log = logging.getLogger(__name__)


def until_recorded(record: Callable[[], None], what: str, closing: threading.Event) -> None:
    """Call `record` until the records take it; once `closing` is set, not again.

    `what`: for the log. What is then left is for the next start to find.
    """
    while True:
        try:
            return record()
        except RecordsFailed as error:
            log.warning("%s isn't recorded yet: %s", what, error)
        if closing.wait(AGAIN_S):
            return None
