"""One served model: what is deployed is reconciled with what serves, in one thread.

Desired: the registration and the settings in force, and whether the model was started. Actual: the
state, what is loaded, and the attempts under way to load something else. Requests of other threads
and everything that slow work comes to are events in one queue; after each event the two are
compared, and attempts are begun or cancelled. Nothing slow happens in that thread.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage, ModelNotFound, WrongModelState
from edge_agent.runtime.engines.build import BuildProgress
from edge_agent.runtime.engines.supply import Candidate, EngineSupply
from edge_agent.runtime.models.engine_upgrade import EngineUpgrade
from edge_agent.runtime.models.event_thread import EventThread, ThreadEnded
from edge_agent.runtime.models.load_attempt import (
    BuildReport,
    Goal,
    LoadAttempt,
    Purpose,
    SettingsInForce,
)
from edge_agent.runtime.models.loaded_model import LoadedModel, check_memory
from edge_agent.runtime.models.state import ModelEvent, ModelStateMachine, reason
from edge_agent.runtime.models.thresholds import with_settings
from edge_agent.runtime.models.unit_supervisor import UnitSupervisor
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0  # the progress of a build

T = TypeVar("T")


@dataclass(frozen=True)
class _InService:
    """What is there for a model that serves, and ends with it."""

    loaded: LoadedModel
    units: UnitSupervisor
    upgrade: EngineUpgrade


@dataclass(frozen=True)
class _Refusal:
    """A package that doesn't take over from the one that serves, and why."""

    registration: Registration
    settings: SettingsInForce
    why: str
    is_final: bool  # nothing but another package helps

    def holds(self, registration: Registration, settings: SettingsInForce) -> bool:
        """Whether loading the registration would be refused again."""
        if self.is_final:
            return registration.is_same_package(self.registration)
        return (registration, settings) == (self.registration, self.settings)


class ServedModel:
    """A deployed model. Its methods may be called on any thread; `on_change` gets every change."""

    def __init__(
        self,
        registration: Registration,
        models: ModelsSettings,
        engine: EngineSettings,
        supply: EngineSupply,
        on_change: Callable[[ModelInfo], None],
    ) -> None:
        self.registration = registration  # the one in force
        self._models, self._engine, self._supply = models, engine, supply
        self._state = ModelStateMachine(registration.name, lambda: self.registration, on_change)
        self._in_service: Optional[_InService] = None
        self._attempts: Dict[Purpose, LoadAttempt] = {}
        self._refusal: Optional[_Refusal] = None
        self._refused_decision: Optional[Tuple[Registration, str]] = None
        self._is_resumed = False  # it ran when it was last here
        self._is_retired = False
        self._is_supervision_due = False
        self._events = EventThread(self._reconcile)

    @property
    def name(self) -> str:
        """The name clients call it by."""
        return self.registration.name

    @property
    def note(self) -> str:
        """Why what stands on disk now isn't served; empty when it is."""
        return self.registration.note

    def is_changing_package(self) -> bool:
        """Return whether another package is being loaded while one serves."""
        return self._ask(lambda: self._in_service is not None and Purpose.SERVE in self._attempts)

    def info(self) -> ModelInfo:
        """Return what Describe returns."""
        return self._state.info()

    def serving(self) -> LoadedModel:
        """Return the version that answers frames. Raises WrongModelState unless RUNNING."""
        return self._state.current()

    def start(self) -> ModelInfo:
        """Begin to load and return at once. Raises WrongModelState, OutOfMemory."""
        return self._ask(self._on_start)

    def autostart(self) -> None:
        """Begin to load; when that can't be, log why."""
        self._ask(self._on_autostart)

    def resume(self) -> None:
        """Begin to load as `autostart` does, because it ran when it was last here."""
        self._is_resumed = True
        self.autostart()

    def stop(self) -> ModelInfo:
        """Refuse new calls, finish those in flight, free. Raises WrongModelState unless RUNNING."""
        return self._ask(self._on_stop).result()

    def register(self, registration: Registration) -> None:
        """Put a registration into force.

        A decision holds from the next batch on; another package serves when it is warm, and isn't
        loaded again once it was refused.
        """
        self._ask(partial(self._on_registration, registration))

    def decide(self, registration: Registration) -> None:
        """Put another decision of the registered package into force; nothing is started."""
        self._ask(partial(self._on_decision, registration))

    def check_decision(self, registration: Registration) -> None:
        """Raise WrongModelState or InvalidPackage when what serves couldn't apply it at once."""
        loaded = self._state.loaded
        if loaded is None:
            return
        if not registration.is_same_package(loaded.registration):
            raise WrongModelState(
                f"Model {self.name!r} is about to change to another package. Set the threshold "
                f"after that. {self.info().message}"
            )
        registration.apply(loaded.packaged)

    def use_settings(self, models: ModelsSettings, engine: EngineSettings) -> None:
        """Put other settings into force; running models apply them without being loaded again."""
        self._ask(partial(self._on_settings, models, engine))

    def supervise(self) -> None:
        """Supervise the inference units and the engine, soon."""
        if not self._is_supervision_due:
            self._is_supervision_due = True
            self._events.post(self._on_supervision)

    def retire(self) -> None:
        """Stop and free the model in any state; nothing is reported about it any more."""
        self._state.stop_publishing()
        self._events.post(self._on_retirement)

    def join(self, within_s: float) -> bool:
        """Wait until a retired model is freed; return whether it is."""
        return self._events.join(within_s)

    def _ask(self, event: Callable[[], T]) -> T:
        try:
            return self._events.ask(event)
        except ThreadEnded:
            raise self._removed() from None

    def _removed(self) -> ModelNotFound:
        return ModelNotFound(f"Model {self.name!r} was removed from this device.")

    # The events. From here on everything happens in the model's thread.

    def _on_start(self) -> ModelInfo:
        if self._is_retired:
            raise self._removed()
        self._state.check_start()
        check_memory(self.registration, self._models)
        self._refusal = None
        self._state.move(ModelEvent.START, "Loading.")
        return self.info()

    def _on_autostart(self) -> None:
        try:
            self._on_start()
        except EdgeAgentError as error:
            log.error("Model %s can't be started automatically: %s", self.name, error)  # noqa: TRY400

    def _on_stop(self) -> Future[ModelInfo]:
        loaded = self._state.current("stopped")
        self._is_resumed = False
        self._abandon_all()
        self._in_service = None
        self._state.move(ModelEvent.STOP, "Waiting for calls in flight.")
        stopped: Future[ModelInfo] = Future()
        self._events.start_job(
            lambda: loaded.close(self._models.drain_within_s), partial(self._on_freed, stopped)
        )
        return stopped

    def _on_freed(self, stopped: Future[ModelInfo], closed: Future[bool]) -> None:
        if self._is_closed(closed) and not closed.result():
            log.warning("Model %s was stopped with calls in flight.", self.name)
        self._state.move(ModelEvent.FREED, "")
        stopped.set_result(self.info())

    def _on_registration(self, registration: Registration) -> None:
        before, self.registration = self.registration, registration
        state = self._state.state
        begins = state is ModelState.STOPPED and not before.autostart
        starts = registration.autostart and begins
        is_tried_again = registration.autostart or self._is_resumed
        if registration != before and (starts or (is_tried_again and state is ModelState.FAILED)):
            self._on_autostart()

    def _on_decision(self, registration: Registration) -> None:
        self.registration = registration

    def _on_settings(self, models: ModelsSettings, engine: EngineSettings) -> None:
        self._models, self._engine = models, engine

    def _on_supervision(self) -> None:
        self._is_supervision_due = False
        if self._in_service is not None:
            self._in_service.units.supervise(self._models, self._engine)

    def _on_retirement(self) -> None:
        self._is_retired = True
        self._abandon_all()
        with suppress(WrongModelState):  # it does not run
            self._on_stop()
        self._events.end()

    def _on_progress(
        self, attempt: LoadAttempt, candidate: Candidate, progress: Optional[BuildProgress]
    ) -> None:
        report = BuildReport.of(candidate, progress)
        logged_at = attempt.build.logged_at if attempt.build else report.logged_at
        if progress is not None and time.monotonic() - logged_at >= LOG_EVERY_S:
            logged_at = time.monotonic()
            log.info("Model %s: %s", self.name, report.text)
        attempt.build = replace(report, logged_at=logged_at)

    def _on_attempt_ended(self, attempt: LoadAttempt, outcome: Future[LoadedModel]) -> None:
        goal, error = attempt.goal, outcome.exception()
        is_current = self._attempts.get(goal.purpose) is attempt
        if is_current:
            del self._attempts[goal.purpose]
        if error is None:
            new = outcome.result()
            if is_current and self._is_of_use(goal):
                self._serve(new)
            else:
                self._free(new)
        elif is_current:
            self._has_failed(attempt, error)

    # Reconciling.

    def _reconcile(self) -> Optional[float]:
        """Begin and cancel attempts as is wanted now; return when to do so again."""
        in_service = self._in_service
        if in_service is not None:
            in_service.loaded.limit_units(self._engine)
            self._apply_decision(in_service.loaded)
        self._cancel_unwanted()
        for goal in self._goals():
            if goal.purpose not in self._attempts:
                self._begin(goal)
        self._report()
        is_waiting = in_service is not None and Purpose.FALL_BACK not in self._attempts
        return in_service.upgrade.retry_in_s() if in_service and is_waiting else None

    def _goals(self) -> Iterator[Goal]:
        """Yield what is to be loaded now.

        STARTING   always                                               SERVE what is registered
        RUNNING    another package is registered, and was not refused   SERVE what is registered
        RUNNING    a better engine could be built                       UPGRADE to it
        RUNNING    the engine failed, and the pause is over             FALL_BACK to another one
        """
        in_service = self._in_service
        if self._is_retired:
            return
        if in_service is not None:
            if not self._is_in_force(in_service.loaded.registration) and not self._is_refused():
                yield Goal(Purpose.SERVE, self.registration)
            yield from in_service.upgrade.goals()
        elif self._state.state is ModelState.STARTING:
            yield Goal(Purpose.SERVE, self.registration)

    def _is_refused(self) -> bool:
        settings = self._models, self._engine
        return self._refusal is not None and self._refusal.holds(self.registration, settings)

    def _begin(self, goal: Goal) -> None:
        attempt = LoadAttempt(
            goal,
            lambda: (self._models, self._engine),
            self._supply,
            lambda *progress: self._events.post(partial(self._on_progress, attempt, *progress)),
        )
        self._attempts[goal.purpose] = attempt
        self._events.start_job(attempt.run, partial(self._on_attempt_ended, attempt))

    def _cancel_unwanted(self) -> None:
        """Abandon attempts for what doesn't serve any more; end builds for a former package.

        A package that is being loaded already may still serve until the one in force does.
        """
        for purpose, attempt in list(self._attempts.items()):
            goal = attempt.goal
            if goal.replaces is None:
                if not self._is_in_force(goal.registration):
                    attempt.cancel()
            elif goal.replaces is not self._state.loaded:
                self._abandon(purpose)

    def _abandon(self, purpose: Purpose) -> None:
        """Cancel the attempt; what it still loads is freed at once."""
        self._attempts.pop(purpose).cancel()

    def _abandon_all(self) -> None:
        for purpose in list(self._attempts):
            self._abandon(purpose)

    def _is_in_force(self, registration: Registration) -> bool:
        return registration.is_same_package(self.registration)

    def _is_of_use(self, goal: Goal) -> bool:
        """Whether what was loaded serves; of a former package, when nothing else does."""
        if goal.replaces is not None:
            return goal.replaces is self._state.loaded
        return self._state.loaded is None or self._is_in_force(goal.registration)

    def _serve(self, new: LoadedModel) -> None:
        """Let `new` answer frames from now on, and free what did before."""
        old = self._in_service
        self._in_service = _InService(
            new, UnitSupervisor(self.name, new, self._events), EngineUpgrade(self.name, new)
        )
        self._refused_decision = None
        if old is None:
            self._state.move(ModelEvent.LOADED, new.summary, new)
            return
        old.upgrade.remark_on(new)
        self._state.replace_loaded(new)
        self._free(old.loaded)

    def _free(self, loaded: LoadedModel) -> None:
        self._events.start_job(lambda: loaded.close(self._models.drain_within_s), self._is_closed)

    def _is_closed(self, closed: Future[bool]) -> bool:
        """Return whether a loaded model was freed; log why not."""
        error = closed.exception()
        if error is not None:
            log.error("A version of model %s couldn't be freed.", self.name, exc_info=error)
        return error is None

    def _has_failed(self, attempt: LoadAttempt, error: BaseException) -> None:
        goal, in_service = attempt.goal, self._in_service
        if goal.purpose is not Purpose.SERVE:
            if in_service is not None:
                in_service.upgrade.attempt_failed(goal.purpose, error)
            return
        if not isinstance(error, EdgeAgentError):
            log.error("Model %s can't be loaded.", self.name, exc_info=error)
        if attempt.is_cancelled:  # it says nothing of the package, which may be wanted again
            log.warning("Model %s was replaced while it was loaded: %s", self.name, error)
        elif in_service is None and goal.registration == self.registration:
            self._state.move(ModelEvent.LOAD_FAILED, reason(error))
        elif in_service is not None and self._is_in_force(goal.registration):
            log.error(
                "Model %s keeps its version; the new one can't be loaded: %s", self.name, error
            )
            self._refusal = _Refusal(
                goal.registration, attempt.settings, reason(error), attempt.is_checked
            )
        else:
            log.warning("Model %s was replaced while it was loaded: %s", self.name, error)

    def _apply_decision(self, loaded: LoadedModel) -> None:
        """Judge by the decision in force, without loading anything.

        While another package is loaded or refused, a threshold of the settings holds all the same.
        """
        target = self.registration
        if self._is_in_force(loaded.registration):
            self._refusal = None
        else:
            target = with_settings(loaded.registration, self._models)
        if target == loaded.registration:
            self._refused_decision = None
        elif self._refused_decision is None or self._refused_decision[0] != target:
            self._decide(target, loaded)

    def _decide(self, target: Registration, loaded: LoadedModel) -> None:
        try:
            changes = loaded.decide(target)
        except InvalidPackage as error:
            log.error("Model %s keeps its decision: %s", self.name, error)  # noqa: TRY400
            self._refused_decision = target, str(error)
            return
        self._refused_decision = None
        if changes:
            log.info(
                "Model %s uses the new decision: %s, set by %s.",
                self.name, changes, target.decided_by,
            )  # fmt: skip

    # What is reported.

    def _report(self) -> None:
        build = next(filter(None, (each.build for each in self._attempts.values())), None)
        state = build.state if build else None
        if self._in_service is not None:
            self._state.report(" ".join(self._sentences(self._in_service, build)), state)
        elif self._state.state is ModelState.STARTING:
            self._state.report(build.text if build else "Loading.", state)
        else:
            self._state.report(self._state.message, None)

    def _sentences(self, in_service: _InService, build: Optional[BuildReport]) -> List[str]:
        sentences = [in_service.loaded.summary, build.text if build else ""]
        if self._refused_decision is not None:
            sentences.append(f"A changed decision was refused: {self._refused_decision[1]}")
        if self._refusal is not None and self._is_refused():
            sentences.append(f"A newer package was refused: {self._refusal.why}")
        sentences += [in_service.upgrade.note, in_service.units.note]
        return list(filter(None, sentences))
