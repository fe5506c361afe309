"""What a model component runs on the device: it registers its model in the agent's models.d.

It travels in the component's zip, beside the model package, and needs nothing but Python 3.8. While
the process runs, the record is written again when it vanishes, so that neither the order of starts
nor a new folder matters. SIGTERM alone doesn't say whether the model is withdrawn, or the device,
the nucleus or the agent restarts: the record then says that its component has stopped. An agent
that runs withdraws the model after a while and removes the record; one that starts later serves it.
Two versions share one file name; the later one's record wins, and the earlier one leaves it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Dict, List, Optional

CHECK_EVERY_S = 0.5
STOP = {signal.SIGTERM, signal.SIGINT}
SWITCH = {"true": True, "false": False}


class ModelRecord:
    """The record of this process."""

    def __init__(self, path: Path, record: Dict[str, object]) -> None:
        self._path, self._record = path, record
        # Held open, so that no other file gets its inode number: by it we know our own record.
        self._file: Optional[BinaryIO] = None
        self._last_error = ""

    def ensure(self) -> None:
        """Write the record: at first over any other, later only where no running one's is."""
        try:
            if self._file is None or not self._path.exists() or self._is_left():
                self._write(self._record)
                self._last_error = ""
                _print(f"The model is registered in {self._path}.")
        except OSError as error:
            message = f"Can't write {self._path} ({error.strerror}); trying again."
            if message != self._last_error:
                _print(message)
            self._last_error = message

    def leave(self) -> None:
        """Note in the record that its component has stopped; another process's stays as it is."""
        try:
            if self._file and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._write({**self._record, "component_stopped": True})
        except FileNotFoundError:
            pass
        except OSError as error:
            _print(f"Can't write {self._path} ({error.strerror}); removing it.")
            with suppress(OSError):
                self._path.unlink()

    def _is_left(self) -> bool:
        """Return whether the process that wrote it last has stopped."""
        try:
            return bool(json.loads(self._path.read_bytes()).get("component_stopped"))
        except (OSError, ValueError, AttributeError):
            return False  # somebody is editing it

    def _write(self, record: Dict[str, object]) -> None:
        # Only the folder itself: its parent is the agent's, made by the nucleus or by hand.
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            file = fresh.open("wb", buffering=0)
            file.write(json.dumps(record).encode())
            os.fchmod(file.fileno(), 0o644)  # the agent may be another user
            fresh.replace(self._path)
        finally:
            if fresh.exists():
                fresh.unlink()
        if self._file:
            self._file.close()
        self._file = file


def main(arguments: Optional[List[str]] = None) -> int:
    """Register the model until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Registers a model with the edge agent.")
    parser.add_argument("--name", required=True, help="model component")
    parser.add_argument("--agent", required=True, help="the agent component's work folder")
    parser.add_argument("--records", required=True, help="folder of records, seen from there")
    parser.add_argument("--autostart", required=True, type=str.lower, choices=list(SWITCH))
    parser.add_argument("--threshold", type=_threshold, default="", help="'': the package's own")
    given = parser.parse_args(arguments)
    record: Dict[str, object] = {
        "model_component": given.name,
        "package": str(Path(__file__).resolve().parent),
        "autostart": SWITCH[given.autostart],
    }
    if given.threshold is not None:
        record["decision"] = {"threshold": given.threshold}
    path = Path(given.agent, given.records, f"{given.name}.json")
    own = ModelRecord(path, record)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    while True:
        own.ensure()
        if signal.sigtimedwait(STOP, CHECK_EVERY_S):
            break
    own.leave()
    return 0


def _threshold(text: str) -> Optional[float]:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 0 to 1")
    return value


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
