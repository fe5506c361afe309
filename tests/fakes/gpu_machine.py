"""A machine with a FAKE GPU and a FAKE TensorRT, for every process that is started on it.

What the fakes do amiss is said by files in the machine's folder, read while an engine is built:
    hold     the build waits until the file is gone
    kill     the build is killed
    wrong    precisions, with blanks; engines of these take red for blue
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional

import pytest

from edge_agent.config import EngineSettings
from tests import ROOT
from tests.fakes import fake_cuda
from tests.fakes.agent import Agent
from tests.fakes.device import Device

TENSORRT = """
import base64, json, os, signal, sys, time
from pathlib import Path

import onnx

sys.path.insert(1, {root!r})
from tests.fakes import fake_tensorrt, fake_tensorrt_runtime

HERE = Path(__file__).parent

def amiss():
    (HERE / "builds").open("a").write("x")
    if (HERE / "kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(6000):
        if not (HERE / "hold").exists():
            return
        time.sleep(0.01)

fake = fake_tensorrt.tensorrt({version!r}, while_building=amiss)

class Builder(fake.Builder):
    def build_serialized_network(self, network, config):
        told = json.loads(bytes(super().build_serialized_network(network, config)))
        flags = told["flags"]
        precision = "int8" if "INT8" in flags else "fp16" if "FP16" in flags else "fp32"
        wrong = (HERE / "wrong").read_text().split() if (HERE / "wrong").exists() else []
        if precision in wrong:
            model = onnx.load_model_from_string(base64.b64decode(told["model"]))
            split = next(node for node in model.graph.node if node.op_type == "Split")
            split.output[0], split.output[2] = split.output[2], split.output[0]
            told["model"] = base64.b64encode(model.SerializeToString()).decode()
        return fake_tensorrt._Memory(json.dumps(told).encode())

fake.Builder = Builder
sys.modules[__name__] = fake_tensorrt_runtime.add_runtime(fake)
"""


class GpuMachine:
    """`folder` holds the fakes, the cache of engines, and what a `device` or an `agent` serves."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        version: str = "8.5.2.2",
        **options: Any,
    ) -> None:
        self.folder, self.cache = folder, folder / "engines"
        self.site = folder / "site"
        self.site.mkdir()
        fake_cuda.driver(self.site, **{"name": "Fake Xavier", **options})
        (self.site / "tensorrt.py").write_text(TENSORRT.format(root=str(ROOT), version=version))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(self.site))
        monkeypatch.setenv("PYTHONPATH", f"{self.site}:{ROOT}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))

    def say(self, name: str, text: str = "") -> None:
        (self.site / name).write_text(text)

    def unsay(self, name: str) -> None:
        (self.site / name).unlink()

    @property
    def builds(self) -> int:
        """How many engines were being built until now."""
        path = self.site / "builds"
        return len(path.read_text()) if path.exists() else 0

    def settings(self, **changes: Any) -> EngineSettings:
        values = {"threads": 1, "cache": str(self.cache), **changes}
        return EngineSettings.model_validate(values)

    def device(self, trusted: Optional[Path] = None, **changes: Any) -> Device:
        return Device(self.folder, engine=self.settings(**changes), trusted=trusted)

    def agent(self, *arguments: str) -> Agent:
        cache = f"engine.cache={self.cache}"
        return Agent(self.folder, "--set", cache, "--set", "engine.threads=1", *arguments)

    def kept(self) -> List[str]:
        """Which engines are in the cache."""
        return sorted(path.name for path in self.cache.glob("*.engine"))
