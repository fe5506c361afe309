"""StartModel, StopModel."""

from __future__ import annotations

from typing import Any, Optional

from sqlalchemy import Row, func, select, update

from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, QuotaExceeded, ValidationFailed
from edge_agent.service.hosting.base import ModelHost
from edge_agent.service.hosting.statuses import MAY_START, STARTING, STOPPING, TO_BE_SERVED
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model
from edge_agent.service.records.quotas import within_quota
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings

MOST_UNITS = 64  # of a runtime


class Hosting:
    """Starts and stops the hosting of models."""

    def __init__(self, host: ModelHost, settings: ServiceSettings) -> None:
        self._host, self._quotas = host, settings.quotas

    def start_model(self, call: Call, transaction: Transaction) -> Answer:
        """Begin to host a model that is trained, or whose hosting failed."""
        units = call.parameters["MinInferenceUnits"], call.parameters.get("MaxInferenceUnits")
        most = _most_units(*units)
        model = _model(call, transaction)
        if model.status not in MAY_START:
            raise conflict(model, "Only a model that is TRAINED or HOSTING_FAILED can be started.")
        self._check_units(call, model, most)
        self._check_hosted(call, transaction)
        values = {"min_units": units[0], "max_units": units[1]}
        _change(transaction, model, STARTING, "The model is being started.", **values)
        self._host.submit(model.id, transaction)
        return {"Status": STARTING}

    def stop_model(self, call: Call, transaction: Transaction) -> Answer:
        """Begin to stop a model that is hosted, or is being started."""
        model = _model(call, transaction)
        if model.status not in TO_BE_SERVED:
            raise conflict(model, "Only a model that is HOSTED or being started can be stopped.")
        _change(transaction, model, STOPPING, "The model is being stopped.")
        self._host.cancel(model.id, transaction)
        return {"Status": STOPPING}

    def _check_units(self, call: Call, model: Row[Any], units: int) -> None:
        most = self._quotas.inference_units
        if units > most:
            raise QuotaExceeded(
                f"{units} inference units were asked for; a model may have at most {most}. Ask for "
                "fewer, or raise the service's setting quotas.inference_units.",
                "inference_units",
                call.service,
                "MODEL",
                model.arn,
            )

    def _check_hosted(self, call: Call, transaction: Transaction) -> None:
        in_use = PROJECTS.c.account == call.account, MODELS.c.status.in_((*TO_BE_SERVED, STOPPING))
        query = select(func.count()).select_from(MODELS).join(PROJECTS).where(*in_use)
        hosted: int = transaction.connection.execute(query).scalar_one()
        within_quota(call, "hosted_models", hosted + 1, self._quotas.hosted_models, "MODEL")


def conflict(model: Row[Any], rule: str) -> Conflict:
    """Return the error for a call that the model's status doesn't allow, and why."""
    return Conflict(f"The status of the model is {model.status}. {rule}", "MODEL", model.arn)


def _model(call: Call, transaction: Transaction) -> Row[Any]:
    name, version = call.parameters["ProjectName"], call.parameters["ModelVersion"]
    return find_model(transaction, call.account, name, version)


def _most_units(least: int, most: Optional[int]) -> int:
    if most is not None and most < least:
        raise ValidationFailed(
            f"MaxInferenceUnits is {most}, less than MinInferenceUnits, which is {least}. Give the "
            "same or more, or leave it out."
        )
    wanted = least if most is None else most
    if wanted > MOST_UNITS:
        raise ValidationFailed(f"{wanted} inference units were asked for; at most {MOST_UNITS}.")
    return wanted


def _change(
    transaction: Transaction, model: Row[Any], status: str, message: str, **values: object
) -> None:
    change = update(MODELS).where(MODELS.c.id == model.id)
    transaction.connection.execute(change.values(status=status, message=message, **values))
