"""Asks a module of ours in a process of its own: what libraries do there can't hurt this one.

The process reports each fact as soon as it knows it (see `parent.answering`), so that what it found
before it died isn't lost.
"""

from __future__ import annotations

import logging
import os
import subprocess
from contextlib import contextmanager
from typing import Iterator, List, Tuple

from edge_agent.runtime.processes.channel import Message
from edge_agent.runtime.processes.child_process import ChildProcess, python_module

ENDS_WITHIN_S = 5.0


def ask(
    module: str, subject: str, timeout_s: float, content: bytes = b""
) -> Tuple[List[Message], str]:
    """Run `module` with `content` on stdin, return its facts and, for people, how it ended.

    subject: what it does, for that sentence.
    """
    try:
        return _asked(module, subject, timeout_s, content)
    except OSError as error:
        return [], f"The process that {subject} can't be started: {error.strerror}."


def _asked(
    module: str, subject: str, timeout_s: float, content: bytes
) -> Tuple[List[Message], str]:
    command = python_module(module)
    with _stdin(content) as stdin, ChildProcess(
        command,
        name=f"The process that {subject}",
        within_s=timeout_s,
        late=f"it took more than {timeout_s:g} s; the driver may hang, see dmesg",
        ends_within_s=ENDS_WITHIN_S,
        output_level=logging.DEBUG,
        stdin=stdin,
    ) as process:
        facts = list(process.messages())
        ending = process.end()
    by_hand = " ".join(command)
    return facts, f"The process that {subject} {ending}. Try it by hand: {by_hand}"


@contextmanager
def _stdin(content: bytes) -> Iterator[int]:
    """Yield what a process reads `content` from: memory, which needs nobody to write meanwhile."""
    if not content:
        yield subprocess.DEVNULL
        return
    with os.fdopen(os.memfd_create("edge-agent-stdin", os.MFD_CLOEXEC), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file.fileno()
