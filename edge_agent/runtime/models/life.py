"""The life of a served model as a table of states and events."""

from __future__ import annotations

import enum
from typing import Dict, Tuple

from edge_agent.types import ModelState


class Event(enum.Enum):
    """What can happen to a model."""

    START = "start"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    STOP = "stop"
    FREED = "freed"


# The only moves there are; anything else is refused with the state it was met in.
TRANSITIONS: Dict[Tuple[ModelState, Event], ModelState] = {
    (ModelState.STOPPED, Event.START): ModelState.STARTING,
    (ModelState.FAILED, Event.START): ModelState.STARTING,
    (ModelState.STARTING, Event.LOADED): ModelState.RUNNING,
    (ModelState.STARTING, Event.LOAD_FAILED): ModelState.FAILED,
    (ModelState.RUNNING, Event.STOP): ModelState.STOPPING,
    (ModelState.STOPPING, Event.FREED): ModelState.STOPPED,
}
