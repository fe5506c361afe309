"""All models that are hosted: what the records say is to be served is served, each by a runtime."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Dict, NamedTuple, Sequence

from sqlalchemy import select

from edge_agent import config
from edge_agent.errors import InvalidConfiguration, WrongModelState
from edge_agent.service.hosting.base import RuntimeOrder
from edge_agent.service.hosting.places import Places
from edge_agent.service.hosting.record_changes import RecordChanges
from edge_agent.service.hosting.statuses import TO_BE_SERVED, HostingStatus
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import MODELS, PROJECTS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.training import package_folder

if TYPE_CHECKING:
    from edge_agent.service.hosting.hosted_model import HostedModel
    from edge_agent.types import Prediction

MOST_STARTS = 4  # at a time: each takes a processor
MOST_PICTURES = 8  # decoded at a time
WAIT_S = 5.0  # for the pictures of others
LONGEST_FOLDER = 107 - len("/agent.sock")  # bytes of a socket's path, as Linux takes it

log = logging.getLogger(__name__)


class Shared(NamedTuple):
    """What the hosted models of a service share: places, and how folders of sockets are named."""

    starts: threading.Semaphore
    pictures: Places
    prefix: str


class HostedModels:
    """The runtimes of one service, a `ModelHost`; may be used by any thread.

    The records say which models are to be served; each gets a thread, which alone changes how far
    it is. One service at a time may use `root`. What a runtime needs is loaded for the first model.
    """

    def __init__(self, records: Records, settings: ServiceSettings, root: Path) -> None:
        self._records, self._settings, self._root = records, settings, root
        self._changes = RecordChanges(records)
        starts, pictures = threading.Semaphore(MOST_STARTS), Places(MOST_PICTURES, WAIT_S)
        self._shared = Shared(starts, pictures, _prefix(root))
        self._lock = threading.Lock()
        self._models: Dict[int, HostedModel] = {}
        self._is_closed = False

    def start(self) -> None:
        """Bring back what was hosted when the service ended. Raises InvalidConfiguration."""
        config.load(self._settings.runtime_settings, os.environ)
        _remove_strays(self._shared.prefix)
        self._changes.start()
        with self._records.write() as transaction:
            status = HostingStatus(transaction.connection.execute)
            status.replacing("The service was started again and brings the model back.")
            status.stopped()
            query = select(MODELS.c.id).where(MODELS.c.status.in_(TO_BE_SERVED))
            to_be_served: Sequence[int] = transaction.connection.execute(query).scalars().all()
            for model in to_be_served:
                self.submit(model, transaction)

    def close(self) -> None:
        """End all runtimes; the records still say that their models are to be served."""
        with self._lock:
            self._is_closed = True
            models = list(self._models.values())
        for model in models:
            model.end()
        for model in models:
            model.join()
        self._changes.close()

    def submit(self, model: int, transaction: Transaction) -> None:
        """Have a model served once the transaction is committed, until `cancel`."""
        order = self._order(model, transaction)
        transaction.after_commit(partial(self._begin, model, order))

    def cancel(self, model: int, transaction: Transaction) -> None:
        """Have it stopped once the transaction is committed, calls in flight first."""
        transaction.after_commit(partial(self._end, model))

    def detect(self, model: int, picture: bytes) -> Prediction:
        """Judge a JPEG or PNG file; see `ModelHost.detect` for what is raised."""
        with self._lock:
            hosted = self._models.get(model)
        if hosted is None:
            raise WrongModelState("The model isn't hosted any more.")
        return hosted.detect(picture)

    def _begin(self, model: int, order: RuntimeOrder) -> None:
        status = self._status(model)
        try:
            self._run(model, order, status)
        except Exception:
            log.exception("The hosting of model %s can't begin", order.name)
            status.failed("The service couldn't begin with it; its log says why. Start it again.")

    def _run(self, model: int, order: RuntimeOrder, status: HostingStatus) -> None:
        from edge_agent.service.hosting.hosted_model import HostedModel

        hosted = HostedModel(order, self._shared, status, partial(self._forget, model))
        with self._lock:
            if not self._is_closed:
                hosted.start()
                self._models[model] = hosted  # before its thread can forget it

    def _end(self, model: int) -> None:
        with self._lock:
            hosted = self._models.get(model)
            if hosted is not None:
                hosted.end()
                return
        self._status(model).stopped()  # its runtimes had died too often just before

    def _status(self, model: int) -> HostingStatus:
        return HostingStatus(self._changes.put, model)

    def _order(self, model: int, transaction: Transaction) -> RuntimeOrder:
        query = select(MODELS, PROJECTS.c.account, PROJECTS.c.name).join(PROJECTS)
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


def _prefix(root: Path) -> str:
    """Return how names of this root's folders of sockets begin; what follows can't be guessed."""
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return f"edge-agent-hosting-{digest}-"


def _remove_strays(prefix: str) -> None:
    """Remove what a killed service has left. Raises InvalidConfiguration."""
    folder = Path(tempfile.gettempdir())
    if len(os.fsencode(folder / prefix)) + 8 > LONGEST_FOLDER:  # of mkdtemp
        raise InvalidConfiguration(
            f"The folder for temporary files, {folder}, has too long a path for sockets. Set "
            "TMPDIR to a shorter one, such as /tmp."
        )
    for left in folder.glob(f"{prefix}*"):
        facts = left.lstat()
        if facts.st_uid == os.geteuid():  # a link isn't followed
            shutil.rmtree(left, ignore_errors=True)
