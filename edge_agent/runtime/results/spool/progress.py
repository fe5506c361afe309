"""How far each sink is: what it has delivered that isn't noted on disk yet, and what waits."""

from __future__ import annotations

from collections import Counter
from typing import Collection, Dict, Iterable, List, Sequence, Set
from typing import Counter as Counts

from edge_agent.runtime.results.spool.database import Entry


class Progress:
    """Of the sinks of one outbox. Not thread-safe."""

    def __init__(self, sinks: Sequence[str]) -> None:
        self._delivered: Dict[str, Set[int]] = {sink: set() for sink in sinks}
        self._waiting: Counts[str] = Counter(dict.fromkeys(sinks, 0))

    def offered(self) -> None:
        """Let one more wait for everybody."""
        for sink in self._delivered:
            self._waiting[sink] += 1

    def settle(self, sink: str, sequences: Collection[int]) -> None:
        """Note what `sink` has nothing more to do with."""
        self._delivered[sink].update(sequences)
        self._waiting[sink] -= len(sequences)

    def missed(self, counts: Counts[str]) -> None:
        """Take off what was given up before a sink had delivered it."""
        self._waiting.subtract(counts)

    def begin(self, sink: str, on_disk: int, pending: Iterable[int]) -> None:
        """Count anew: so many wait on disk, and what is pending."""
        self._waiting[sink] = on_disk + len(set(pending) - self._delivered[sink])

    def waiting(self, sink: str) -> int:
        """Return about how many wait for `sink`."""
        return max(0, self._waiting[sink])

    def undelivered(self, sink: str, entries: Iterable[Entry]) -> List[Entry]:
        """Return those that `sink` hasn't delivered."""
        done = self._delivered[sink]
        return [entry for entry in entries if entry.sequence not in done]

    def to_note(self) -> Dict[str, Set[int]]:
        """Return by sink what is to be noted on disk."""
        return {sink: set(done) for sink, done in self._delivered.items() if done}

    def noted(self, delivered: Dict[str, Set[int]]) -> None:
        """Forget what is noted on disk."""
        for sink, done in delivered.items():
            self._delivered[sink] -= done

    def everywhere(self) -> Set[int]:
        """Return what every sink has delivered."""
        return set.intersection(*self._delivered.values())
