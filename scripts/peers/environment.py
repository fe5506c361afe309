"""A throw-away Python environment: one peer installed, and our code beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Dict

import edge_agent
from scripts.peers.servers import FOLDER, PeerServer

VENV_WITHIN_S = 30.0
INSTALL_WITHIN_S = 150.0


def install(peer: PeerServer, folder: Path) -> Path:
    """Make an environment in `folder` with the peer's requirements; return its interpreter.

    Raises RuntimeError with the end of pip's output.
    """
    python = folder / "bin" / "python"
    _run([sys.executable, "-m", "venv", str(folder)], VENV_WITHIN_S)
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    _run([*command, "-r", str(peer.requirements)], INSTALL_WITHIN_S)
    return python


def variables(folder: Path) -> Dict[str, str]:
    """Return what lets a peer import edge_agent and this package, and nothing else, from `folder`.

    A server that embeds Python loads libpython by name: it must find that of this interpreter, not
    another release's, which doesn't fit the standard library.
    """
    folder.mkdir()
    (folder / "edge_agent").symlink_to(Path(edge_agent.__file__).parent)
    (folder / "scripts").symlink_to(FOLDER.parent)
    libraries = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}


def _run(command: list[str], within_s: float) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=within_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command[:5])} … took longer than {within_s:g} s.") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise RuntimeError(f"{' '.join(command[:5])} … failed: {' '.join(last)}")
