"""A verdict → its result event: one JSON object of at most 7,000 bytes.

The format is `docs/result.schema.json`, version 1. 7,000 bytes is what every way out takes:
Greengrass nucleus lite closes the connection of a component that sends packets over 10,000, base64
included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Sequence

from edge_agent.types import BACKGROUND_NAME, Anomaly, Prediction, Region, StageTimes

SCHEMA_VERSION = 1
LIMIT_BYTES = 7000
SEQUENCE_BYTES = 48  # what `numbered` adds at most, with `late`
LATE = b'{"late":true,'


@dataclass(frozen=True)
class Event:
    """An event that has no sequence number yet; `body` is JSON.

    kind: result, summary or alarm; verdict: normal or anomaly. An anomaly is kept longest when the
    outbox is full; summaries and alarms count as such.
    """

    id: str
    model: str
    kind: str
    verdict: str
    body: bytes


def result(facts: Dict[str, Any], prediction: Prediction, times: StageTimes, capture: str) -> Event:
    """Build the event of a judged frame; `facts` as from `common`, and what is known besides."""
    anomalies = [entry for entry in prediction.anomalies if entry.name != BACKGROUND_NAME]

    def body(shares: Sequence[Anomaly], regions: Sequence[Region]) -> Dict[str, Any]:
        return {
            **facts,
            "is_anomalous": prediction.is_anomalous,
            "confidence": round(prediction.confidence, 6),
            "anomaly_score": round(prediction.score, 6),
            "anomaly_threshold": prediction.threshold,
            "anomalies": {
                entry.name: {"area": round(entry.area, 9), "color": entry.color} for entry in shares
            },
            "regions": [_region(region) for region in regions],
            "camera_problems": [problem.value for problem in prediction.camera_problems],
            "timings_ms": _timings(times),
            "capture": capture or None,
        }

    verdict = "anomaly" if prediction.is_anomalous else "normal"
    encoded = _fitting(body, anomalies, prediction.regions)
    return Event(facts["id"], facts["model"], "result", verdict, encoded)


def common(id_: str, kind: str, thing: str, model: str, now: float) -> Dict[str, Any]:
    """Return what every event has; `now` in Unix seconds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "id": id_,
        "thing": thing,
        "model": model,
        "result_time": iso(now),
    }


def numbered(body: bytes, sequence: int) -> bytes:
    """Put the device's sequence number in front."""
    return b'{"sequence":%d,' % sequence + body[1:]


def late(body: bytes) -> bytes:
    """Mark an event that later ones have overtaken."""
    return LATE + body[1:]


def encode(body: Dict[str, Any]) -> bytes:
    """Return compact JSON."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fitting(
    body: Callable[[Sequence[Anomaly], Sequence[Region]], Dict[str, Any]],
    anomalies: List[Anomaly],
    regions: Sequence[Region],
) -> bytes:
    """Encode as many regions, and then anomaly types, as the limit allows; say what was cut."""
    room = LIMIT_BYTES - SEQUENCE_BYTES
    kept_regions, kept_anomalies = min(len(regions), 64), len(anomalies)
    while True:
        values = body(anomalies[:kept_anomalies], regions[:kept_regions])
        cut = {"regions": len(regions) - kept_regions, "anomalies": len(anomalies) - kept_anomalies}
        if any(cut.values()):
            values["cut"] = cut
        encoded = encode(values)
        if len(encoded) <= room or not (kept_regions or kept_anomalies):
            return encoded
        if kept_regions:
            kept_regions //= 2
        else:
            kept_anomalies //= 2


def _region(region: Region) -> Dict[str, Any]:
    return {
        "name": region.name,
        "left": region.left,
        "top": region.top,
        "width": region.width,
        "height": region.height,
        "area": round(region.area, 9),
        "peak": round(region.peak, 6),
    }


def _timings(times: StageTimes) -> Dict[str, float]:
    return {
        "receive": round(1000 * times.receive, 3),
        "queue": round(1000 * times.queue, 3),
        "preprocess": round(1000 * times.preprocess, 3),
        "compute": round(1000 * times.compute, 3),
        "postprocess": round(1000 * times.postprocess, 3),
    }
