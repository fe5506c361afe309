"""Programs in a network of their own, where every name that they look up is seen.

unshare(1) makes that network; this module, run in it as a program, is its name server. It answers
every question with "no such name", writes the name into a file, and ends with its program.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Dict, List

from tests import ROOT

UNSHARE = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
_BIND = 4096  # mount(2)
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # netdevice(7)


class Watched:
    """A running program with a home and a working folder of its own, empty before."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.home, self.work = folder / "home", folder / "work"
        self._names = folder / "names"
        self._log = folder / "log"
        for path in (self.home, self.work):
            path.mkdir(parents=True)
        self._names.touch()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*UNSHARE, sys.executable, "-m", "tests.security.watched", str(folder), *command],
                cwd=self.work, env=self._environment(), stdout=log, stderr=log,
            )  # fmt: skip

    def _environment(self) -> Dict[str, str]:
        """What a user has who asks for telemetry; without the variables of a CI, which end it."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS")}
        return {
            **kept, "PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(ROOT),
            "ORT_DISABLE_TELEMETRY": "0", "GRPC_ENABLE_FORK_SUPPORT": "0",
        }  # fmt: skip

    def names(self) -> List[str]:
        """What was looked up."""
        return self._names.read_text().split()

    def traces(self) -> List[str]:
        """Files of onnxruntime's telemetry."""
        found = [*self.home.rglob("Microsoft/**/*"), *self.work.glob("*.ses")]
        return [str(path) for path in found]

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        """SIGTERM, wait, return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def is_possible() -> bool:
    """Whether this user may make a network."""
    try:
        return not subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def main(folder: Path, command: List[str]) -> int:
    _raise_loopback()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    _be_the_name_server(folder)
    threading.Thread(target=_answer, args=[server, folder / "names"], daemon=True).start()
    program = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    return program.wait()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", name, flags | _UP))


def _be_the_name_server(folder: Path) -> None:
    """Bind a file over /etc/resolv.conf, in this process's own view of the file system."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(bytes(file), b"/etc/resolv.conf", None, _BIND, None):
        raise OSError(ctypes.get_errno(), "mount")


def _answer(server: socket.socket, names: Path) -> None:
    while True:
        question, client = server.recvfrom(4096)
        labels, at = [], 12  # RFC 1035, 4.1
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
            at += 1 + question[at]
        with names.open("a") as log:
            log.write(".".join(labels) + "\n")
        server.sendto(question[:2] + b"\x81\x83" + question[4:], client)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
