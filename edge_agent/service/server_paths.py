"""Sentences for callers of the API, who must not see where files lie on the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping

MOST_CHARACTERS = 2000  # of a status message, which the API limits to 2048
FOLDERS = re.compile(r"(?:unix://|(?<![\w./]))/(?:[^\s/'\",;:()]+/)*(?=[^\s/])")


def without_paths(sentence: str, folders: Mapping[Path, str]) -> str:
    """Return a sentence that names files without their folders, within the API's limit.

    `folders`: what to call those that it may name, also with spaces in their path; inner ones come
    before outer ones.
    """
    for folder, name in folders.items():
        for known in (folder, folder.resolve()):
            parts = sentence.replace(f"{known}/", "/")
            sentence = name.join(re.split(rf"{re.escape(str(known))}(?![\w-])", parts))
    return FOLDERS.sub("", sentence)[:MOST_CHARACTERS]
