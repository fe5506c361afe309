"""The progress of a deployment, watched until every device of its target has ended it.

A thing gets it by its shadow and reports it in its effective deployments; a group gets it by an IoT
job, whose executions are read a page at a time, however many devices there are.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Callable, Dict, List, Union

from edge_agent.packaging.aws.session import GREENGRASS, Aws, AwsOutcome, aws_errors, polls

if TYPE_CHECKING:
    from edge_agent.packaging.aws.session import Answer

GOOD = ("SUCCEEDED", "COMPLETED")
UNDER_WAY = ("QUEUED", "IN_PROGRESS")
SILENT = "without an answer"
LEFT = "REMOVED"  # from the group, meanwhile
MOST_NAMED = 5  # devices in a sentence


def watch(
    aws: Aws, target: str, created: Answer, wait_s: float, report: Callable[[str], None]
) -> AwsOutcome:
    """Wait for the end of `created`, the answer of create_deployment for the ARN `target`.

    `report` gets each change of the state. Raises InvalidRequest.
    """
    kind, _, name = target.split(":", 5)[5].partition("/")  # a thing's name may have colons
    progress: Union[_ThingProgress, _GroupProgress] = (
        _ThingProgress(aws, name, created)
        if kind == "thing"
        else _GroupProgress(aws, name, created)
    )
    state = ""
    for _ in polls(wait_s):
        with aws_errors(GREENGRASS):
            now = progress.poll()
        if now != state:
            report(now)
            state = now
        if progress.ended:
            return AwsOutcome(progress.good, progress.sentence())
    return AwsOutcome(
        False,
        f"Not finished after {wait_s:g} s: {state}. The deployment {created['deploymentId']} goes "
        "on; a longer --wait-s waits longer.",
    )


class _ThingProgress:
    """The one device of a deployment to a thing."""

    def __init__(self, aws: Aws, name: str, created: Answer) -> None:
        self._aws, self._name, self._id = aws, name, created["deploymentId"]
        self._state: Answer = {}

    def poll(self) -> str:
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
        return f"{self._name} {self._status}{_reason(self._state)}"


class _GroupProgress:
    """The devices that were in a thing group, and in the groups below it, when it began."""

    def __init__(self, aws: Aws, name: str, created: Answer) -> None:
        self._aws, self._id, self._job = aws, created["deploymentId"], created.get("iotJobId", "")
        with aws_errors("AWS IoT"):
            pages = aws.iot.get_paginator("list_things_in_thing_group").paginate(
                thingGroupName=name, recursive=True
            )
            self._things: List[str] = [thing for page in pages for thing in page["things"]]
        self._states: Dict[str, str] = {}
        self._status = ""

    def poll(self) -> str:
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
            return "The group has no devices; devices that join it later get the deployment."
        bad = self._bad()
        words = [f"{len(self._states) - len(bad)} of {len(self._states)} devices SUCCEEDED"]
        if self._stopped:
            words.append(f"the deployment is {self._status}")
        words += [f"{name} {self._states[name]}{self._reason(name)}" for name in bad[:MOST_NAMED]]
        if len(bad) > MOST_NAMED:
            words.append(f"and {len(bad) - MOST_NAMED} more")
        return "; ".join(words)

    def _reason(self, name: str) -> str:
        with aws_errors(GREENGRASS):
            return _reason(execution(self._aws, name, self._id))


def execution(aws: Aws, thing: str, deployment_id: str) -> Answer:
    """Return what a core device reports of a deployment (EffectiveDeployment); empty if nothing."""
    client = aws.greengrass
    pages = client.get_paginator("list_effective_deployments").paginate(coreDeviceThingName=thing)
    try:
        for page in pages:
            for found in page["effectiveDeployments"]:
                if found["deploymentId"] == deployment_id:
                    effective: Answer = found
                    return effective
    except client.exceptions.ResourceNotFoundException:
        pass  # it has never connected
    return {}


def _reason(state: Answer) -> str:
    """Return what the device reports about the end, most general error first."""
    stack = state.get("statusDetails", {}).get("errorStack", [])
    reasons = list(filter(None, [state.get("reason", ""), " > ".join(stack)]))
    return f": {' · '.join(reasons)}" if reasons else ""
