"""The fake nucleus's operations that only classic has: updates that wait, component metrics."""

from __future__ import annotations

import re
import threading
import time
from typing import Any, Dict, List, Optional

from tests.fakes.nucleus.streams import Refused, Streams

CLASSIC_ONLY = {"SubscribeToComponentUpdates", "DeferComponentUpdate", "PutComponentMetric"}
UPDATES = "SubscribeToComponentUpdates"


class Deployment:
    """A deployment that changes components: whom it asked when, what it heard."""

    def __init__(self, id_: Optional[str]) -> None:
        self.id = id_
        self.asked_at: List[float] = []  # monotonic, s
        self.answers: List[int] = []  # recheckAfterMs
        self.went_at = 0.0
        self.went = threading.Event()
        self.open = 0  # so many may answer yet


class Updates(Streams):
    """Asks before components change, and sums up metrics."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.metrics: List[Dict[str, float]] = []  # as they came, by name
        self.busy = False  # takes no metrics at present
        self.stopping = threading.Event()
        self._deployments: List[Deployment] = []
        self._deploying: List[threading.Thread] = []

    def deploy(self, id_: Optional[str], timeout_s: float = 60.0) -> Deployment:
        """Begin a deployment; it goes ahead when all agree, or after the policy's timeout."""
        deployment = Deployment(id_)
        self._deployments.append(deployment)
        self._deploying.append(threading.Thread(target=self._deploy, args=(deployment, timeout_s)))
        self._deploying[-1].start()
        return deployment

    def join_deployments(self) -> None:
        """Give up what waits."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()
        while self._deploying:
            self._deploying.pop().join()

    def _deploy(self, deployment: Deployment, timeout_s: float) -> None:
        while self._ask(deployment, timeout_s) and not self.stopping.is_set():
            pass
        deployment.went_at = time.monotonic()
        deployment.went.set()
        self._tell_updates(postUpdateEvent={"deploymentId": deployment.id})

    def _ask(self, deployment: Deployment, timeout_s: float) -> bool:
        """Ask all, and wait for as long as the most patient wants; False: go ahead."""
        heard = len(deployment.answers)
        with self._changed:
            deployment.open = len(self._subscribed(UPDATES))
            deployment.asked_at.append(time.monotonic())
        asked: Dict[str, Any] = {"isGgcRestarting": False}
        if deployment.id is not None:
            asked["deploymentId"] = deployment.id
        self._tell_updates(preUpdateEvent=asked)
        with self._changed:
            self._changed.wait_for(lambda: not deployment.open or self.stopping.is_set(), timeout_s)
            deployment.open = 0
            recheck_after_ms = max(deployment.answers[heard:], default=0)
        self.stopping.wait(recheck_after_ms / 1000)
        return recheck_after_ms > 0

    def _tell_updates(self, **event: Any) -> None:
        for listener in self._subscribed(UPDATES):
            listener.event("ComponentUpdatePolicyEvents", **event)

    def _SubscribeToComponentUpdates(self, request: Any) -> None:  # noqa: N802
        assert request == {}

    def _DeferComponentUpdate(self, request: Any) -> None:  # noqa: N802
        if not self._subscribed(UPDATES) or request.get("deploymentId") is None:
            raise Refused("InvalidArgumentsError")
        waiting = [one for one in self._deployments if one.id == request["deploymentId"]]
        if not waiting or not waiting[-1].open:
            raise Refused("ServiceError")  # too late
        waiting[-1].open -= 1
        waiting[-1].answers.append(request["recheckAfterMs"])

    def _PutComponentMetric(self, request: Any) -> None:  # noqa: N802
        if not re.match(r"aws\.", self.component):
            raise Refused("UnauthorizedError")
        if self.busy:
            raise Refused("ServiceError")
        for metric in request["metrics"]:
            if len(metric["name"].encode()) > 32 or metric["value"] < 0:
                raise Refused("InvalidArgumentsError")
            self._permit(metric["name"])
        if not request["metrics"]:
            raise Refused("InvalidArgumentsError")
        self.metrics.append({metric["name"]: metric["value"] for metric in request["metrics"]})
