"""Does the work in child processes, some of each kind at a time, in the order it came.

A row of the table WORK is what makes a piece of work exist. It is WAITING, then RUNNING, and is
deleted in the transaction that makes the result visible or records the failure; so nothing is done
twice, and what is found RUNNING at the start was interrupted. A child dies with the service. A
result that can't be stored is kept, and that is tried again.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from sqlalchemy import delete, insert, select, update

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.processes.child_process import ChildProcess, Exit, python_module
from edge_agent.runtime.system.data_files import make_folder
from edge_agent.service.faults import RecordsFailed, ServiceFault
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.repeating import until_recorded
from edge_agent.service.records.schema import WORK
from edge_agent.service.server_paths import without_paths
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Kind, Parameters
from edge_agent.service.work.child import PROGRESS
from edge_agent.service.work.folder import Task, TaskOutcome
from edge_agent.service.work.kinds import KINDS, load

WAITING, RUNNING = "WAITING", "RUNNING"
FOLDER = "work"  # below the root
STORE_AGAIN_S, STORE_MOST_S = 1.0, 60.0  # after a result that couldn't be stored, ever longer
STORED_WITHIN_S = 3600.0
LIMIT_S = 24 * 3600.0  # as the original had for a training
ENDS_WITHIN_S = 5.0
CANCELLED = "It was cancelled."
INTERRUPTED = "The service was stopped while this was under way. Do it again."
FAULT = "It failed by a fault of the service, which its log describes."

_Steps = SimpleQueue[Optional[Callable[[], None]]]

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
        self._queues: Dict[str, _Steps] = {kind: SimpleQueue() for kind in kinds}
        self._threads: List[threading.Thread] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()  # of what follows
        self._running: Dict[str, ChildProcess] = {}
        self._cancelled: Set[str] = set()

    def start(self) -> None:
        """Begin, with what an earlier run of the service has left."""
        make_folder(self._root / FOLDER)
        interrupted_first = select(WORK).order_by(WORK.c.state == WAITING, WORK.c.created)
        with self._records.read() as transaction:
            for row in transaction.connection.execute(interrupted_first):
                if row.state == WAITING:
                    self._queues[row.kind].put(partial(self._do, row.id))
                else:
                    job = _Job(row.id, row.kind, row.parameters)
                    self._queues[row.kind].put(partial(self._end, job, INTERRUPTED))
        self._remove_strays()
        for queue in self._queues.values():
            for _ in range(self._settings.children):
                thread = threading.Thread(target=self._work, args=[queue], name="work", daemon=True)
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
        transaction.after_commit(lambda: self._queues[kind].put(partial(self._do, work_id)))
        return work_id

    def cancel(self, work_id: str) -> None:
        """End work that is no longer wanted, begun or not; its `failed` is called.

        Not inside a writing transaction: this one writes as well.
        """
        with self._records.write() as transaction:
            job = _job(work_id, WAITING, transaction)
            if job is not None:
                self._fail(job, CANCELLED, transaction)
                return
            if _job(work_id, RUNNING, transaction) is None:
                return  # it has ended
        with self._lock:
            self._cancelled.add(work_id)
            if work_id in self._running:
                self._running[work_id].kill("it was cancelled")

    def close(self) -> None:
        """End the children. What they were doing is recorded as failed after the next `start`."""
        with self._lock:
            self._closing.set()
            for process in self._running.values():
                process.kill("the service stops")
        for queue in self._queues.values():
            for _ in range(self._settings.children):
                queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, queue: _Steps) -> None:
        while True:
            step = queue.get()
            if step is None or self._closing.is_set():
                return
            try:
                step()
            except Exception:
                log.exception("Work couldn't be recorded; that is tried again at the next start")

    def _do(self, work_id: str) -> None:
        begin = partial(self._begin, work_id)
        job = until_recorded(begin, f"The beginning of work {work_id}", self._closing)
        if job is not None:  # it wasn't cancelled
            self._end(job, self._ending(job))

    def _end(self, job: _Job, ending: str) -> None:
        """Record its end, at last. See `_conclude`."""
        if not self._closing.is_set():
            conclude = partial(self._conclude, job, ending)
            until_recorded(conclude, f"The end of {job.kind} {job.id}", self._closing)

    def _begin(self, work_id: str) -> Optional[_Job]:
        with self._records.write() as transaction:
            job = _job(work_id, WAITING, transaction)
            transaction.connection.execute(
                update(WORK).where(WORK.c.id == work_id).values(state=RUNNING)
            )
        return job

    def _ending(self, job: _Job) -> str:
        """Have it done; say how that ended, for the case that it left no outcome."""
        try:
            return self._shown(job, _sentence(self._run(job)))
        except OSError as error:
            return f"The process can't be started: {error.strerror}. Do it again."

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
            if self._closing.is_set() or job.id in self._cancelled:
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

    def _conclude(self, job: _Job, ending: str) -> None:
        """Record what the folder's outcome says, or `ending` where there is none.

        When the service is killed after the kind has moved its files, the row is still there, and
        the kind's `finished` is called again at the next start. Raises RecordsFailed.
        """
        outcome = TaskOutcome.read(self._folder(job.id)) or TaskOutcome(failure=ending)
        failure: Optional[str] = CANCELLED if self._is_cancelled(job) else outcome.failure
        if outcome.result is not None and not failure:
            failure = self._finish(job, outcome.result)
        if failure is None:
            return  # the service stops, and goes on with it at the next start
        if failure:
            with self._records.write() as transaction:
                self._fail(job, failure, transaction)
        shutil.rmtree(self._folder(job.id), ignore_errors=True)
        with self._lock:
            self._cancelled.discard(job.id)

    def _finish(self, job: _Job, result: Mapping[str, Any]) -> Optional[str]:
        """Make the result visible, once that can be done; return why it never could.

        None: the service stops. Raises RecordsFailed.
        """
        end_s, pause_s = time.monotonic() + STORED_WITHIN_S, STORE_AGAIN_S
        while True:
            try:
                self._publish(job, result)
            except RecordsFailed:
                raise
            except (EdgeAgentError, ServiceFault, OSError) as error:
                why = self._shown(job, _reason(error))
            except Exception:
                log.exception("The result of %s %s can't be recorded", job.kind, job.id)
                return FAULT
            else:
                return ""
            if self._is_cancelled(job):
                return CANCELLED
            if time.monotonic() > end_s:
                return why
            log.warning("The result of %s %s can't be stored yet: %s", job.kind, job.id, why)
            self._progress(job, f"The result can't be stored yet, which is tried again: {why}")
            if self._closing.wait(pause_s):
                return None
            pause_s = min(2 * pause_s, STORE_MOST_S)

    def _publish(self, job: _Job, result: Mapping[str, Any]) -> None:
        folder = self._folder(job.id)
        self._kind(job).publish(job.parameters, folder)
        with self._records.write() as transaction:
            self._kind(job).finished(job.parameters, result, folder, transaction)
            _delete(job, transaction)

    def _fail(self, job: _Job, message: str, transaction: Transaction) -> None:
        log.warning("%s %s failed: %s", job.kind, job.id, message)
        self._kind(job).failed(job.parameters, message, transaction)
        _delete(job, transaction)

    def _is_cancelled(self, job: _Job) -> bool:
        with self._lock:
            return job.id in self._cancelled

    def _shown(self, job: _Job, sentence: str) -> str:
        folders = {self._folder(job.id): "the work's folder", self._root: "the service's folder"}
        return without_paths(sentence, folders)

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


def _job(work_id: str, state: str, transaction: Transaction) -> Optional[_Job]:
    statement = select(WORK).where(WORK.c.id == work_id, WORK.c.state == state)
    row = transaction.connection.execute(statement).one_or_none()
    return None if row is None else _Job(row.id, row.kind, row.parameters)


def _delete(job: _Job, transaction: Transaction) -> None:
    transaction.connection.execute(delete(WORK).where(WORK.c.id == job.id))


def _reason(error: Exception) -> str:
    """Say, for the caller of the API, why a result can't be stored."""
    if isinstance(error, OSError):
        return f"The result can't be stored: {error.strerror}. Correct that."
    return str(error)


def _sentence(ending: Exit) -> str:
    """Say, for the caller of the API, how a process ended that left no outcome."""
    if ending.code == -signal.SIGKILL and not ending.why:
        return (
            "The process was ended by SIGKILL, often because memory ran out. "
            "Free memory, then do it again."
        )
    return f"The process {ending}. The service's log has more on it."
