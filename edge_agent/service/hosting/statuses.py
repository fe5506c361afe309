"""The statuses of a model around its hosting, as the API has them; how they come to the records."""

from __future__ import annotations

from typing import Callable, Optional, Sequence

from sqlalchemy import Update, update

from edge_agent.service.records.schema import MODELS

TRAINED = "TRAINED"  # after a stop as well
STARTING = "STARTING_HOSTING"
HOSTED = "HOSTED"
UPDATING = "SYSTEM_UPDATING"  # what serves it is being replaced
STOPPING = "STOPPING_HOSTING"
FAILED = "HOSTING_FAILED"

TO_BE_SERVED = (STARTING, HOSTED, UPDATING)
MAY_START = (TRAINED, FAILED)
ANSWERING = (HOSTED, UPDATING)  # perhaps after a moment

NO_UNITS = {"min_units": None, "max_units": None}


def is_hosted(status: str) -> bool:
    """Whether a model of that status is, or may be, in use by a runtime: it can't be deleted."""
    return status in (*TO_BE_SERVED, STOPPING)


class HostingStatus:
    """Changes the status of one model, or of all, unless it is another than the expected one.

    So a call that stops a model, or deletes it, is never written over.
    """

    def __init__(self, write: Callable[[Update], object], model: Optional[int] = None) -> None:
        """`write`: takes each change of the records. `model`: its id there; None: all."""
        self._write, self._model = write, model

    def hosted(self) -> None:
        """Note that it answers."""
        self._move((STARTING, UPDATING), HOSTED, "The model is running.")

    def replacing(self, why: str) -> None:
        """Note that what served it has gone; a model that never answered is still starting."""
        self._move(ANSWERING, UPDATING, why)

    def failed(self, why: str) -> None:
        """Note that it can't be served."""
        self._move(TO_BE_SERVED, FAILED, why, **NO_UNITS)

    def stopped(self) -> None:
        """Note that what served it has ended; nothing is written unless it was to be stopped."""
        self._move((STOPPING,), TRAINED, "The model was stopped.", **NO_UNITS)

    def _move(self, allowed: Sequence[str], status: str, message: str, **values: object) -> None:
        change = update(MODELS).where(MODELS.c.status.in_(allowed))
        if self._model is not None:
            change = change.where(MODELS.c.id == self._model)
        self._write(change.values(status=status, message=message, **values))
