"""A deployment, followed until every device of its target has ended it.

A thing gets it by its shadow and tells of it in its effective deployments; a group gets it by an
IoT job, whose executions are asked a page at a time, however many devices there are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, List

from edge_agent.packaging.aws.outcome import Outcome, looks
from edge_agent.packaging.aws.publish import GREENGRASS
from edge_agent.packaging.aws.refusals import sentences
from edge_agent.packaging.aws.session import Aws

GOOD = ("SUCCEEDED", "COMPLETED")
UNDER_WAY = ("QUEUED", "IN_PROGRESS")
SILENT = "without an answer"
LEFT = "REMOVED"  # from the group, meanwhile
TOLD = 5  # devices named in a sentence

Say = Callable[[str], None]


def follow(aws: Aws, target: str, created: Dict[str, Any], wait_s: float, say: Say) -> Outcome:
    """Wait for the end of `created`, the answer of create_deployment for the ARN `target`.

    `say` is told what changes meanwhile. Raises InvalidRequest.
    """
    kind, _, name = target.split(":", 5)[5].partition("/")  # a thing's name may have colons
    watch: Any = _Thing if kind == "thing" else _Group
    watched = watch(aws, name, created)
    told = ""
    for _ in looks(wait_s):
        with sentences(GREENGRASS):
            now = watched.look()
        if now != told:
            say(now)
            told = now
        if watched.ended:
            return Outcome(watched.good, watched.sentence())
    return Outcome(
        False,
        f"Not ended after {wait_s:g} s: {told}. The deployment {created['deploymentId']} goes on; "
        "a longer --wait-s follows it longer.",
    )


class _Thing:
    """The one device of a deployment to a thing."""

    def __init__(self, aws: Aws, name: str, created: Dict[str, Any]) -> None:
        self._aws, self._name, self._id = aws, name, created["deploymentId"]
        self._state: Dict[str, Any] = {}

    def look(self) -> str:
        self._state = execution(self._aws, self._name, self._id)
        return f"{self._name} is {self._status}"

    @property
    def _status(self) -> str:
        return str(self._state.get("coreDeviceExecutionStatus", SILENT))

    @property
    def ended(self) -> bool:
        return self._status not in (*UNDER_WAY, SILENT)

    @property
    def good(self) -> bool:
        return self._status in GOOD

    def sentence(self) -> str:
        return f"{self._name} {self._status}{_why(self._state)}"


class _Group:
    """The devices that were in a thing group, and in the groups below it, when it began."""

    def __init__(self, aws: Aws, name: str, created: Dict[str, Any]) -> None:
        self._aws, self._id, self._job = aws, created["deploymentId"], created.get("iotJobId", "")
        with sentences("AWS IoT"):
            pages = aws.iot.get_paginator("list_things_in_thing_group").paginate(
                thingGroupName=name, recursive=True
            )
            self._things: List[str] = [thing for page in pages for thing in page["things"]]
        self._states: Dict[str, str] = {}
        self._status = ""

    def look(self) -> str:
        self._status = self._aws.greengrass.get_deployment(deploymentId=self._id).get(
            "deploymentStatus", ""
        )
        known = self._executions()
        states = {name: known.get(name, SILENT) for name in self._things}
        self._states = {name: state for name, state in states.items() if state != LEFT}
        counts = Counter(self._states.values())
        devices = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        return f"{len(self._states)} devices ({devices or 'none'})"

    def _executions(self) -> Dict[str, str]:
        pages = self._aws.iot.get_paginator("list_job_executions_for_job").paginate(jobId=self._job)
        return {
            found["thingArn"].partition(":thing/")[2]: found["jobExecutionSummary"]["status"]
            for page in pages
            for found in page["executionSummaries"]
        }

    @property
    def ended(self) -> bool:
        waiting = any(state in (*UNDER_WAY, SILENT) for state in self._states.values())
        return not waiting or self._stopped

    @property
    def _stopped(self) -> bool:
        """Whether it was cancelled, by hand, by --stop-when or by a newer one."""
        return self._status in ("CANCELED", "FAILED", "INACTIVE")

    @property
    def good(self) -> bool:
        return not self._stopped and not self._bad()

    def _bad(self) -> List[str]:
        return [name for name, state in sorted(self._states.items()) if state not in GOOD]

    def sentence(self) -> str:
        if not self._states:
            return "The group has no devices; those that join it get the deployment."
        bad = self._bad()
        words = [f"{len(self._states) - len(bad)} of {len(self._states)} devices SUCCEEDED"]
        if self._stopped:
            words.append(f"the deployment is {self._status}")
        words += [f"{name} {self._states[name]}{self._reason(name)}" for name in bad[:TOLD]]
        if len(bad) > TOLD:
            words.append(f"and {len(bad) - TOLD} more")
        return "; ".join(words)

    def _reason(self, name: str) -> str:
        with sentences(GREENGRASS):
            return _why(execution(self._aws, name, self._id))


def execution(aws: Aws, thing: str, deployment_id: str) -> Dict[str, Any]:
    """Return what a core device tells of a deployment (EffectiveDeployment); empty if nothing."""
    client = aws.greengrass
    pages = client.get_paginator("list_effective_deployments").paginate(coreDeviceThingName=thing)
    try:
        for page in pages:
            for found in page["effectiveDeployments"]:
                if found["deploymentId"] == deployment_id:
                    return dict(found)
    except client.exceptions.ResourceNotFoundException:
        pass  # it has never called home
    return {}


def _why(state: Dict[str, Any]) -> str:
    """Say what the device tells about the end, most general error first."""
    stack = state.get("statusDetails", {}).get("errorStack", [])
    reasons = list(filter(None, [state.get("reason", ""), " > ".join(stack)]))
    return f": {' · '.join(reasons)}" if reasons else ""
