"""Settings and fingerprints of engines that tests ask for."""

from __future__ import annotations

from typing import Any, Dict

from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.targets import BuildSpec, Profile
from tests.fakes import micro

ITEM = (micro.SIZE, micro.SIZE, 3)
XAVIER = Gpu("Xavier", (7, 2), "11.4", "R35.3.1", is_integrated=True)


def profile(low: int, high: int) -> Profile:
    return Profile(
        tensor="image", minimum=(low, *ITEM), optimum=(high, *ITEM), maximum=(high, *ITEM)
    )


def settings(**changes: Any) -> BuildSpec:
    values: Dict[str, Any] = {"precision": "fp32", "timing_cache": "timing.cache"}
    values["profiles"] = (profile(1, 1), profile(2, 4))
    return BuildSpec(**{**values, **changes})


def engine_of(**changes: Any) -> Fingerprint:
    made = Fingerprint.of("8.5.2.2", XAVIER, b"model", settings())
    return made.model_copy(update=changes)
