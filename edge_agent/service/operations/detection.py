"""DetectAnomalies."""

from __future__ import annotations

import logging
import math
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Dict, Iterator

from edge_agent.errors import EdgeAgentError, InvalidRequest, Overloaded, WrongModelState
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, ServiceFault, Throttled, ValidationFailed
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.hosting.statuses import ANSWERING
from edge_agent.service.operations.hosting import conflict
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model

if TYPE_CHECKING:
    from edge_agent.types import Anomaly, Prediction

CONTENT_TYPES = ("image/jpeg", "image/png")
MOST_CALLS = 24  # at a time; the others of the service's threads are for other operations
MOST_PICTURES = 8  # of these calls, decoded at a time; the largest takes 150 MB until its answer
WAIT_S = 5.0  # for the pictures of others
RETRY_AFTER_S = 1

log = logging.getLogger(__name__)


class Detection:
    """Has pictures judged by hosted models."""

    def __init__(self, hosting: HostedModels) -> None:
        self._hosting = hosting
        self._calls = threading.BoundedSemaphore(MOST_CALLS)
        self._pictures = threading.BoundedSemaphore(MOST_PICTURES)

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
        with _held(self._calls), _held(self._pictures, WAIT_S):
            try:
                prediction = self._hosting.detect(model.id, call.parameters["Body"])
            except EdgeAgentError as error:
                raise _fault(error, model.arn) from None
            return {"DetectAnomalyResult": _result(prediction)}


@contextmanager
def _held(places: threading.BoundedSemaphore, wait_s: float = 0.0) -> Iterator[None]:
    """Hold one of the places; Throttled when none becomes free."""
    if not places.acquire(timeout=wait_s):
        raise Throttled("Too many images are being judged. Call again.", RETRY_AFTER_S)
    try:
        yield
    finally:
        places.release()


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
    return ServiceFault(str(error), RetryAfterSeconds=RETRY_AFTER_S)


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
