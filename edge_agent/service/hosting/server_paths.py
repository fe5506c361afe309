"""Sentences of a runtime for callers of the API, who must not see where files lie on the server."""

from __future__ import annotations

import re
from pathlib import Path

MOST_CHARACTERS = 2000  # of a status message, which the API limits to 2048
FOLDERS = re.compile(r"(?:unix://|(?<![\w./]))/(?:[^\s/'\",;:()]+/)*(?=[^\s/])")


def without_paths(sentence: str, package: Path) -> str:
    """Return a sentence that names files without their folders, within the API's limit.

    `package`: a folder that it may name, also with spaces in its path.
    """
    for known in (package, package.resolve()):
        sentence = sentence.replace(f"{known}/", "").replace(str(known), "the model's package")
    return FOLDERS.sub("", sentence)[:MOST_CHARACTERS]
