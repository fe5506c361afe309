"""What label a line of a dataset has for the service: `normal` or `anomaly` in class-name, exactly.

As in the original: every other class-name leaves the image unlabelled, and the value beside it
means nothing. More words are understood where `edge-agent` reads manifests of others.
"""

from __future__ import annotations

from typing import Any, Mapping

from edge_agent.evaluation.label_words import ANOMALY, METADATA, NORMAL, OF_THE_SERVICE, label_of

SERVICE_METADATA = OF_THE_SERVICE + METADATA


def label_in(line: Mapping[str, Any]) -> str:
    """Return normal, anomaly or "": the service's own attribute decides; without it, any other."""
    own = line.get(SERVICE_METADATA)
    groups = {SERVICE_METADATA: own} if isinstance(own, dict) else line
    known = {
        key: group
        for key, group in groups.items()
        if key.endswith(METADATA)
        and isinstance(group, dict)
        and group.get("class-name") in (NORMAL, ANOMALY)
    }
    return label_of(known).name
