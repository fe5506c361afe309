"""The fake nucleus's operations on the component's configuration."""

from __future__ import annotations

import copy
import json
import random
import threading
from typing import Any, Dict, Iterator, List, Tuple

from tests.fakes.nucleus.streams import Refused, Streams, Subscription

BURST_THREADS = 4
WRITE_S = 0.002  # a value is written to disk before the next one

Leaf = Tuple[Tuple[str, ...], Any]


class Configurations(Streams):
    """Keeps the configuration; lite tells changes on several threads, in any order."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        # None: the component has none. The nucleus keeps the policies in it as well.
        self.configuration: Any = {"accessControl": {"aws.greengrass.ipc.mqttproxy": {}}}
        self.readings = 0
        self._bursts: List[threading.Thread] = []
        self._writing = threading.Event()  # never set

    def configure(self, changes: Dict[str, Any]) -> None:
        """Merge `changes`, as a deployment does; each value that changes is an event.

        While somebody listens, values and events are still on their way when this returns.
        """
        listeners = self._subscribed("SubscribeToConfigurationUpdate")
        values = list(_leaves(changes))
        if self.kind == "lite":
            random.Random(len(values)).shuffle(values)
        count = BURST_THREADS if self.kind == "lite" and listeners else 1
        parts = [values[start::count] for start in range(count)]
        burst = [threading.Thread(target=self._change, args=(listeners, part)) for part in parts]
        for thread in burst:
            thread.start()
        self._bursts += burst
        if not listeners:
            self.join_bursts()

    def reset(self, *path: str) -> None:
        """Remove a value, as a local deployment's `reset` on lite does: nobody is told."""
        with self._changed:
            group = self.configuration
            for name in path[:-1]:
                group = group[name]
            del group[path[-1]]

    def join_bursts(self) -> None:
        """Wait until every event is sent."""
        while self._bursts:
            self._bursts.pop().join()

    def _change(self, listeners: List[Subscription], values: List[Leaf]) -> None:
        for path, value in values:
            with self._changed:
                changed = self._set(path, value)
            if changed:
                event = {"componentName": self.component, "keyPath": list(path)}
                for listener in listeners:
                    listener.event("ConfigurationUpdateEvents", configurationUpdateEvent=event)
                self._writing.wait(WRITE_S)

    def _set(self, path: Tuple[str, ...], value: Any) -> bool:
        tree = self.configuration
        for group in path[:-1]:
            tree = tree.setdefault(self._key(tree, group), {})
        key = self._key(tree, path[-1])
        changed = key not in tree or tree[key] != value
        tree[key] = value
        return bool(changed)

    def _key(self, tree: Dict[str, Any], name: str) -> str:
        """On classic a key has the spelling that came first, whatever its case."""
        same = [key for key in tree if key.lower() == name.lower()]
        return same[0] if same and self.kind == "classic" else name

    def _GetConfiguration(self, request: Any) -> Dict[str, Any]:  # noqa: N802
        assert not request.get("keyPath"), "the agent reads all of it"
        if self.configuration is None:
            raise Refused("ResourceNotFoundError")
        self.readings += 1
        return {"componentName": self.component, "value": copy.deepcopy(self.configuration)}

    def _SubscribeToConfigurationUpdate(self, request: Any) -> None:  # noqa: N802
        assert not request.get("keyPath"), "the agent follows all of it"
        if self.configuration is None:
            raise Refused("ResourceNotFoundError")


def _leaves(tree: Dict[str, Any], path: Tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The values by their paths; a list is one."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def of_yaml(tree: Any) -> Any:
    """What lite makes of a YAML recipe: every scalar is a string."""
    if isinstance(tree, dict):
        return {key: of_yaml(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [of_yaml(value) for value in tree]
    return json.dumps(tree) if tree is None or isinstance(tree, bool) else str(tree)
