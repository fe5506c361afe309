"""How many files and connections the process may have open (getrlimit(2), RLIMIT_NOFILE).

Every connection takes a descriptor. A part of them is kept for files, so that connections never
stop a camera's new segment or the look at the models' folder.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

FOR_FILES = 256
ENOUGH = 65536  # more than any number of cameras; a table of a million costs memory


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one allows; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def for_connections() -> int:
    """Return how many descriptors connections may take, under the present soft limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = ENOUGH if soft == resource.RLIM_INFINITY else min(soft, ENOUGH)
    return max(limit // 2, limit - FOR_FILES)


def in_use() -> int:
    """Return how many descriptors the process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
