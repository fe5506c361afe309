"""How far a command is: the steps that take long, and bars that show them on a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Sequence, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


class Steps:
    """Progress of a command that is shown nowhere."""

    def each(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Yield the items one by one, each a part of step `what`."""
        yield from items

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Span a step of which is unknown how far it is."""
        yield


class Bars(Steps):
    """Shows the step that is being done, with the time left where that is known."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def each(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Show how many of the items are done, and the time that the others will take."""
        task = self._progress.add_task(what, total=len(items))
        try:
            for item in items:
                yield item
                self._progress.advance(task)
        finally:
            self._progress.remove_task(task)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show that the step goes on, and for how long."""
        task = self._progress.add_task(what, total=None)
        try:
            yield
        finally:
            self._progress.remove_task(task)


@contextmanager
def on_terminal() -> Iterator[Steps]:
    """Yield steps that show bars where standard error is a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield Steps()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    # The decoders' standard error is closed for moments; the bars write to a copy of it.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal, Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
        console=Console(file=terminal), transient=True,
        redirect_stdout=sys.stdout.isatty(), redirect_stderr=False,
    ) as progress:  # fmt: skip
        yield Bars(progress)
