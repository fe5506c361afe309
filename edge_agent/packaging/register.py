"""What a model component runs on the device: it keeps its record in the agent's models.d.

It travels in the component's zip, beside the model package, and needs nothing but Python 3.8. The
record lasts as long as the process: it is written anew when it vanishes, so that neither the order
of starts nor a new folder matters, and taken out at SIGTERM. Two versions share one file name; the
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

LOOK_EVERY_S = 0.5
STOP = {signal.SIGTERM, signal.SIGINT}
SWITCH = {"true": True, "false": False}


class Registration:
    """The record of this process."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content
        # Held open so that no other file gets its inode number: that tells whose record is there.
        self._file: Optional[BinaryIO] = None
        self._complaint = ""

    def keep(self) -> None:
        """Write the record, at first over any other, later only where none is."""
        try:
            if self._file is None or not self._path.exists():
                self._write()
                self._complaint = ""
                _say(f"The record is {self._path}.")
        except OSError as error:
            complaint = f"Can't write {self._path} ({error.strerror}); trying on."
            if complaint != self._complaint:
                _say(complaint)
            self._complaint = complaint

    def withdraw(self) -> None:
        """Take the record out unless it is another process's by now."""
        try:
            if self._file and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            _say(f"Can't remove {self._path} ({error.strerror}).")

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
    """Keep the record until told to stop."""
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
    registration = Registration(path, json.dumps(record).encode())
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    while True:
        registration.keep()
        if signal.sigtimedwait(STOP, LOOK_EVERY_S):
            break
    registration.withdraw()
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


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
