"""Faults injected on purpose: each must end in a sentence, and the next call be answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Tuple

import numpy as np

from edge_agent.errors import AgentUnavailable, EdgeAgentError, ModelError
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Skipped
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.gpu_worker import GpuWorker
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding
from edge_agent.runtime.backends.trt import TrtBackend
from edge_agent.runtime.engines.cache import EngineCache

WORKER = "edge_agent.runtime.backends.trt_worker"
FAULTY = "edge_agent.gpu_check.faulty_worker"
FULL_MEMORY = "edge_agent.gpu_check.full_memory"
FAILS_WITHIN_S = 3.0  # the very next call should
RECOVERS_WITHIN_S = 60.0
FULL_MEMORY_WITHIN_S = 300.0
PAUSE_S = 0.02


def check(site: Site, report: AcceptanceReport) -> None:
    """Inject them one after the other."""
    report.check("fault: engine cut short", partial(_cut_short, site))
    report.check("fault: engine of other software", partial(_of_another, site))
    report.check("fault: illegal address", partial(_illegal_address, site))
    report.check("fault: worker killed", partial(_killed, site))
    report.check("fault: GPU memory full", partial(_full_memory, site))


def _cut_short(site: Site) -> str:
    content = site.engine.read_bytes()
    short = site.folder / "short.engine"
    short.write_bytes(content[: len(content) // 2])
    try:
        TrtBackend(short, site.manifest, BackendOptions()).close()
    except ModelError as error:
        return str(error)
    raise Failed("half an engine was loaded without an error")


def _of_another(site: Site) -> str:
    """Look in a cache for an engine that was changed on disk, and for one of another TensorRT."""
    cache = EngineCache(site.folder / "other", 1024 * MIB)
    expected = _fingerprint(site)
    copy = site.folder / "copy.engine"
    copy.write_bytes(site.engine.read_bytes())
    kept = cache.store(expected, copy, 1.0)
    newer = expected.model_copy(update={"tensorrt": "99.0"})
    why = cache.why_not(newer)
    if cache.find(newer) is not None or "99.0" not in why:
        raise Failed(f"an engine for {expected.tensorrt} was found for 99.0 ({why or 'no reason'})")
    kept.write_bytes(kept.read_bytes()[:-1])
    if cache.find(expected) is not None:
        raise Failed("an engine that was changed on disk is still found")
    return f"not used: {why}; one that was changed on disk is not used either"


def _fingerprint(site: Site) -> Fingerprint:
    return next(site.supply.candidates(site.packages[site.precision])).fingerprint


def _illegal_address(site: Site) -> str:
    trigger = site.folder / "trigger"
    with _slot(site, (sys.executable, "-m", FAULTY, str(trigger))) as (worker, slot):
        worker.run(slot, 1)
        trigger.touch()
        error = _fails(partial(worker.run, slot, 1))
        seconds = _recovers(partial(worker.run, slot, 1))
        if worker.restarts != 1:
            raise Failed(f"the worker was restarted {worker.restarts} times; expected 1")
    return f"{error} Answers again after {seconds:.1f} s"


@contextmanager
def _slot(site: Site, command: Tuple[str, ...]) -> Iterator[Tuple[GpuWorker, int]]:
    """Start a worker by `command` and open one slot in it."""
    with closing(GpuWorker(site.engine, command=command)) as worker:
        tensors = tuple(map(TensorBinding.from_json, worker.ready["tensors"]))
        layout = SlotLayout(tensors, worker.ready["max_batch"])
        memory = os.memfd_create("edge-agent-gpu-check")
        try:
            os.ftruncate(memory, layout.size)
            yield worker, worker.open_slot(memory)
        finally:
            os.close(memory)


def _killed(site: Site) -> str:
    """Kill the worker while it computes; the next answer must be the same as before."""
    with closing(site.backend()) as backend:
        batch = backend.slots()[: backend.max_batch]
        expected = {name: np.array(value) for name, value in backend.run(batch).items()}
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(_fails, lambda: backend.run(batch))
            os.kill(child(WORKER), signal.SIGKILL)
            error = failing.result()
        seconds = _recovers(lambda: backend.run(batch))
        got = backend.run(batch)
        if not all(np.allclose(got[name], value, atol=1e-3) for name, value in expected.items()):
            raise Failed("the restarted worker gives other results")
    return f"{error} Answers again after {seconds:.1f} s"


def _full_memory(site: Site) -> str:
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the machine's memory, which must not be filled")
    command = [sys.executable, "-m", FULL_MEMORY, str(site.engine)]
    ended = subprocess.run(command, capture_output=True, timeout=FULL_MEMORY_WITHIN_S, check=False)
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Failed(f"the process ended with {ended.returncode}: {''.join(last)}")
    found = json.loads(ended.stdout.decode().splitlines()[-1])
    if found["refused"] is None:
        raise Skipped(
            f"the engine fits into what was left when {found['taken'] // MIB} MiB were taken"
        )
    return f"{found['refused']} Works again when memory is free"


def _fails(call: Callable[[], object]) -> str:
    """Repeat `call` until it fails with an error that can be retried; return the sentence."""
    end = time.monotonic() + FAILS_WITHIN_S
    while time.monotonic() < end:
        try:
            call()
        except AgentUnavailable as error:
            return str(error)
    raise Failed(f"calls were still answered {FAILS_WITHIN_S:g} s after the fault")


def _recovers(call: Callable[[], object]) -> float:
    """Repeat `call` until it is answered; return after how many seconds."""
    began = time.monotonic()
    while True:
        try:
            call()
        except EdgeAgentError as error:
            if time.monotonic() - began > RECOVERS_WITHIN_S:
                raise Failed(f"no answer for {RECOVERS_WITHIN_S:g} s: {error}") from None
            time.sleep(PAUSE_S)
        else:
            return time.monotonic() - began


def child(module: str) -> int:
    """Return the id of this process's child that runs `module`."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            words = (status.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if parent == os.getpid() and module.encode() in words:
            return int(status.parent.name)
    raise Failed(f"there is no worker process ({module})")
