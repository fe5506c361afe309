"""Composition root: builds the rooms, starts them in order, stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from queue import Empty, SimpleQueue
from typing import Mapping, Optional, Union

from edge_agent import __version__
from edge_agent.config import Settings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.batching import batcher
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.host.component import GreengrassComponent
from edge_agent.runtime.host.nucleus import EXIT_STATUS
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.models import event_thread
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.packages.background_scan import BackgroundScan
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.highest_versions import VERSIONS_FILE
from edge_agent.runtime.remote.remote_commands import RemoteCommands
from edge_agent.runtime.results.pipeline import ResultsPipeline
from edge_agent.runtime.rpc.server import Server
from edge_agent.runtime.settings_reload import SettingsReload
from edge_agent.runtime.system import descriptors, memory, segment_owner, stalls, tcp
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.camera_problem_rule import CameraProblemRule
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.runtime.vision.grey_band_rule import GreyBandRule
from edge_agent.runtime.vision.segment_access import SegmentAccess
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)

ENGINE_THREADS = (batcher.THREAD_NAME, event_thread.THREAD_NAME)
FREE_WITHIN_S = 0.5
STORE_WITHIN_S = 0.5
SCAN_WITHIN_S = 5.0
DECISIONS_FILE = "decisions.json"
RUNNING_FILE = "running.json"

AgentEvent = Union[int, Settings]  # stop with this exit status; apply these settings


def run(settings: Settings, component: Optional[GreengrassComponent] = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the nucleus refuses it; returns the exit status.

    Raises InvalidConfiguration when it can't begin, as `component` also not with the settings of
    its last good start.
    """
    memory.keep_heap()
    preprocess.use_one_thread()  # inference units are the parallelism; more would fight them
    events: SimpleQueue[AgentEvent] = (
        SimpleQueue()
    )  # its put may interrupt any line, its own as well
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: events.put(0))
    stalls.WATCH.start()
    try:
        agent = _begin(settings, events, component)
    except InvalidConfiguration as error:
        if component is None:
            raise
        agent = _begin(component.fall_back(error), events, component)
    status = agent.serve()
    agent.stop()
    if any(thread.name in ENGINE_THREADS for thread in threading.enumerate()):
        # An engine is still loading or computing; tearing the interpreter down under it may crash.
        logging.shutdown()
        os._exit(status)
    return status


def _begin(
    settings: Settings, events: SimpleQueue[AgentEvent], component: Optional[GreengrassComponent]
) -> _Agent:
    """Build and start the agent; one that can't start leaves nothing behind."""
    agent = _Agent(settings, events, component)
    try:
        agent.start()
    except InvalidConfiguration:
        agent.give_up()
        raise
    return agent


class _Agent:
    """The rooms, and the main thread's work between `start` and `stop`."""

    def __init__(
        self,
        settings: Settings,
        events: SimpleQueue[AgentEvent],
        component: Optional[GreengrassComponent],
    ) -> None:
        self._settings, self._events, self._component = settings, events, component
        self._most_descriptors = descriptors.raise_limit()
        self._access = SegmentAccess(
            settings.server.shared_memory_over_tcp, settings.server.segment_access == "any"
        )
        self._frames = FrameReader(self._access)
        folder = settings.results.folder
        self._metrics = Metrics()
        nucleus = component.nucleus if component else None
        # First, because it closes the folder to other users, who could write the versions.
        self._room = ResultsPipeline(
            settings.results, self._metrics, self._stop_with_error, nucleus, self._problems
        )
        try:
            self._store = Store(settings.models, folder / VERSIONS_FILE if folder else None)
        except InvalidConfiguration:
            self._room.close(STORE_WITHIN_S)
            raise
        self._scan = BackgroundScan(self._store.scan)
        self._registry = Registry(
            settings.models,
            settings.engine,
            on_change=self._publish_state,
            on_gone=self._forget,
            decisions=folder / DECISIONS_FILE if folder else None,
            running=folder / RUNNING_FILE if folder and settings.models.resume else None,
        )
        self._reload = SettingsReload(settings, self._registry, self._room)
        detector = Detector(
            self._registry,
            self._frames,
            self._room.recorder.observe,
            CameraProblemRule(settings.decision.camera_problem),
            GreyBandRule(settings.decision.unsure),
        )
        if settings.results.commands.allow:
            commands = RemoteCommands(detector, settings.results.commands, self._room.last_capture)
            self._room.serve_commands(commands.answer)
        self._server = Server(settings.server, detector, self._metrics)

    def start(self) -> None:
        """Listen → find the models → results → answer calls → report to the nucleus."""
        addresses = self._server.listen()
        self._access.group = self._settings.server.socket_path.lstat().st_gid
        if self._settings.server.metrics is not None:
            addresses.append(_serve_metrics(self._metrics, self._settings.server.metrics))
        self._sync_models()  # before the first call, which must not find a model missing
        self._room.start()
        self._server.start()
        if self._component is not None:
            self._component.when_lost(self._stop_with_error)
            figures = self._metrics
            self._component.serve(self._events.put, figures.quiet_for_s, figures.totals)
        log.info("Edge agent %s listens on %s.", __version__, ", ".join(addresses))
        self._log_models()

    def _log_models(self) -> None:
        names = [info.name for info in self._registry.list()]
        log.info("Models that can be used: %s.", ", ".join(names) or "none")
        models = self._settings.models
        if models.folder is None and models.records is None:
            log.warning(
                "No model can ever be used: neither models.folder nor models.records is set. Name "
                "the folder of your model packages: edge-agent serve --models FOLDER"
            )

    def serve(self) -> int:
        """Supervise everything until a stop is requested; returns the exit status."""
        while not isinstance(event := self._next_event(), int):
            if event is not None:
                self._apply(event)
            self._frames.sweep()
            segment_owner.sweep()
            self._sync_models()
            self._maintain_results()
        return event

    def stop(self) -> None:
        """No new calls, those in flight finish → engines → results."""
        log.info("Stopping: new calls are refused, calls in progress may finish.")
        self._server.stop(self._settings.server.stop_within_s)
        self.close()
        log.info("Stopped.")

    def give_up(self) -> None:
        """Free everything, in place of `serve` and `stop`."""
        self._server.close()
        self.close()

    def close(self) -> None:
        """Free everything but the addresses."""
        self._registry.close(FREE_WITHIN_S)
        self._room.close(STORE_WITHIN_S)

    def _next_event(self) -> Optional[AgentEvent]:
        """Return the next event, None when it is time for the regular work."""
        try:
            return self._events.get(timeout=self._settings.models.rescan_every_s)
        except Empty:
            return None

    def _sync_models(self) -> None:
        """Apply what is deployed now."""
        try:
            found = self._scan.look(SCAN_WITHIN_S)
            if found is not None:
                self._registry.sync(found)
            self._registry.supervise()
            faults = [(each.model, each.path) for each in self._store.findings if each.is_fault]
            folder = self._settings.models.folder or self._settings.models.records
            if self._scan.is_late and folder is not None:
                faults.append(("", folder))
            self._metrics.has_faults([*faults, *self._registry.package_faults().items()])
        except Exception:
            log.exception("The models couldn't be checked. The agent tries again.")

    def _maintain_results(self) -> None:
        try:
            for part, problem in self._problems().items():
                self._metrics.has_problem(part, bool(problem))
            self._room.publish_due()
            self._metrics.has_descriptors(descriptors.in_use(), self._most_descriptors)
            self._metrics.has_calls(*self._server.calls())
        except Exception:
            log.exception("The results couldn't be checked. The agent tries again.")

    def _problems(self) -> Mapping[str, str]:
        """Return what is wrong with the agent itself, a sentence by part; "": nothing."""
        return self._component.problems if self._component else {}

    def _apply(self, settings: Settings) -> None:
        try:
            waiting = self._reload.apply(settings)
        except Exception:
            log.exception("Not all new settings could be applied.")
            return
        self._store.remove_after_s = self._reload.in_force.models.remove_after_s
        if waiting:
            log.warning(
                "These settings are applied at the next restart of the agent: %s.",
                ", ".join(waiting),
            )
        elif self._component is not None:
            self._component.in_force(settings)

    def _publish_state(self, info: ModelInfo) -> None:
        self._server.show(info)
        units = info.inference_units, info.desired_units, info.least_units, info.most_units
        self._metrics.has_units(info.name, *units)
        self._metrics.runs_on(info.name, info.engine, info.build)

    def _forget(self, name: str) -> None:
        self._server.forget(name)
        self._metrics.forget(name)
        self._room.forget(name)

    def _stop_with_error(self, why: str) -> None:
        log.error("%s", why)
        self._events.put(EXIT_STATUS)


def _serve_metrics(metrics: Metrics, address: str) -> str:
    try:
        tcp.free_addresses(address)
        metrics.serve(*tcp.split(address))
    except (InvalidConfiguration, OSError) as error:
        raise InvalidConfiguration(f"server.metrics: {error}") from None
    return f"http://{address}/metrics"
