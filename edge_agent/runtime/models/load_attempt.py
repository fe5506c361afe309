"""One attempt to load a package, after its engine was built where only that is missing."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Callable, Optional, Tuple, Union

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import InvalidPackage
from edge_agent.runtime.engines.build import BuildProgress
from edge_agent.runtime.engines.supply import Candidate, EngineOrder, EngineSupply, ToBuild
from edge_agent.runtime.models.loaded_model import LoadedModel, check_memory, load_model
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import BuildState

SettingsInForce = Tuple[ModelsSettings, EngineSettings]
ReadSettings = Callable[[], SettingsInForce]
OnProgress = Callable[[Candidate, Optional[BuildProgress]], None]  # None: it waits for its turn


class Purpose(enum.Enum):
    """Why a package is loaded; there is one attempt at a time for each."""

    SERVE = "the deployed package is to serve"
    UPGRADE = "a better engine is to serve the same package"
    FALL_BACK = "the engine failed, and another one is to serve the same package"


@dataclass(frozen=True)
class Goal:
    """What is to be loaded. `replaces`: the model whose very package it must be; None: any.

    `accepts` says which backends are tried, by name. `to_build` is known to be missing.
    """

    purpose: Purpose
    registration: Registration
    replaces: Optional[LoadedModel] = None
    accepts: Callable[[str], bool] = lambda _name: True
    to_build: Optional[Candidate] = None


@dataclass(frozen=True)
class BuildReport:
    """An engine build as people see it."""

    text: str
    state: BuildState
    logged_at: float = -math.inf  # monotonic seconds

    @classmethod
    def of(cls, candidate: Candidate, progress: Optional[BuildProgress]) -> BuildReport:
        """Describe how far it is."""
        if progress is None:
            return cls(f"The {candidate} is going to be built.", BuildState(0.0))
        text = f"The {candidate} is being built: {progress}."
        return cls(text, BuildState(progress.fraction or 0.0, progress.remaining_s))


class LoadAttempt:
    """Loads what `goal` says: `run` in a thread of its own, `cancel` in any other."""

    def __init__(
        self, goal: Goal, read_settings: ReadSettings, supply: EngineSupply, on_progress: OnProgress
    ) -> None:
        self.goal, self.settings = goal, read_settings()  # those that it was last loaded with
        self._read_settings = read_settings
        self.build: Optional[BuildReport] = None  # for whoever reports it
        self.is_checked = False  # nothing but the package itself keeps it from being loaded
        self._supply, self._on_progress = supply, on_progress
        self._order: Optional[EngineOrder] = None
        self.is_cancelled = False

    def run(self) -> LoadedModel:
        """Return the model, warm. Raises EdgeAgentError; BuildFailed when it was cancelled."""
        if self.goal.purpose is Purpose.SERVE:
            self._check()
        missing = self.goal.to_build
        while True:
            if missing is not None:
                self._build(missing)
            found = self._load()
            if not isinstance(found, ToBuild):
                return found
            missing = found.candidate

    def cancel(self) -> None:
        """End the build, and begin none; loading can't be ended."""
        self.is_cancelled = True
        order = self._order
        if order is not None:
            order.cancel()

    def _check(self) -> None:
        registration = self.goal.registration
        registration.apply(registration.open().manifest)
        check_memory(registration, self.settings[0])
        self.is_checked = True

    def _load(self) -> Union[LoadedModel, ToBuild]:
        goal, self.settings = self.goal, self._read_settings()
        found = load_model(goal.registration, *self.settings, self._supply, goal.accepts)
        if isinstance(found, ToBuild) or goal.replaces is None:
            return found
        if found.digest != goal.replaces.digest:
            found.close(0.0)
            raise InvalidPackage("The package was replaced meanwhile; the new one is loaded next.")
        return found

    def _build(self, candidate: Candidate) -> None:
        self._on_progress(candidate, None)
        order = self._order = EngineOrder(candidate)
        if self.is_cancelled:  # before `cancel` could see the order
            order.cancel()
        self._supply.build(order, lambda progress: self._on_progress(candidate, progress))
