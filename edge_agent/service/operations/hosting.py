"""StartModel, StopModel."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

from sqlalchemy import ColumnElement, Row, func, select, update

from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict, ValidationFailed
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.hosting.statuses import (
    ANSWERING,
    MAY_START,
    STARTING,
    STOPPING,
    TO_BE_SERVED,
)
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.lookups import find_model
from edge_agent.service.records.quotas import within_quota
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings

MOST_UNITS = 64  # of a runtime


class Hosting:
    """Starts and stops the hosting of models."""

    def __init__(self, hosting: HostedModels, settings: ServiceSettings) -> None:
        self._hosting, self._quotas = hosting, settings.quotas

    def start_model(self, call: Call, transaction: Transaction) -> Answer:
        """Begin to host a model that is trained, or whose hosting failed."""
        units = call.parameters["MinInferenceUnits"], call.parameters.get("MaxInferenceUnits")
        most = _most_units(*units)
        model = _model(call, transaction)
        if model.status not in MAY_START:
            raise conflict(model, "Only a model that is TRAINED or HOSTING_FAILED can be started.")
        self._check_quotas(call, transaction, most)
        values = {"min_units": units[0], "max_units": units[1]}
        _change(transaction, model, STARTING, "The model is being started.", **values)
        transaction.after_commit(partial(self._hosting.start_model, model.id))
        return {"Status": STARTING}

    def stop_model(self, call: Call, transaction: Transaction) -> Answer:
        """Begin to stop a model that is hosted."""
        model = _model(call, transaction)
        if model.status not in ANSWERING:
            raise conflict(model, "Only a model that is HOSTED can be stopped.")
        _change(transaction, model, STOPPING, "The model is being stopped.")
        transaction.after_commit(partial(self._hosting.stop_model, model.id))
        return {"Status": STOPPING}

    def _check_quotas(self, call: Call, transaction: Transaction, units: int) -> None:
        most: ColumnElement[int] = func.coalesce(MODELS.c.max_units, MODELS.c.min_units)
        hosted = select(func.count(), func.sum(most)).join_from(MODELS, PROJECTS)
        mine = PROJECTS.c.account == call.account, MODELS.c.status.in_((*TO_BE_SERVED, STOPPING))
        models, units_in_use = transaction.connection.execute(hosted.where(*mine)).one()
        quotas = self._quotas
        within_quota(call, "hosted_models", models + 1, quotas.hosted_models, "MODEL")
        total = (units_in_use or 0) + units
        within_quota(call, "inference_units", total, quotas.inference_units, "MODEL")


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
