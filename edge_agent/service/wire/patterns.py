"""The patterns of service models, which are Java's, for Python's `re`."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache
from itertools import groupby

_PARTS = re.compile(r"\\p\{(?P<category>\w+)\}|\\.|.", re.DOTALL)
_NO_LINE_END = "[^\\n\\r\\u0085\\u2028\\u2029]"  # what Java's dot matches


@lru_cache(maxsize=None)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern that matches with `fullmatch` what the service model's takes as a whole.

    As in Java, its classes such as that of spaces are ASCII's, and a dot matches no end of a line.
    """
    return re.compile(_translated(pattern), re.ASCII)


def _translated(pattern: str) -> str:
    found, in_class = [], False
    for part in _PARTS.finditer(pattern):
        text = part.group()
        if part["category"]:
            characters = _characters(part["category"])
            text = characters if in_class else f"[{characters}]"
        elif text == "." and not in_class:
            text = _NO_LINE_END
        elif text in ("[", "]"):
            in_class = text == "["
        found.append(text)
    return "".join(found)


@lru_cache(maxsize=None)
def _characters(category: str) -> str:
    """Return what a Unicode category such as L has, as it stands between brackets."""
    codes = (
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)).startswith(category)
    )
    runs = (list(run) for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]))
    return "".join(f"\\U{run[0][1]:08x}-\\U{run[-1][1]:08x}" for run in runs)
