"""How a deployment reaches a group of devices, and when it stops: options → API.

The limits are those of greengrassv2's DeploymentIoTJobConfiguration and DeploymentPolicies.
"""

from __future__ import annotations

import argparse
from typing import Optional, Type

from pydantic import Field, model_validator
from typing_extensions import Annotated, Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, T, read
from edge_agent.packaging.aws.deployment import ONE_OR_MORE, SECONDS, check
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.options import table

PerMinute = Annotated[int, Field(ge=1, le=1000)]
Devices = Annotated[int, Field(ge=1)]
ON_FAILURE = {"rollback": "ROLLBACK", "keep": "DO_NOTHING"}


class Rollout(Strict):
    """Devices notified a minute: at most `max`; with `start`, more and more of them."""

    max: Optional[PerMinute] = None
    start: Optional[PerMinute] = None
    factor: Annotated[float, Field(ge=1, le=5)] = 2.0
    notified: Optional[Devices] = None
    succeeded: Optional[Devices] = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Rollout:
        if self.start is None and self.max is None:
            raise ValueError("needs max, or start and one of notified and succeeded")
        if (self.start is not None) != ((self.notified is None) != (self.succeeded is None)):
            raise ValueError("start needs exactly one of notified and succeeded")
        return self

    def to_api(self) -> Document:
        """Return IoTJobExecutionsRolloutConfig."""
        config: Document = {"maximumPerMinute": self.max} if self.max else {}
        if self.start:
            criterion = "Notified" if self.notified else "Succeeded"
            config["exponentialRate"] = {
                "baseRatePerMinute": self.start,
                "incrementFactor": self.factor,
                "rateIncreaseCriteria": {
                    f"numberOf{criterion}Things": self.notified or self.succeeded
                },
            }
        return config


class Stop(Strict):
    """Stop the rollout when `percent` of the devices failed so, once `devices` have ended."""

    failure: Literal["FAILED", "REJECTED", "TIMED_OUT", "ALL"]
    percent: Annotated[float, Field(gt=0, le=100)]
    devices: Devices

    def to_api(self) -> Document:
        """Return IoTJobAbortCriteria."""
        return {
            "failureType": self.failure,
            "action": "CANCEL",
            "thresholdPercentage": self.percent,
            "minNumberOfExecutedThings": self.devices,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options of rollout and failure; what isn't given stays as it is."""
    parser.add_argument(
        "--rollout", metavar="max=N[,start=N,factor=F,succeeded=N|notified=N]",
        help="devices a minute; with start, multiplied by factor after so many devices",
    )  # fmt: skip
    parser.add_argument(
        "--stop-when", action="append", default=[],
        metavar="failure=FAILED|REJECTED|TIMED_OUT|ALL,percent=P,devices=N",
        help="stop the rollout when P percent failed so, of at least N; repeatable",
    )  # fmt: skip
    parser.add_argument("--timeout-min", type=int, metavar="MINUTES", help="a device may take")
    parser.add_argument(
        "--on-failure", choices=sorted(ON_FAILURE), help="what a device does (default: rollback)"
    )
    parser.add_argument(
        "--defer-s", type=int, metavar="SECONDS",
        help="how long components may defer an update (default: 60); 0: they aren't asked",
    )  # fmt: skip


def job(arguments: argparse.Namespace) -> Document:
    """Return what is given of DeploymentIoTJobConfiguration. Raises InvalidConfiguration."""
    config: Document = {}
    if arguments.rollout:
        rollout = _read(Rollout, "--rollout", arguments.rollout)
        config["jobExecutionsRolloutConfig"] = rollout.to_api()
    if arguments.stop_when:
        stops = [_read(Stop, "--stop-when", given) for given in arguments.stop_when]
        config["abortConfig"] = {"criteriaList": [stop.to_api() for stop in stops]}
    if arguments.timeout_min is not None:
        check(arguments.timeout_min, ONE_OR_MORE, "--timeout-min")
        config["timeoutConfig"] = {"inProgressTimeoutInMinutes": arguments.timeout_min}
    return config


def policies(arguments: argparse.Namespace) -> Document:
    """Return what is given of DeploymentPolicies. Raises InvalidConfiguration."""
    config: Document = {}
    if arguments.on_failure:
        config["failureHandlingPolicy"] = ON_FAILURE[arguments.on_failure]
    if arguments.defer_s == 0:
        config["componentUpdatePolicy"] = {"action": "SKIP_NOTIFY_COMPONENTS"}
    elif arguments.defer_s is not None:
        check(arguments.defer_s, SECONDS, "--defer-s")
        config["componentUpdatePolicy"] = {
            "action": "NOTIFY_COMPONENTS",
            "timeoutInSeconds": arguments.defer_s,
        }
    return config


def _read(kind: Type[T], option: str, given: str) -> T:
    try:
        return read(kind, table(option, given.split(",")))
    except ValueError as error:
        raise InvalidConfiguration(f"{option} {given!r}: {error}") from None
