"""Remote commands: what they mean, who may give them, and protection against replays.

The transport, MQTT or Greengrass, belongs to `runtime.results`.

A command is a JSON object: {"command": "start" | "stop" | "describe" | "set-threshold" |
"last-capture", "model": NAME, "threshold": 0.6, "id": ANYTHING SHORT, "time": NOW}. Without a
model, `describe` returns all. What changes something needs the time, as Unix seconds or ISO 8601
with a zone, and is carried out only then, and once. The answer is {"ok": true, "id": as sent, ...}
or {"ok": false, "id": as sent, "error": {"status": NAME OF A gRPC STATUS, "message": SENTENCE}}, of
at most 7,000 bytes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime, timezone
from typing import Callable, Dict, Hashable, List, Optional, Union

from pydantic import Field, field_validator, model_validator
from typing_extensions import Annotated

from edge_agent.config import Command, CommandsSettings
from edge_agent.errors import EdgeAgentError, InvalidRequest
from edge_agent.fields import Strict, read_json
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.system.machine_clock import uptime_s
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)

READING = ("describe", "last-capture")  # they change nothing and may come at any time
LIMIT_BYTES = 7000  # of an answer: what every transport takes
COMMAND_BYTES = 4096
ID_BYTES = 256
VALUES_BYTES = LIMIT_BYTES - ID_BYTES - 200  # for the values of an answer
SENTENCE_LENGTH, ARN_LENGTH = 600, 300  # a character takes up to 6 bytes
MOST_REMEMBERED = 256  # commands of one requester, until they are too old anyway
WHOLE_SECONDS_S = 1.0  # times are often given in whole seconds
CLOCK_WAS_SET_S = 3600.0  # the clock went that much further than time did
EXAMPLE = "2026-01-31T12:00:00Z"

Values = Dict[str, object]


class _Command(Strict):
    command: Command
    model: Annotated[Optional[str], Field(min_length=1, max_length=128)] = None
    threshold: Annotated[Optional[float], Field(ge=0.0, le=1.0)] = None
    id: object = None
    time: Union[float, Annotated[str, Field(max_length=40)], None] = None

    @field_validator("id")
    @classmethod
    def _short(cls, id_: object) -> object:
        if len(_json(id_)) > ID_BYTES:
            raise ValueError(f"at most {ID_BYTES} bytes, written as JSON")
        return id_

    @model_validator(mode="after")
    def _whole(self) -> _Command:
        if self.model is None and self.command != "describe":
            raise ValueError(f"command {self.command} needs a model")
        if (self.command == "set-threshold") != (self.threshold is not None):
            raise ValueError("threshold belongs to the command set-threshold, and only to it")
        return self


class RemoteCommands:
    """Carries out commands that the settings allow, each once and at its time.

    `last_capture` returns the facts of a model's latest captured frame, perhaps with a `thumbnail`;
    None: there is none.
    """

    def __init__(
        self,
        detector: Detector,
        settings: CommandsSettings,
        last_capture: Callable[[str], Optional[Values]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._detector = detector
        self._allow = settings.allow
        self._require_time = settings.require_time
        self._replay_guard, self._clock = ReplayGuard(settings.expire_s, clock()), clock
        self._last_capture = last_capture

    def answer(self, requester: str, payload: bytes) -> bytes:
        """Carry out one command and return the answer when it is done; never raises.

        `stop` takes until the model's calls in flight are finished.
        """
        try:
            values = {"ok": True, "id": _id_of(payload), **self._carry_out(requester, payload)}
            return _json(values)
        except (EdgeAgentError, CommandRefused) as error:
            log.warning("Command of %.128r refused: %s: %s", requester, error.status, error)
            return _refusal(payload, error.status, str(error))
        except Exception:
            fault = uuid.uuid4().hex[:12]
            log.exception("Internal error %s in a command of %.128r.", fault, requester)
            sentence = f"Internal error {fault}. See the agent's log."
            return _refusal(payload, "INTERNAL", sentence)

    def _carry_out(self, requester: str, payload: bytes) -> Values:
        allowed = self._allow.get(requester, ())
        if not allowed:
            raise CommandRefused(
                "PERMISSION_DENIED", f"{requester!r:.128} may not send commands to this device."
            )
        command = _read(payload)
        if command.command not in allowed:
            raise CommandRefused(
                "PERMISSION_DENIED",
                f"{requester!r} may not {command.command}, only {', '.join(allowed)}.",
            )
        self._check_time(requester, command)
        values = self._do(command, requester)
        log.info(
            "Command of %.128r done: %s %s %s",
            requester,
            command.command,
            command.model or "all models",
            "" if command.threshold is None else command.threshold,
        )
        return values

    def _check_time(self, requester: str, command: _Command) -> None:
        """Refuse what is too old, too early or came before; reading changes nothing."""
        if command.command in READING:
            return
        at = unix_seconds(command.time)
        if at is not None:
            identity = (at, _json(command.id), command.command, command.model, command.threshold)
            self._replay_guard.check(requester, at, identity, self._clock())
        elif self._require_time:
            raise InvalidRequest(
                f"The command {command.command} needs the current time, so that an old one never "
                f'runs: "time": "{EXAMPLE}", or Unix seconds. A sender without a clock needs '
                "results.commands.require_time=false."
            )

    def _do(self, command: _Command, requester: str) -> Values:
        if command.model is None:
            return _as_many_as_fit(self._detector.list())
        if command.command == "last-capture":
            return self._capture(command.model)
        if command.command == "start":
            info = self._detector.start(command.model)
        elif command.command == "stop":
            info = self._detector.stop(command.model)
        elif command.threshold is not None:
            info = self._detector.set_threshold(command.model, command.threshold, requester)
        else:
            info = self._detector.describe(command.model)
        return {"model": _model(info)}

    def _capture(self, model: str) -> Values:
        capture = self._last_capture(self._detector.describe(model).name)
        if capture is None:
            raise CommandRefused("NOT_FOUND", f"No frame of model {model!r} is stored.")
        if len(_json(capture)) <= VALUES_BYTES:
            return {"capture": capture}
        capture = {name: value for name, value in capture.items() if name != "thumbnail"}
        if len(_json(capture)) > VALUES_BYTES:
            raise CommandRefused(
                "RESOURCE_EXHAUSTED", "The facts of the frame are too long to send."
            )
        return {"capture": capture, "cut": "The thumbnail is too large to send."}


def _read(payload: bytes) -> _Command:
    if len(payload) > COMMAND_BYTES:
        raise InvalidRequest(f"A command has at most {COMMAND_BYTES} bytes, not {len(payload)}.")
    try:
        return read_json(_Command, payload)
    except ValueError as error:
        raise InvalidRequest(f"Not a command: {error}") from None


def _id_of(payload: bytes) -> object:
    """Return the id for the answer, also of a command that isn't valid."""
    try:
        id_: object = json.loads(payload[:COMMAND_BYTES])["id"]
        return id_ if len(_json(id_)) <= ID_BYTES else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _model(info: ModelInfo) -> Values:
    return {
        "name": info.name,
        "state": info.state.name,
        "message": _cut(info.message, SENTENCE_LENGTH),
        "arn": _cut(info.arn, ARN_LENGTH),
        "inference_units": info.inference_units,
        "desired_units": info.desired_units,
        "least_units": info.least_units,
        "most_units": info.most_units,
    }


def _as_many_as_fit(infos: List[ModelInfo]) -> Values:
    models: List[Values] = []
    free_bytes = VALUES_BYTES
    for model in map(_model, infos):
        free_bytes -= len(_json(model)) + 1
        if free_bytes < 0:
            left = len(infos) - len(models)
            return {"models": models, "cut": f"{left} more models; describe them by name."}
        models.append(model)
    return {"models": models}


def _refusal(payload: bytes, status: str, sentence: str) -> bytes:
    error = {"status": status, "message": _cut(sentence, SENTENCE_LENGTH)}
    return _json({"ok": False, "id": _id_of(payload), "error": error})


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _json(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")  # half a surrogate pair came out of an escape


class CommandRefused(Exception):
    """The command isn't carried out; `status` is the name of a gRPC status."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class ReplayGuard:
    """Refuses commands that come too late, too early or twice; safe on any thread.

    A broker keeps messages (retained, or queued for a session), and listeners may send one again:
    a `stop` of yesterday must never run. Commands from before a restart aren't remembered, so
    those are refused.
    """

    def __init__(self, expire_s: float, began: float) -> None:
        """`expire_s`: how far a command's time may be from now, in the past and in the future.

        began: when the agent started, Unix seconds.
        """
        self._expire_s, self._began = expire_s, began
        self._began_uptime_s = uptime_s()
        self._lock = threading.Lock()
        self._seen: Dict[str, OrderedDict[Hashable, float]] = {}  # by requester: until when

    def check(self, requester: str, time: float, identity: Hashable, now: float) -> None:
        """Let the command pass, or raise Refused; `time` and `now` in Unix seconds.

        `identity` differs for each command of the requester.
        """
        if not abs(now - time) <= self._expire_s:  # nor a time that is no number
            raise CommandRefused("DEADLINE_EXCEEDED", _sentence(time, now, self._expire_s))
        self._follow_clock(now)
        if time < self._began - WHOLE_SECONDS_S:
            raise CommandRefused(
                "DEADLINE_EXCEEDED",
                f"The command was given at {_utc(time)}, before the agent started at "
                f"{_utc(self._began)}. Send it again with the current time.",
            )
        with self._lock:
            seen = self._seen.setdefault(requester, OrderedDict())
            for old in [known for known, until in seen.items() if until < now]:
                del seen[old]
            if identity in seen:
                raise CommandRefused(
                    "ALREADY_EXISTS",
                    "This command was received before and isn't carried out twice. Send each with "
                    "its own time or id.",
                )
            if len(seen) >= MOST_REMEMBERED:
                raise CommandRefused(
                    "RESOURCE_EXHAUSTED",
                    f"{requester!r:.140} has sent {MOST_REMEMBERED} commands within "
                    f"{2 * self._expire_s:g} s. Send fewer.",
                )
            seen[identity] = time + self._expire_s

    def _follow_clock(self, now: float) -> None:
        """Move the start with a clock that was set: it may have shown 1970 when the agent began."""
        runs_s = uptime_s() - self._began_uptime_s
        if now - self._began > runs_s + CLOCK_WAS_SET_S:
            self._began = now - runs_s
        self._began = min(self._began, now)  # set back


def unix_seconds(time: Union[float, str, None]) -> Optional[float]:
    """Return the time of a command. Raises InvalidRequest for a text that isn't one."""
    if not isinstance(time, str):
        return time
    with suppress(ValueError, OverflowError):
        read = datetime.fromisoformat(time[:-1] + "+00:00" if time.endswith("Z") else time)
        if read.tzinfo is not None:
            return read.timestamp()
    raise InvalidRequest(
        f"time: {time!r:.60} isn't a time with a zone; write it like {EXAMPLE!r}, or as Unix "
        "seconds."
    )


def _sentence(time: float, now: float, expire_s: float) -> str:
    when = "ago" if time < now else "ahead"
    return (
        f"The command's time is {abs(now - time):.0f} s {when}; at most {expire_s:g} s "
        f"(results.commands.expire_s) are allowed. This device's clock shows {_utc(now)}. Send it "
        "with the current time, and check both clocks."
    )


def _utc(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
