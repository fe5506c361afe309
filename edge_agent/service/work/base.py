"""Work that outlives a call: what the service asks for, whoever does it.

A kind of work knows what the child process does with the parameters (it may be killed at any
moment), how its result becomes visible (what is stored, then one transaction), and what is recorded
when it failed.
Children see their folder, their parameters and the records; the service alone writes records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Protocol

from edge_agent.service.records.database import Transaction

Parameters = Mapping[str, Any]  # JSON


class Kind(Protocol):
    """One kind of work, such as training; built with (root, settings), in service and child."""

    def run(self, parameters: Parameters, folder: Path) -> Mapping[str, Any]:
        """Do it, in a child process; leave files in `folder` and return the result, JSON.

        Says how far it is with `progress` of `edge_agent.service.work.child`. Raises
        EdgeAgentError, whose sentence is shown to the caller of the API.
        """

    def progressed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Record how far it is."""

    def publish(self, parameters: Parameters, folder: Path) -> None:
        """Store what lies in the folder where others see it, before `finished`; it may take long.

        After an EdgeAgentError, ServiceFault or OSError it is tried again, for an hour; then
        `failed` is called with the error's sentence. It also comes again when the service was
        killed meanwhile.
        """

    def finished(
        self,
        parameters: Parameters,
        result: Mapping[str, Any],
        folder: Path,
        transaction: Transaction,
    ) -> None:
        """Make the result visible: move files to their place, then write the records.

        Errors are as those of `publish`. When it comes again, files may have been moved already.
        """

    def failed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Record that it failed, and why; also after the service itself was killed meanwhile."""


class Work(Protocol):
    """Who does the work: child processes here, perhaps a cluster later."""

    def submit(self, kind: str, parameters: Parameters, transaction: Transaction) -> str:
        """Have work done once the transaction is committed; return its id."""

    def cancel(self, work_id: str) -> None:
        """End work that is no longer wanted, begun or not; its `failed` is called.

        Not inside a writing transaction: this one writes as well.
        """
