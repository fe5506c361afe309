"""`changing.py ROOT OPERATION`: changes the train dataset of the project "parts" once, to its end.

For create: from the manifest "m"; for update: with its content.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.service.dataset_site import manifest, opened


def main(root: Path, operation: str) -> None:
    with opened(root) as site:
        if operation == "create":
            source = manifest("plant", "m")
            site("CreateDataset", DatasetType="train", DatasetSource=source)
            site.wait()
        elif operation == "update":
            changes = (root / "buckets" / "plant" / "m").read_bytes()
            site("UpdateDatasetEntries", DatasetType="train", Changes=changes)
            site.wait()
        else:
            site("DeleteDataset", DatasetType="train")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
