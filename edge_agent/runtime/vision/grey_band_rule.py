"""What a caller is answered in the grey band, by `decision.unsure`."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.config import UnsureAnswer
from edge_agent.manifest import Decision
from edge_agent.runtime.vision.postprocess import LEAST_CONFIDENCE
from edge_agent.types import Prediction


class GreyBandRule:
    """The setting's answer: by the threshold, or the same one in the whole band."""

    def __init__(self, answer: UnsureAnswer) -> None:
        self._answer = answer

    def apply(self, prediction: Prediction, decision: Decision) -> Prediction:
        """Return the answer to an unsure frame, for which an end of the band is the threshold.

        So that a score that reaches the answered threshold is anomalous here as well.
        """
        band = decision.grey_band
        if band is None or self._answer == "threshold" or not prediction.is_unsure:
            return prediction
        is_anomalous = self._answer == "anomalous"
        certainty = prediction.score if is_anomalous else 1.0 - prediction.score
        return replace(
            prediction,
            is_anomalous=is_anomalous,
            confidence=max(certainty, LEAST_CONFIDENCE),
            threshold=band.low if is_anomalous else band.high,
        )
