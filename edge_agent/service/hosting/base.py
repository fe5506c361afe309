"""Models that answer DetectAnomalies: what the service asks for, whoever serves them.

How far it is with a model is written to the records with `statuses.HostingStatus`, where calls find
it; the records also say, after a restart, what is to be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Protocol

from edge_agent.service.records.database import Transaction

if TYPE_CHECKING:
    from edge_agent.types import Prediction


@dataclass(frozen=True)
class RuntimeOrder:
    """What to serve, and how.

    name: of the model, for the log. package: its folder. most_units: of inference, as many as the
    load needs between these two. settings: a settings file of the runtime, or None.
    """

    name: str
    package: Path
    least_units: int
    most_units: int
    settings: Optional[Path]


class ModelHost(Protocol):
    """Who serves models: runtime processes here, perhaps a cluster later.

    `model`: its id in the records.
    """

    def submit(self, model: int, transaction: Transaction) -> None:
        """Have a model served once the transaction is committed, until `cancel`."""

    def cancel(self, model: int, transaction: Transaction) -> None:
        """Have it stopped once the transaction is committed, calls in flight first."""

    def detect(self, model: int, picture: bytes) -> Prediction:
        """Judge a JPEG or PNG file; wait a moment while what serves the model is replaced.

        Raises ValidationFailed for another file, Throttled when too many calls wait,
        WrongModelState when the model isn't served, AgentUnavailable when it can't answer now, and
        other errors of `Client.detect`.
        """
