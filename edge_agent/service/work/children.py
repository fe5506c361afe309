"""Does the work in child processes, some at a time, in the order it came.

A row of the table WORK is what makes a piece of work exist. It is WAITING, then RUNNING, and is
deleted in the transaction that makes the result visible or records the failure; so nothing is done
twice, and what is found RUNNING at the start was interrupted. A child dies with the service.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from sqlalchemy import delete, insert, select, update

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.processes.child_process import ChildProcess, Exit, python_module
from edge_agent.runtime.system.data_files import make_folder
from edge_agent.service.faults import RecordsFailed, ServiceFault
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import WORK
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Kind, Parameters
from edge_agent.service.work.child import PROGRESS
from edge_agent.service.work.folder import Task, TaskOutcome
from edge_agent.service.work.kinds import KINDS, load

WAITING, RUNNING = "WAITING", "RUNNING"
FOLDER = "work"  # below the root
RECORD_AGAIN_S = 2.0  # after records that couldn't be written
LIMIT_S = 24 * 3600.0  # as the original had for a training
ENDS_WITHIN_S = 5.0
CANCELLED = "It was cancelled."
INTERRUPTED = "The service was stopped while this was under way. Do it again."
FAULT = "It failed by a fault of the service, which its log describes."

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    """A row of WORK."""

    id: str
    kind: str
    parameters: Parameters


class Children:
    """Work of the service, in child processes. `start` before use; `close` ends the children."""

    def __init__(
        self,
        *,
        root: Path,
        settings: ServiceSettings,
        records: Records,
        kinds: Mapping[str, str] = KINDS,
    ) -> None:
        """`kinds`: by name, as in `work.kinds`."""
        self._root, self._settings, self._records = root.resolve(), settings, records
        self._references = kinds
        self._kinds: Dict[str, Kind] = {}
        self._queue: SimpleQueue[Optional[str]] = SimpleQueue()
        self._lock = threading.Lock()  # of what follows
        self._running: Dict[str, ChildProcess] = {}
        self._cancelled: Set[str] = set()
        self._is_closing = False
        self._threads: List[threading.Thread] = []

    def start(self) -> None:
        """Conclude what an earlier run of the service has left, then begin."""
        make_folder(self._root / FOLDER)
        with self._records.read() as transaction:
            rows = transaction.connection.execute(select(WORK).order_by(WORK.c.created)).all()
        for row in rows:
            if row.state == WAITING:
                self._queue.put(row.id)
            else:
                self._guard(self._conclude, _Job(row.id, row.kind, row.parameters), INTERRUPTED)
        self._remove_strays()
        for _ in range(self._settings.children):
            thread = threading.Thread(target=self._work, name="work", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, kind: str, parameters: Parameters, transaction: Transaction) -> str:
        """Have work done once the transaction is committed; return its id."""
        assert kind in self._references, kind
        work_id = uuid.uuid4().hex
        transaction.connection.execute(
            insert(WORK).values(
                id=work_id, kind=kind, parameters=parameters, state=WAITING, created=time.time()
            )
        )
        transaction.after_commit(lambda: self._queue.put(work_id))
        return work_id

    def cancel(self, work_id: str) -> None:
        """End work that is no longer wanted, begun or not; its `failed` is called.

        Not inside a writing transaction: this one writes as well.
        """
        with self._records.write() as transaction:
            job = self._job(work_id, WAITING, transaction)
            if job is not None:
                self._fail(job, CANCELLED, transaction)
                return
            if self._job(work_id, RUNNING, transaction) is None:
                return  # it has ended
        with self._lock:
            self._cancelled.add(work_id)
            if work_id in self._running:
                self._running[work_id].kill("it was cancelled")

    def close(self) -> None:
        """End the children. What they were doing is found, and recorded as failed, by `start`."""
        with self._lock:
            self._is_closing = True
            for process in self._running.values():
                process.kill("the service stops")
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            work_id = self._queue.get()
            if work_id is None or self._is_closing:
                return
            self._guard(self._do, work_id)

    def _guard(self, step: Callable[..., None], *arguments: object) -> None:
        """Take a step; when it fails, the work's row is left for the next start."""
        try:
            step(*arguments)
        except Exception:
            log.exception("Work couldn't be recorded; that is tried again at the next start")

    def _do(self, work_id: str) -> None:
        with self._records.write() as transaction:
            job = self._job(work_id, WAITING, transaction)
            transaction.connection.execute(
                update(WORK).where(WORK.c.id == work_id).values(state=RUNNING)
            )
        if job is None:
            return
        try:
            ending = _sentence(self._run(job))
        except OSError as error:
            ending = f"The process can't be started: {error.strerror}. Do it again."
        while not self._is_closing and not self._concluded(job, ending):
            time.sleep(RECORD_AGAIN_S)

    def _run(self, job: _Job) -> Exit:
        """Have a child process do it; return how that ended. Raises OSError."""
        folder = self._folder(job.id)
        make_folder(folder)
        Task(job.parameters, self._root, self._settings).write(folder)
        command = python_module(
            "edge_agent.service.work.child", self._references[job.kind], str(folder)
        )
        with ChildProcess(
            command,
            name=f"The process of {job.kind} {job.id}",
            within_s=LIMIT_S,
            late="it took more than 24 hours",
            ends_within_s=ENDS_WITHIN_S,
            output_level=logging.INFO,
        ) as process:
            self._watch(job, process)
            return process.end()

    def _watch(self, job: _Job, process: ChildProcess) -> None:
        with self._lock:
            self._running[job.id] = process
            if self._is_closing or job.id in self._cancelled:
                process.kill("it isn't wanted any more")
        try:
            for message in process.messages():
                self._progress(job, message[PROGRESS])
        finally:
            with self._lock:
                del self._running[job.id]

    def _progress(self, job: _Job, message: str) -> None:
        try:
            with self._records.write() as transaction:
                self._kind(job).progressed(job.parameters, message, transaction)
        except Exception:
            log.exception("The progress of %s %s can't be recorded", job.kind, job.id)

    def _concluded(self, job: _Job, ending: str) -> bool:
        """Record how it ended; False while the records can't be written, and nothing is lost."""
        try:
            self._conclude(job, ending)
        except RecordsFailed as error:
            log.warning("The end of %s %s isn't recorded yet: %s", job.kind, job.id, error)
            return False
        return True

    def _conclude(self, job: _Job, ending: str) -> None:
        """Record what the folder's outcome says, or `ending` where there is none.

        When the service is killed after the kind has moved its files, the row is still there, and
        the kind's `finished` is called again at the next start.
        """
        with self._lock:
            is_cancelled = job.id in self._cancelled
        outcome = TaskOutcome.read(self._folder(job.id)) or TaskOutcome(failure=ending)
        failure = CANCELLED if is_cancelled else outcome.failure
        if outcome.result is not None and not is_cancelled:
            failure = self._finish(job, outcome.result)
        if failure:
            with self._records.write() as transaction:
                self._fail(job, failure, transaction)
        shutil.rmtree(self._folder(job.id), ignore_errors=True)
        with self._lock:
            self._cancelled.discard(job.id)

    def _finish(self, job: _Job, result: Mapping[str, Any]) -> str:
        """Make the result visible; return why it can't be. Raises RecordsFailed."""
        try:
            folder = self._folder(job.id)
            self._kind(job).publish(job.parameters, folder)
            with self._records.write() as transaction:
                self._kind(job).finished(job.parameters, result, folder, transaction)
                _delete(job, transaction)
        except RecordsFailed:
            raise
        except (EdgeAgentError, ServiceFault) as error:
            return str(error)
        except OSError as error:
            log.exception("The result of %s %s can't be stored", job.kind, job.id)
            return f"The result can't be stored: {error.strerror}. Correct that, then do it again."
        except Exception:
            log.exception("The result of %s %s can't be recorded", job.kind, job.id)
            return FAULT
        return ""

    def _fail(self, job: _Job, message: str, transaction: Transaction) -> None:
        log.warning("%s %s failed: %s", job.kind, job.id, message)
        self._kind(job).failed(job.parameters, message, transaction)
        _delete(job, transaction)

    def _job(self, work_id: str, state: str, transaction: Transaction) -> Optional[_Job]:
        statement = select(WORK).where(WORK.c.id == work_id, WORK.c.state == state)
        row = transaction.connection.execute(statement).one_or_none()
        return None if row is None else _Job(row.id, row.kind, row.parameters)

    def _kind(self, job: _Job) -> Kind:
        if job.kind not in self._kinds:
            reference = self._references[job.kind]
            self._kinds[job.kind] = load(reference, self._root, self._settings)
        return self._kinds[job.kind]

    def _folder(self, work_id: str) -> Path:
        return self._root / FOLDER / work_id

    def _remove_strays(self) -> None:
        """Remove the folders of work that has ended."""
        with self._records.read() as transaction:
            known: Sequence[str] = transaction.connection.scalars(select(WORK.c.id)).all()
        for folder in (self._root / FOLDER).iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)


def _delete(job: _Job, transaction: Transaction) -> None:
    transaction.connection.execute(delete(WORK).where(WORK.c.id == job.id))


def _sentence(ending: Exit) -> str:
    """Say, for the caller of the API, how a process ended that left no outcome."""
    if ending.code == -signal.SIGKILL and not ending.why:
        return (
            "The process was ended by SIGKILL, often because memory ran out. "
            "Free memory, then do it again."
        )
    return f"The process {ending}. The service's log has more on it."
