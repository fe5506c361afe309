"""The `server-timing` trailing metadata of a reply → milliseconds a stage.

Syntax: W3C Server Timing, https://www.w3.org/TR/server-timing/, `compute;dur=5.01, send;dur=0.05`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Dict

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE = r'(?:"(?:[^"\\]|\\.)*"|[^\s,;"]+)'
_METRIC = re.compile(rf"({_TOKEN})((?:\s*;\s*{_TOKEN}\s*=\s*{_VALUE})*)\s*(?:,|$)")
_PARAMETER = re.compile(rf"({_TOKEN})\s*=\s*({_VALUE})")


def parse(header: str) -> Dict[str, float]:
    """Return the metrics that have a duration, in the header's order; others are passed over."""
    stages: Dict[str, float] = {}
    for metric, parameters in _METRIC.findall(header):
        for name, value in _PARAMETER.findall(parameters):
            if name.lower() == "dur":
                with suppress(ValueError):
                    stages[metric] = float(value.strip('"'))
    return stages
