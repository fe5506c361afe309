"""A verdict → its event: one JSON object of at most 7,000 bytes.

The format is `docs/result.schema.json`, version 1. 7,000 bytes is what every sink takes:
Greengrass nucleus lite closes the connection of a component that sends packets over 10,000, base64
included. A call only collects plain values (`Draft`); they become JSON in the outbox's own thread.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union

from edge_agent.types import BACKGROUND_NAME, Prediction, StageTimes

SCHEMA_VERSION = 1
LIMIT_BYTES = 7000
LATE = b'{"late":true,'
MOST_REGIONS = 64  # the largest; more don't fit anyway

Region = Tuple[str, int, int, int, int, float, float]  # name, box, area, peak
Area = Tuple[str, float, str]  # name, area, colour


class Verdict(NamedTuple):
    """The fields of a result, besides those of every event."""

    model_version: str
    camera: str
    frame_time: float  # Unix seconds
    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    anomalies: Tuple[Area, ...]
    regions: Tuple[Region, ...]
    regions_found: int
    camera_problems: Tuple[str, ...]
    times_s: Tuple[float, float, float, float, float]
    capture: str
    is_unsure: bool = False

    @property
    def word(self) -> str:
        """Normal, anomaly or unsure."""
        if self.is_unsure:
            return "unsure"
        return "anomaly" if self.is_anomalous else "normal"


class EventDraft(NamedTuple):
    """An event of plain values, without its number. An empty `model`: it is about the agent.

    kind: result, summary or alarm; `made` in Unix seconds; `facts`: of a result its Verdict, of
    others what their JSON has.
    """

    id: str
    kind: str
    model: str
    made: float
    facts: Union[Verdict, Mapping[str, object]]

    @property
    def verdict(self) -> str:
        """Anomaly or normal; what isn't a result counts as an anomaly and is stored as long."""
        normal = isinstance(self.facts, Verdict) and not self.facts.is_anomalous
        return "normal" if normal else "anomaly"


def verdict(
    prediction: Prediction, times: StageTimes, camera: str, frame_time: float, capture: str
) -> Verdict:
    """Collect a verdict's fields; `frame_time` in Unix seconds. Takes microseconds."""
    return Verdict(
        prediction.model_version,
        camera,
        frame_time,
        prediction.is_anomalous,
        prediction.confidence,
        prediction.score,
        prediction.threshold,
        tuple([(a.name, a.area, a.color) for a in prediction.anomalies]),
        tuple(
            [
                (r.name, r.left, r.top, r.width, r.height, r.area, r.peak)
                for r in prediction.regions[:MOST_REGIONS]
            ]
        ),
        len(prediction.regions),
        tuple([problem.value for problem in prediction.camera_problems]),
        (times.receive, times.queue, times.preprocess, times.compute, times.postprocess),
        capture,
        prediction.is_unsure,
    )


def encode(draft: EventDraft, sequence: int, thing: str) -> bytes:
    """Write an event as JSON."""
    common = {
        "sequence": sequence,
        "schema_version": SCHEMA_VERSION,
        "kind": draft.kind,
        "id": draft.id,
        "thing": thing,
        "model": draft.model,
        "result_time": iso(draft.made),
    }
    if isinstance(draft.facts, Verdict):
        return _fitting(common, draft.facts)
    return compact({**common, **draft.facts})


def late(body: bytes) -> bytes:
    """Mark an event that later ones have overtaken."""
    return LATE + body[1:]


def compact(body: Mapping[str, object]) -> bytes:
    """Return JSON without spaces."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")  # a name may hold half a surrogate pair


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fitting(common: Mapping[str, object], facts: Verdict) -> bytes:
    """Encode as many regions, and then anomaly types, as the limit allows; note what was cut."""
    areas = [area for area in facts.anomalies if area[0] != BACKGROUND_NAME]
    regions, types = len(facts.regions), len(areas)
    while True:
        body: Dict[str, object] = {
            **common,
            **_result(facts, areas[:types], facts.regions[:regions]),
        }
        cut = {"regions": facts.regions_found - regions, "anomalies": len(areas) - types}
        if any(cut.values()):
            body["cut"] = cut
        encoded = compact(body)
        if len(encoded) <= LIMIT_BYTES - len(LATE) or not (regions or types):
            return encoded
        if regions:
            regions //= 2
        else:
            types //= 2


def _result(facts: Verdict, areas: List[Area], regions: Sequence[Region]) -> Dict[str, object]:
    stages = ("receive", "queue", "preprocess", "compute", "postprocess")
    return {
        "model_version": facts.model_version,
        "camera": facts.camera or None,
        "frame_time": iso(facts.frame_time),
        "verdict": facts.word,
        "is_anomalous": facts.is_anomalous,
        "confidence": round(facts.confidence, 6),
        "anomaly_score": round(facts.score, 6),
        "anomaly_threshold": facts.threshold,
        "anomalies": {
            name: {"area": round(area, 9), "color": color} for name, area, color in areas
        },
        "regions": [
            {
                "name": name,
                "left": left,
                "top": top,
                "width": width,
                "height": height,
                "area": round(area, 9),
                "peak": round(peak, 6),
            }
            for name, left, top, width, height, area, peak in regions
        ],
        "camera_problems": facts.camera_problems,
        "timings_ms": {
            stage: round(1000 * seconds, 3) for stage, seconds in zip(stages, facts.times_s)
        },
        "capture": facts.capture or None,
    }
