"""What a caller is answered about a picture with a camera problem, by `decision.camera_problem`.

Client programs that know only verdict, list and mask must not take a dead camera for a good part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from edge_agent.config import CameraProblemSettings
from edge_agent.errors import FaultyPicture
from edge_agent.types import (
    BACKGROUND_COLOR,
    BACKGROUND_NAME,
    CAMERA_PROBLEM_COLOR,
    Anomaly,
    CameraProblem,
    Prediction,
    Region,
)

if TYPE_CHECKING:
    from edge_agent.types import Pixels


class CameraProblemRule:
    """The settings' actions; of a picture with several problems, the strictest action counts."""

    def __init__(self, settings: CameraProblemSettings) -> None:
        self._actions = {problem: getattr(settings, problem.value) for problem in CameraProblem}

    def apply(self, prediction: Prediction, mask_target: Optional[Pixels]) -> Prediction:
        """Return the answer; `mask_target` (height, width, 3): where the caller wanted the mask.

        Raises FaultyPicture.
        """
        by_action = {self._actions[each]: each for each in reversed(prediction.camera_problems)}
        if "refuse" in by_action:
            raise FaultyPicture.showing([each.value for each in prediction.camera_problems])
        if "anomalous" in by_action:
            return _anomalous(prediction, by_action["anomalous"].value, mask_target)
        return prediction


def _anomalous(prediction: Prediction, name: str, mask_target: Optional[Pixels]) -> Prediction:
    """Return it as anomalous for certain, all of the picture where the model marks areas."""
    certain = replace(prediction, is_anomalous=True, confidence=1.0, score=1.0, is_unsure=False)
    mask = mask_target if prediction.mask is None else prediction.mask
    if mask is None:
        return certain
    mask[0] = tuple(bytes.fromhex(CAMERA_PROBLEM_COLOR[1:]))
    mask[1:] = mask[0]  # line by line, which takes a hundredth of pixel by pixel
    width, height = prediction.mask_size
    return replace(
        certain,
        anomalies=(
            Anomaly(BACKGROUND_NAME, 0.0, BACKGROUND_COLOR),
            Anomaly(name, 1.0, CAMERA_PROBLEM_COLOR),
        ),
        regions=(Region(name, 0, 0, width, height, 1.0, 1.0),),
    )
