"""Packaging jobs on disk: one JSON file each, in a folder that several commands may use at once."""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from pydantic import Field, field_validator
from typing_extensions import Annotated, Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, read, read_json
from edge_agent.runtime.system.files import write_atomically

log = logging.getLogger(__name__)

PROC = Path("/proc")
TOKEN_VALID_S = 8 * 3600
PAGE = 100  # jobs a page at most
JOB_PATTERN = r"^[a-zA-Z0-9-]{1,64}$"

Status = Literal["CREATED", "RUNNING", "SUCCEEDED", "FAILED"]
UNDER_WAY = ("CREATED", "RUNNING")
NEEDED = ("ComponentName", "ComponentVersion", "OutputFolder")  # of a configuration


class JobRequest(Strict):
    """What a job has to do; a client token stands for exactly one of these.

    `configuration` is the API's GreengrassConfiguration; `digest` that of the model package.
    """

    project: str
    model_version: str
    configuration: Dict[str, object]
    digest: str


class Job(Strict):
    """A job as its file holds it; times in seconds since 1970."""

    name: Annotated[str, Field(pattern=JOB_PATTERN)]
    request: JobRequest
    token: Annotated[Optional[str], Field(pattern=JOB_PATTERN)] = None
    status: Status = "CREATED"
    message: str = ""
    created: float
    updated: float
    process: str  # which runs it, see `process_name`

    @field_validator("request")
    @classmethod
    def _can_be_kept(cls, request: JobRequest) -> JobRequest:
        configuration = request.configuration
        lacking = [key for key in NEEDED if not isinstance(configuration.get(key), str)]
        if lacking:
            raise ValueError(f"{', '.join(lacking)} must be there, as text")
        for key, value in configuration.items():
            if not _is_utf8(value):
                raise ValueError(f"{key} must be UTF-8, not {value!r}; give it another name")
        out = str(configuration["OutputFolder"])
        if Path(out).name in ("", ".."):
            raise ValueError(f"the folder {out!r} can't be made; choose another --out")
        return request

    @property
    def out(self) -> Path:
        """The folder the component goes to."""
        return Path(str(self.request.configuration["OutputFolder"]))


def staging(job: Job) -> Path:
    """Return the folder in which the component is made before it is moved to its place."""
    return job.out.with_name(f".{job.out.name}.{job.name}")


class Jobs:
    """Owns the records; `now` is the time in seconds since 1970."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now

    def create(
        self, request: JobRequest, name: Optional[str] = None, token: Optional[str] = None
    ) -> Tuple[Job, bool]:
        """Return a new job of this process and True, or the one its token stands for and False.

        Raises InvalidConfiguration when the name is taken, the token was used for another request.
        """
        now = self._now()
        values = {
            "name": name or f"job-{uuid.uuid4().hex[:12]}", "request": request, "token": token,
            "created": now, "updated": now, "process": process_name(),
        }  # fmt: skip
        try:
            job = read(Job, values)
        except ValueError as error:
            raise InvalidConfiguration(f"Packaging job: {error}") from None
        with self._locked():
            jobs = self._read_all()
            known = self._of_token(jobs, job, name)
            if known:
                return known, False
            if any(other.name == job.name for other in jobs):
                raise InvalidConfiguration(
                    f"There is a packaging job {job.name} already; choose another --job-name."
                )
            self._write(job)
        return job, True

    def advance(self, job: Job, status: Status, message: str = "") -> Job:
        """Record the job's new status."""
        with self._locked():
            return self._advance(job, status, message)

    def list(self) -> List[Job]:
        """Return every job, the newest first; one whose process has ended is FAILED by now."""
        with self._locked():
            return self._read_all()

    def page(self, size: int = PAGE, token: Optional[str] = None) -> Tuple[List[Job], str]:
        """Return at most `size` jobs and the token of the next page, empty when there is none.

        Raises InvalidConfiguration for another size than 1 to PAGE, and a token of nothing here.
        """
        if not 1 <= size <= PAGE:
            raise InvalidConfiguration(f"A page has 1 to {PAGE} jobs, not {size}.")
        jobs, first = self.list(), 0
        if token:
            tokens = [_page_token(job) for job in jobs]
            if token not in tokens:
                raise InvalidConfiguration(
                    "The next token matches no job here; list again from the start."
                )
            first = tokens.index(token) + 1
        page = jobs[first : first + size]
        return page, _page_token(page[-1]) if jobs[first + size :] else ""

    def find(self, name: str) -> Job:
        """Return a job. Raises InvalidConfiguration when there is none of that name."""
        for job in self.list():
            if job.name == name:
                return job
        raise InvalidConfiguration(f"There is no packaging job {name!r} in {self._folder}.")

    def _of_token(self, jobs: List[Job], job: Job, name: Optional[str]) -> Optional[Job]:
        for known in jobs:
            if job.token and known.token == job.token:
                if job.created - known.created >= TOKEN_VALID_S:
                    continue
                if known.request != job.request or name not in (None, known.name):
                    raise InvalidConfiguration(
                        f"The client token {job.token} belongs to job {known.name}, which had "
                        "other parameters. Use another token; this one is free again after 8 hours."
                    )
                return known
        return None

    def _read_all(self) -> List[Job]:
        jobs = []
        for path in self._folder.glob("*.json"):
            try:
                job = read_json(Job, path.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                log.warning("%s isn't a packaging job: %s", path, error)
                continue
            if job.status in UNDER_WAY and not is_alive(job.process):
                shutil.rmtree(staging(job), ignore_errors=True)
                job = self._advance(job, "FAILED", "The process that ran the job has ended.")
            jobs.append(job)
        return sorted(jobs, key=lambda job: (job.created, job.name), reverse=True)

    def _advance(self, job: Job, status: Status, message: str) -> Job:
        message = message.encode("utf-8", "backslashreplace").decode()  # it may name any file
        changes = {"status": status, "message": message, "updated": self._now()}
        job = job.model_copy(update=changes)
        self._write(job)
        return job

    def _write(self, job: Job) -> None:
        content = job.model_dump_json(indent=2) + "\n"
        write_atomically(self._folder / f"{job.name}.json", content.encode(), mode=0o666)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder against other commands; the lock goes with the process."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / ".lock").open("w")
        except OSError as error:
            raise InvalidConfiguration(
                f"The folder of jobs {self._folder} can't be used: {error.strerror}. "
                "Name another with --jobs-folder."
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _is_utf8(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the name of a file that holds other bytes
        return False
    return True


def _page_token(job: Job) -> str:
    """Name the job after which a page begins, in the API's characters."""
    return base64.b64encode(job.name.encode()).decode()


def process_name() -> str:
    """Name this process as no other is named, before or after a restart of the machine."""
    return _name_of(str(os.getpid()))


def is_alive(named: str) -> bool:
    """Whether the process that got this name has not ended."""
    return _name_of(named.partition(" ")[0]) == named


def _name_of(number: str) -> str:
    """Return number, time of start in ticks since boot, and which boot; empty when it is gone."""
    try:
        # After the command, which may hold anything, come the state (3rd field) and the rest.
        fields = (PROC / number / "stat").read_text().rpartition(")")[2].split()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{number} {fields[19]} {boot}"
