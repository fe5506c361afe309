"""DetectAnomalies."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Dict

from edge_agent.errors import (
    AgentUnavailable,
    DeadlineExceeded,
    EdgeAgentError,
    InvalidRequest,
    Overloaded,
    WrongModelState,
)
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, ServiceFault, Throttled, ValidationFailed
from edge_agent.service.hosting.base import ModelHost
from edge_agent.service.hosting.places import RETRY_AFTER_S, Places
from edge_agent.service.hosting.statuses import ANSWERING
from edge_agent.service.operations.hosting import conflict
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model

if TYPE_CHECKING:
    from edge_agent.types import Anomaly, Prediction

CONTENT_TYPES = ("image/jpeg", "image/png")
MOST_CALLS = 24  # at a time; the others of the service's threads are for other operations
LATE = "What serves the model gave no answer in time. Call again."
REPLACED = "What serves the model is being replaced. Call again."
BROKEN = "The model couldn't judge the image; the service's log says why. Call again."

log = logging.getLogger(__name__)


class Detection:
    """Has pictures judged by hosted models."""

    def __init__(self, host: ModelHost) -> None:
        self._host, self._calls = host, Places(MOST_CALLS)

    def detect_anomalies(self, call: Call, transaction: Transaction) -> Answer:
        """Judge a JPEG or PNG picture.

        While what serves the model is being replaced, a call waits some seconds; then it gets an
        InternalServerException, which SDKs retry as they never do a ConflictException.
        """
        name, version = call.parameters["ProjectName"], call.parameters["ModelVersion"]
        model = find_model(transaction, call.account, name, version)
        if model.status not in ANSWERING:
            raise conflict(model, "Only a model that is HOSTED detects anomalies: call StartModel.")
        _check_type(call.parameters["ContentType"])
        transaction.connection.close()  # its place is for other calls while this one waits
        with self._calls.held():
            try:
                prediction = self._host.detect(model.id, call.parameters["Body"])
            except EdgeAgentError as error:
                raise _fault(error, model.arn) from None
            return {"DetectAnomalyResult": _result(prediction)}


def _check_type(content_type: str) -> None:
    if content_type.partition(";")[0].strip().lower() not in CONTENT_TYPES:
        raise ValidationFailed(
            f"ContentType is {content_type}; expected {' or '.join(CONTENT_TYPES)}."
        )


def _fault(error: EdgeAgentError, model: str) -> ServiceFault:
    """Return what a caller of the API is answered for an error of the runtime."""
    if isinstance(error, InvalidRequest):
        return ValidationFailed(str(error))
    if isinstance(error, Overloaded):
        return Throttled(str(error), max(RETRY_AFTER_S, math.ceil(error.retry_after_s)))
    if isinstance(error, WrongModelState):
        return Conflict(str(error), "MODEL", model)
    log.warning("A picture for model %s wasn't judged: %s", model, error)
    late = isinstance(error, DeadlineExceeded)
    sentence = LATE if late else REPLACED if isinstance(error, AgentUnavailable) else BROKEN
    return ServiceFault(sentence, RetryAfterSeconds=RETRY_AFTER_S)


def _result(prediction: Prediction) -> Dict[str, object]:
    """Return DetectAnomalyResult; anomaly types and mask are those of a segmentation model."""
    result: Dict[str, object] = {
        "Source": {"Type": "direct"},
        "IsAnomalous": prediction.is_anomalous,
        "Confidence": prediction.confidence,
    }
    if prediction.mask is not None:
        from edge_agent.service.hosting.pictures import mask_file

        result["Anomalies"] = [_anomaly(each) for each in prediction.anomalies]
        result["AnomalyMask"] = mask_file(prediction.mask)
    return result


def _anomaly(found: Anomaly) -> Dict[str, object]:
    area = {"TotalPercentageArea": found.area, "Color": found.color}
    return {"Name": found.name, "PixelAnomaly": area}
