"""Loads a graph in a short process with bounded memory before the agent loads it.

onnxruntime computes a graph's constants while it loads it, out of reach of any bound of its own: a
file of a few hundred bytes may ask for any amount. What that costs the process of the trial, it
would have cost the agent. `python -m edge_agent.runtime.engines.graph_trial` is that process.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from edge_agent.errors import EdgeAgentError, InvalidPackage, OutOfMemory
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_named
from edge_agent.runtime.processes.inquiry import ask
from edge_agent.runtime.processes.parent import answering

MODULE = "edge_agent.runtime.engines.graph_trial"
ENGINE = "onnxruntime"
WITHIN_S = 600.0
MIB = 1024 * 1024
LIBRARY_BYTES = 64 * MIB  # what importing onnxruntime takes


def check(model: bytes, manifest: Manifest, options: BackendOptions) -> None:
    """Raise OutOfMemory or InvalidPackage when loading `model` (ONNX) could end the agent.

    It may take `options.memory_bytes` beside two copies of the file. What else is wrong with the
    model is left to who loads it. Takes the time of loading and half a second more on a PC.
    """
    given = {"manifest": manifest.model_dump(mode="json"), "options": asdict(options)}
    content = json.dumps(given).encode() + b"\n" + model
    facts, ending = ask(MODULE, "tries to load the graph", WITHIN_S, content)
    if not facts:
        raise InvalidPackage(f"The graph can't be loaded safely. {ending}")
    if facts[-1].get("status") == OutOfMemory.status:
        raise OutOfMemory(
            f"The model's graph needs more memory to load than the {options.memory_bytes // MIB} "
            "MiB that are free within models.memory_limit_mib. Use a smaller model, stop another "
            "one, or raise the limit."
        )


def main() -> None:
    """Load what comes on stdin; report how that ended."""
    given, _, model = sys.stdin.buffer.read().partition(b"\n")
    values = json.loads(given)
    options = BackendOptions(**values["options"])
    manifest = Manifest.model_validate_json(json.dumps(values["manifest"]))
    with answering() as report:
        _limit(options.memory_bytes + 2 * len(model) + LIBRARY_BYTES)
        report({"status": _load(model, manifest, options)})


def _limit(more_bytes: int) -> None:
    """Let this process take only so much more, and leave no core file behind when it crashes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + more_bytes, now + more_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load(model: bytes, manifest: Manifest, options: BackendOptions) -> str:
    try:
        open_named(ENGINE, model, manifest, options).close()
    except EdgeAgentError as error:
        return error.status
    except MemoryError:
        return OutOfMemory.status
    return "OK"


if __name__ == "__main__":
    main()
