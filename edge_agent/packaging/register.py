"""What a model component runs on the device: it registers its model in the agent's models.d.

It travels in the component's zip, beside the model package, and needs nothing but Python 3.8. It
runs unpacked or from within the zip, and what it lies in is the package that it registers. The
record lasts as long as the process: it is written again when it vanishes, so that neither the order
of starts nor a new folder matters, and removed at SIGTERM. Two versions share one file name; the
later one's record wins, and the earlier one leaves it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO, Dict, List, Optional

CHECK_EVERY_S = 0.5
STOP = {signal.SIGTERM, signal.SIGINT}
SWITCH = {"true": True, "false": False}


class ModelRecord:
    """The record of this process."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content
        # Held open, so that no other file gets its inode number: by it we know our own record.
        self._file: Optional[BinaryIO] = None
        self._last_error = ""

    def ensure(self) -> None:
        """Write the record: at first over any other, later only where none is."""
        try:
            if self._file is None or not self._path.exists():
                self._write()
                self._last_error = ""
                _print(f"The model is registered in {self._path}.")
        except OSError as error:
            message = f"Can't write {self._path} ({error.strerror}); trying again."
            if message != self._last_error:
                _print(message)
            self._last_error = message

    def remove(self) -> None:
        """Remove the record unless it is another process's by now."""
        try:
            if self._file and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            _print(f"Can't remove {self._path} ({error.strerror}).")

    def _write(self) -> None:
        # Only the folder itself: its parent is the agent's, made by the nucleus or by hand.
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            file = fresh.open("wb", buffering=0)
            file.write(self._content)
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
    own = ModelRecord(path, json.dumps(record).encode())
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    while True:
        own.ensure()
        if signal.sigtimedwait(STOP, CHECK_EVERY_S):
            break
    own.remove()
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
