"""All models that are hosted: what the records say is to be served is served, each by a runtime."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Sequence

from sqlalchemy import select

from edge_agent import config
from edge_agent.errors import WrongModelState
from edge_agent.service.hosting.statuses import TO_BE_SERVED, HostingStatus
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.training import package_folder

if TYPE_CHECKING:
    from edge_agent.service.hosting.hosted_model import HostedModel
    from edge_agent.service.hosting.runtime_process import RuntimeOrder
    from edge_agent.types import Prediction

FOLDER = "edge-agent-hosting"


class HostedModels:
    """The runtimes of one service; may be used by any thread.

    The records say which models are to be served; each gets a thread, which alone writes how far it
    is. One service at a time may use `root`. What a runtime needs is loaded with the first model.
    """

    def __init__(self, records: Records, settings: ServiceSettings, root: Path) -> None:
        self._records, self._settings, self._root = records, settings, root
        self._lock = threading.Lock()
        self._models: Dict[int, HostedModel] = {}
        self._is_closed = False
        self._folder = _folder(root)

    def start(self) -> None:
        """Bring back what was hosted when the service ended. Raises InvalidConfiguration."""
        config.load(self._settings.runtime_settings, os.environ)
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed service has left
        status = HostingStatus(self._records)
        status.replacing("The service was started again and brings the model back.")
        status.stopped()
        with self._records.read() as transaction:
            query = select(MODELS.c.id).where(MODELS.c.status.in_(TO_BE_SERVED))
            to_be_served: Sequence[int] = transaction.connection.execute(query).scalars().all()
        for model in to_be_served:
            self.start_model(model)

    def close(self) -> None:
        """End all runtimes; the records still say that their models are to be served."""
        with self._lock:
            self._is_closed = True
            models = list(self._models.values())
        for model in models:
            model.end()
        for model in models:
            model.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_model(self, model: int) -> None:
        """Begin to serve a model whose status says so; `model`: its id in the records."""
        from edge_agent.service.hosting.hosted_model import HostedModel

        status, on_end = HostingStatus(self._records, model), partial(self._forget, model)
        hosted = HostedModel(self._order(model), self._folder, status, on_end)
        with self._lock:
            if not self._is_closed:
                self._models[model] = hosted
                hosted.start()

    def stop_model(self, model: int) -> None:
        """Begin to stop a model whose status says so."""
        with self._lock:
            hosted = self._models.get(model)
            if hosted is not None:
                hosted.end()
                return
        HostingStatus(self._records, model).stopped()  # its runtimes had died too often just before

    def detect(self, model: int, picture: bytes) -> Prediction:
        """Judge a JPEG or PNG file; see `HostedModel.detect` for what is raised.

        Raises WrongModelState when the model isn't hosted any more.
        """
        with self._lock:
            hosted = self._models.get(model)
        if hosted is None:
            raise WrongModelState("The model isn't hosted any more.")
        return hosted.detect(picture)

    def _order(self, model: int) -> RuntimeOrder:
        from edge_agent.service.hosting.runtime_process import RuntimeOrder

        query = select(MODELS, PROJECTS.c.account, PROJECTS.c.name).join(PROJECTS)
        with self._records.read() as transaction:
            row = transaction.connection.execute(query.where(MODELS.c.id == model)).one()
        return RuntimeOrder(
            f"{row.name} {row.version}",
            package_folder(self._root, row.account, row.name, str(row.version)),
            row.min_units,
            row.max_units or row.min_units,
            self._settings.runtime_settings,
        )

    def _forget(self, model: int) -> None:
        with self._lock:
            del self._models[model]


def _folder(root: Path) -> Path:
    """Return where the sockets lie: a short path, and the same one after a restart."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"{FOLDER}-{name}"
