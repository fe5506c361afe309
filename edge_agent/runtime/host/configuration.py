"""A component's configuration: made into a tree for `config.build`, and watched for changes.

Its keys are those of the settings, and the original's `Socket`. What the two nuclei change is
undone here: on lite every scalar of a YAML recipe is a string, on classic keys have the spelling
that came first, in upper or lower case, and the cloud may turn numbers into floats.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Type

from pydantic import SecretStr

from edge_agent.config import Settings
from edge_agent.fields import Strict
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NotFound, NucleusLost
from edge_agent.runtime.host.session import Configuration
from edge_agent.runtime.host.subscription import Subscription

log = logging.getLogger(__name__)

ACCESS_CONTROL, SOCKET = "accesscontrol", "socket"  # in lower case
EMPTY = (None, "", "null")  # such a value means the setting's default
STOP_WITHIN_S = 3.0  # the nucleus kills what hasn't ended 5 s after SIGTERM

SETTLED_S = 0.5  # changes come in bursts, one event for each value
ANSWER_WITHIN_S = 10.0
READ_EVERY_S = 60.0  # lite sends no event of a value that a deployment's reset removes
RETRY_S = 5.0  # until a failed reading is tried again
NO_ANSWER = (
    f"no answer within {ANSWER_WITHIN_S:g} s; nucleus lite sends none of over 10,000 bytes. "
    "Is the configuration too large?"
)


def settings_tree(configuration: Mapping[str, object], work: Path) -> Configuration:
    """Return a new tree; unknown keys stay in it, for the reader's error message.

    `work`: the component's work folder, the default for all other folders.
    """
    others = {key: value for key, value in configuration.items() if key.lower() != ACCESS_CONTROL}
    tree = _group(Settings, others)
    for key in [key for key in tree if key.lower() == SOCKET]:
        _default(tree, "server", "socket", tree.pop(key))
    _default(tree, "server", "stop_within_s", STOP_WITHIN_S)
    _default(tree, "models", "records", str(work / "models.d"))
    _default(tree, "models", "resume", True)
    _default(tree, "engine", "cache", str(work / "engines"))
    _default(tree, "results", "folder", str(work / "results"))
    return tree


def _default(tree: Configuration, group: str, name: str, value: object) -> None:
    values = tree.setdefault(group, {})
    if isinstance(values, dict):
        values.setdefault(name, value)


def _group(kind: Type[Strict], values: Mapping[str, object]) -> Configuration:
    fields = kind.model_fields
    spelled = {name.lower(): name for name in fields}
    group: Configuration = {}
    for key, value in sorted(values.items(), key=lambda item: item[0] not in fields):
        if value in EMPTY:
            continue
        name = spelled.get(key.lower(), key)
        if name in fields and name not in group:
            group[name] = _value(fields[name].annotation, value)
        else:
            group[key] = value
    return group


def _value(annotation: object, value: object) -> object:
    types = list(_types(annotation))
    if isinstance(value, dict):
        if issubclass(types[0], Strict):
            return _group(types[0], value)
        return {key: inner for key, inner in value.items() if inner not in EMPTY}
    wants_text = any(one in (str, Path, SecretStr) for one in types)
    if wants_text and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(int(value)) if float(value).is_integer() else str(value)
    return value


def _types(annotation: object) -> Iterator[type]:
    """Return the classes an annotation is made of."""
    inner = [part for part in getattr(annotation, "__args__", ()) if not isinstance(part, str)]
    for part in inner:
        yield from _types(part)
    if not inner:
        yield annotation if isinstance(annotation, type) else object


class ConfigurationWatcher:
    """Passes on each new configuration as a whole; the methods run on the scheduler's thread.

    Events only say that something has changed, and come in any order: what counts is a reading that
    began after the last of them. There is one reading at a time, and one every minute without any
    event.
    """

    def __init__(
        self,
        nucleus: Greengrass,
        latest: Configuration,
        on_change: Callable[[Configuration], None],
    ) -> None:
        """`latest` is known already; `take` gets what differs from the one before."""
        self._nucleus, self._scheduler = nucleus, nucleus.scheduler
        self._latest, self._on_change = latest, on_change
        self._changed_again = False  # something has changed since the reading began
        self._busy = False  # from the first event until it is read
        self._pending_answer: Optional[Future[Configuration]] = None
        self._problem = ""

    def start(self) -> None:
        """Subscribe, read what has changed until now, and then once a minute."""
        Subscription(
            self._nucleus,
            lambda on_end: self._nucleus.subscribe_to_configuration(
                lambda: self._scheduler.schedule(self._changed), on_end
            ),
            self._subscribed,
        ).start()
        self._scheduler.schedule(self._poll, READ_EVERY_S)

    def _poll(self) -> None:
        self._changed()
        self._scheduler.schedule(self._poll, READ_EVERY_S)

    def _subscribed(self, error: Optional[BaseException]) -> bool:
        if error is None:
            self._problem = ""
            self._changed()
        else:
            self._log_problem(f"Configuration changes are not noticed immediately: {error}", error)
        return True

    def _changed(self) -> None:
        self._changed_again = True
        if not self._busy:
            self._busy = True
            self._scheduler.schedule(self._read, SETTLED_S)

    def _read(self) -> None:
        self._changed_again = False
        answer = self._pending_answer = self._nucleus.get_configuration()
        answer.add_done_callback(
            lambda answer: self._scheduler.schedule(partial(self._done, answer))
        )
        self._scheduler.schedule(partial(self._done, answer), ANSWER_WITHIN_S)

    def _done(self, answer: Future[Configuration]) -> None:
        """Use the answer, or give up waiting; whichever comes first."""
        if answer is not self._pending_answer:
            return
        self._pending_answer = None
        error = answer.exception() if answer.done() else TimeoutError(NO_ANSWER)
        if error is not None and not isinstance(error, NotFound):
            self._log_problem(f"The configuration can't be read: {error}", error)
            self._scheduler.schedule(self._read, RETRY_S)
            return
        self._busy = False
        self._pass_on({} if error else answer.result())
        if self._changed_again:
            self._changed()

    def _pass_on(self, configuration: Configuration) -> None:
        if configuration != self._latest:
            self._latest = configuration
            self._on_change(configuration)

    def _log_problem(self, problem: str, error: BaseException) -> None:
        """Log a problem once, not each time; a lost connection is logged by its owner."""
        if problem != self._problem and not isinstance(error, NucleusLost):
            log.warning(problem)
        self._problem = problem
