"""`python -m tests.service.buckets.killed_writer BUCKETS SOURCE`: stores objects until killed."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_agent.service.buckets.folders import FolderBuckets


def main() -> None:
    buckets, source = FolderBuckets(Path(sys.argv[1]), {}), Path(sys.argv[2])
    while True:
        buckets.write("123456789012", "plant", "a.json", source)
        sys.stdout.write("stored\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
