"""Asks a module of ours in a process of its own: what libraries do there can't hurt this one.

The process tells each fact as soon as it knows it, as a line of JSON on its stdout, so that what it
found before it died isn't lost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

from edge_agent.config import without_secrets

# Modules are looked for where a process starts, before all other places: where only root can write.
START = "/"
ENDING_S = 5.0  # a killed process may still wait for the driver

Facts = Dict[str, Any]


def ask(
    module: str, subject: str, timeout_s: float, content: bytes = b""
) -> Tuple[List[Facts], str]:
    """Run `module` with `content` on stdin, return its answers and, for people, how it ended.

    subject: what it does, for that sentence. Lines that aren't JSON objects were printed by others.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=START,
        env=without_secrets(os.environ),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    try:
        output, errors = process.communicate(content, timeout=timeout_s)
        ending = _ending(process.returncode)
    except subprocess.TimeoutExpired:
        output, errors = _end(process)
        ending = f"didn't finish within {timeout_s:g} s; the driver may hang, see dmesg"
    lines = errors.decode(errors="replace").strip().splitlines()
    reason = f": {lines[-1][:300]}" if lines else ""
    told = map(_read, output.decode(errors="replace").splitlines())
    return [facts for facts in told if facts], (
        f"The process that {subject} {ending}{reason}. Try it by hand: {sys.executable} -m {module}"
    )


@contextmanager
def answering() -> Iterator[Callable[[Facts], None]]:
    """Yield, in that process, what tells a fact; what libraries print goes to stderr."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def tell(facts: Facts) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        yield tell


def _end(process: subprocess.Popen[bytes]) -> Tuple[bytes, bytes]:
    """Kill it; one that waits inside the driver ends only when the driver answers."""
    process.kill()
    try:
        return process.communicate(timeout=ENDING_S)
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", error.stderr or b""


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _read(line: str) -> Facts:
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
