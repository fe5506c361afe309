"""From the engine that is ready to the one that is wanted, on a FAKE GPU with a FAKE TensorRT."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional
from urllib.request import urlopen

import onnx
import pytest

from edge_agent.errors import AgentUnavailable
from edge_agent.manifest import FileEntry, parse
from edge_agent.runtime.engines.spec import build_spec
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.packages.package import Package
from edge_agent.types import BuildState, ModelInfo, ModelState
from tests.contract.calls import until as contract_until
from tests.fakes import golden, signatures
from tests.fakes.broker import free_port
from tests.fakes.device import Device
from tests.fakes.gpu_machine import GpuMachine

NAME = "m"
WITHIN_S = 60.0


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuMachine:
    return GpuMachine(tmp_path, monkeypatch)


def package(machine: GpuMachine, precision: str = "fp16", **changes: Any) -> Path:
    runtime = {"batch_sizes": [1, 4], "precision": precision, "parity_tolerance": 0.05}
    folder = machine.folder / "packages" / NAME
    return golden.write(folder, "classification", **{"runtime": runtime, **changes})


@contextmanager
def running(machine: GpuMachine, **settings: Any) -> Iterator[Device]:
    """A device of that machine on which the package is RUNNING."""
    with machine.device(**settings) as device:
        device.record(NAME)
        device.run(NAME)
        yield device


def until(device: Device, holds: Callable[[ModelInfo], bool]) -> ModelInfo:
    end = time.monotonic() + WITHIN_S
    while True:
        info = device.detector.describe(NAME)
        if holds(info):
            return info
        assert time.monotonic() < end, info
        device.registry.supervise()
        time.sleep(0.01)


def add_files(folder: Path, files: Dict[str, bytes]) -> None:
    """Add files to a package and list them in its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        manifest["files"].append(FileEntry.of(name, content).model_dump())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def on(engine: str) -> Callable[[ModelInfo], bool]:
    return lambda info: info.engine.startswith(engine)


def figures(port: int) -> Dict[str, float]:
    """The Prometheus endpoint's samples of engines."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = [line.rpartition(" ") for line in reply.read().decode().splitlines()]
    return {name: float(value) for name, _, value in lines if name.startswith("edge_agent_Engine")}


def workers(pid: int) -> List[int]:
    """Worker processes of TensorRT that `pid` has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for task in tasks for child in task.read_text().split()]
    return [one for one in found if b"trt_worker" in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_a_model_serves_at_once_and_changes_over_when_its_engine_is_built(
    machine: GpuMachine,
) -> None:
    package(machine)
    machine.say("hold")
    with running(machine) as device:
        info = until(device, lambda info: "is being built" in info.message)
        assert on("onnxruntime on CPU")(info)
        assert "The TensorRT engine (fp16) is being built: " in info.message
        assert info.build is not None
        before = device.detect(NAME, 170).score
        machine.unsay("hold")
        info = until(device, on("tensorrt on GPU Fake Xavier"))
        assert info.build is None
        expected = "3 inference units of tensorrt on GPU Fake Xavier, fp16, batches of up to 4."
        assert expected in info.message
        assert "Reproduces 2 golden samples." in info.message
        assert device.detect(NAME, 170).score == pytest.approx(before, abs=1e-5)
        assert len(workers(os.getpid())) == 1
    assert workers(os.getpid()) == []


def test_no_call_fails_while_the_engine_changes(machine: GpuMachine) -> None:
    package(machine)
    machine.say("hold")
    with running(machine) as device:
        done, failures, scores = threading.Event(), [], set()

        def call() -> None:
            while not done.is_set():
                try:
                    scores.add(round(device.detect(NAME, 170).score, 4))
                except Exception as error:
                    failures.append(error)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        machine.unsay("hold")
        until(device, on("tensorrt"))
        time.sleep(0.2)
        done.set()
        for caller in callers:
            caller.join()
        assert failures == []
        assert scores == {round(170 / 255, 4)}


def test_a_built_engine_serves_from_the_start(machine: GpuMachine) -> None:
    package(machine)
    for _ in range(2):
        with running(machine) as device:
            until(device, on("tensorrt"))
    with running(machine, wait_for_engine=True) as device:
        assert on("tensorrt")(device.detector.describe(NAME))
    assert machine.builds == 1


def test_who_waits_for_the_engine_is_starting_meanwhile(machine: GpuMachine) -> None:
    package(machine)
    machine.say("hold")
    with machine.device(wait_for_engine=True) as device:
        device.record(NAME)
        device.detector.start(NAME)
        info = until(device, lambda info: "is being built" in info.message)
        assert info.state is ModelState.STARTING
        machine.unsay("hold")
        device.wait(NAME, ModelState.RUNNING)
        assert on("tensorrt")(device.detector.describe(NAME))


@pytest.mark.parametrize("only", [{"wait_for_engine": True}, {"backends": ["tensorrt"]}])
def test_who_wants_only_tensorrt_fails_with_the_reason_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: Dict[str, Any]
) -> None:
    machine = GpuMachine(tmp_path, monkeypatch, init=100)
    package(machine)
    with machine.device(**only) as device:
        device.record(NAME)
        device.detector.start(NAME)
        device.wait(NAME, ModelState.FAILED)
        assert "no NVIDIA GPU" in device.detector.describe(NAME).message


def test_a_precision_that_gives_other_results_is_stepped_down_and_not_tried_again(
    machine: GpuMachine, caplog: pytest.LogCaptureFixture
) -> None:
    package(machine)
    machine.say("wrong", "fp16")
    with running(machine) as device:
        info = until(device, on("tensorrt"))
        assert info.engine.endswith(", fp32")
        assert "Not in fp16: tensorrt on GPU Fake Xavier gives other results" in info.message
        assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)
    assert machine.builds == 2
    table = [line for line in caplog.messages if line.startswith(f"{NAME}: ")]
    assert any("score" in line and "reference" not in line for line in table)
    with running(machine) as device:
        until(device, on("tensorrt"))
    assert machine.builds == 2


def test_a_model_stays_on_the_cpu_when_no_precision_gives_its_results(machine: GpuMachine) -> None:
    package(machine)
    machine.say("wrong", "fp16 fp32")
    with running(machine) as device:
        info = until(device, lambda info: "Not on tensorrt" in info.message)
        assert on("onnxruntime on CPU")(info)
        assert "fp16: tensorrt on GPU Fake Xavier gives other results" in info.message
        assert "fp32: tensorrt on GPU Fake Xavier gives other results" in info.message
        assert info.build is None


def test_a_killed_build_is_reported_and_the_model_serves_on(machine: GpuMachine) -> None:
    package(machine)
    machine.say("kill")
    with running(machine) as device:
        info = until(device, lambda info: "SIGKILL" in info.message)
        assert on("onnxruntime")(info)
        assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)
        machine.unsay("kill")
        device.detector.stop(NAME)
        device.run(NAME)
        until(device, on("tensorrt"))


@pytest.mark.parametrize("wait", [True, False])
def test_a_model_that_goes_ends_its_build(machine: GpuMachine, wait: bool) -> None:
    package(machine)
    machine.say("hold")
    with machine.device(wait_for_engine=wait) as device:
        device.record(NAME)
        device.detector.start(NAME)
        until(device, lambda info: "is being built" in info.message)
        (device.records / f"{NAME}.json").unlink()
        began = time.monotonic()
        device.sync()
        device.sync()
    assert time.monotonic() - began < 15.0
    end = time.monotonic() + WITHIN_S
    while list(machine.cache.glob("build-*")):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert machine.kept() == []


def test_a_stopped_model_ends_its_build(machine: GpuMachine) -> None:
    package(machine)
    machine.say("hold")
    with running(machine) as device:
        until(device, lambda info: "is being built" in info.message)
        device.detector.stop(NAME)
        machine.unsay("hold")
        info = device.detector.describe(NAME)
        assert (info.state, info.message, info.build) == (ModelState.STOPPED, "", None)
    assert machine.kept() == []


def test_callers_of_a_worker_that_dies_get_a_retryable_status_and_then_answers(
    machine: GpuMachine,
) -> None:
    package(machine)
    with running(machine, wait_for_engine=True) as device:
        (worker,) = workers(os.getpid())
        os.kill(worker, signal.SIGKILL)
        end, scores, refusals = time.monotonic() + WITHIN_S, [], []
        while len(scores) < 3:
            assert time.monotonic() < end
            try:
                scores.append(device.detect(NAME, 170).score)
            except AgentUnavailable as error:
                refusals.append(str(error).lower())
        assert scores == pytest.approx([170 / 255] * 3, abs=1e-4)
        assert all("call again" in refusal for refusal in refusals)
        assert on("tensorrt")(device.detector.describe(NAME))


def test_a_worker_that_dies_again_and_again_is_left_for_another_engine(
    machine: GpuMachine,
) -> None:
    package(machine)
    with running(machine) as device:
        until(device, on("tensorrt"))
        end = time.monotonic() + WITHIN_S
        while not on("onnxruntime")(device.detector.describe(NAME)):
            assert time.monotonic() < end
            for worker in workers(os.getpid()):
                os.kill(worker, signal.SIGKILL)
            device.registry.supervise()
            time.sleep(0.05)
        message = device.detector.describe(NAME).message
        assert "Not on tensorrt: The model's GPU worker died 4 times within 60 s" in message
        assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)


def test_a_new_version_is_built_for_as_well(machine: GpuMachine) -> None:
    package(machine)
    machine.say("hold")
    with running(machine) as device:
        until(device, lambda info: "is being built" in info.message)
        package(machine, precision="fp32", version="2")
        device.look()
        machine.unsay("hold")
        info = until(device, on("tensorrt"))
        assert info.message.startswith("Version 2,")


@pytest.mark.parametrize("is_signed", [True, False])
def test_a_signed_package_brings_the_engine_that_was_built_for_this_very_machine(
    machine: GpuMachine, tmp_path: Path, is_signed: bool
) -> None:
    folder = package(machine)
    with running(machine, wait_for_engine=True):
        pass
    wanted = next(EngineSupply(machine.settings()).candidates(Package(folder))).fingerprint
    (engine,) = machine.cache.glob("*.engine")
    files = {f"engines/{wanted.id}.engine": engine.read_bytes()}
    files[f"engines/{wanted.id}.json"] = wanted.to_json()
    add_files(folder, files)
    engine.unlink()
    private = signatures.key(tmp_path, "plant")
    signatures.signed(folder, private)
    trusted = private.with_suffix(".pem") if is_signed else None
    with running(machine, wait_for_engine=True, trusted=trusted) as device:
        assert on("tensorrt")(device.detector.describe(NAME))
    assert machine.builds == (1 if is_signed else 2)


def test_an_engine_of_another_release_is_rebuilt_and_says_why(
    machine: GpuMachine, caplog: pytest.LogCaptureFixture
) -> None:
    package(machine)
    with running(machine, wait_for_engine=True):
        pass
    text = (machine.site / "tensorrt.py").read_text()
    (machine.site / "tensorrt.py").write_text(text.replace("8.5.2.2", "8.6.1"))
    caplog.set_level("INFO")
    with running(machine) as device:
        until(device, on("tensorrt"))
    assert machine.builds == 2
    assert any("TensorRT 8.5.2.2 → 8.6.1" in line for line in caplog.messages)


def compatible(machine: GpuMachine) -> Path:
    """A package whose engine is to outlast an upgrade of TensorRT."""
    folder = package(machine)
    manifest = parse((folder / "manifest.json").read_bytes())
    build = build_spec(manifest).model_copy(update={"version_compatible": True})
    content = manifest.model_copy(update={"build": build}).to_json()
    (folder / "manifest.json").write_bytes(content)
    return folder


def upgrade(machine: GpuMachine, old: str, new: str) -> None:
    text = (machine.site / "tensorrt.py").read_text()
    (machine.site / "tensorrt.py").write_text(text.replace(old, new))


def test_a_version_compatible_engine_goes_on_serving_after_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = GpuMachine(tmp_path, monkeypatch, "10.3.0")
    compatible(machine)
    caplog.set_level("INFO")
    for _ in range(2):
        with running(machine, wait_for_engine=True) as device:
            assert on("tensorrt")(device.detector.describe(NAME))
            assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)
        upgrade(machine, "10.3.0", "10.16.1")
    assert machine.builds == 1
    assert any("is used further: TensorRT 10.3.0 → 10.16.1" in line for line in caplog.messages)


def test_one_with_other_results_after_the_upgrade_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = GpuMachine(tmp_path, monkeypatch, "10.3.0")
    compatible(machine)
    with running(machine, wait_for_engine=True):
        pass
    swap_channels(machine)
    upgrade(machine, "10.3.0", "10.16.1")
    with running(machine) as device:
        until(device, on("tensorrt"))
        assert device.detect(NAME, 170).score == pytest.approx(170 / 255, abs=1e-4)
    assert machine.builds == 2
    assert len(list(machine.cache.glob("*.bad"))) == 1
    assert list(machine.cache.glob("*.refused")) == []


def swap_channels(machine: GpuMachine) -> None:
    """Let the engine in the cache take red for blue, as its facts say it always did."""
    (path,) = machine.cache.glob("*.engine")
    plan = json.loads(path.read_bytes())
    model = onnx.load_model_from_string(base64.b64decode(plan["model"]))
    split = next(node for node in model.graph.node if node.op_type == "Split")
    split.output[0], split.output[2] = split.output[2], split.output[0]
    plan["model"] = base64.b64encode(model.SerializeToString()).decode()
    path.write_text(json.dumps(plan))
    facts = json.loads(path.with_suffix(".json").read_text())
    facts["bytes"] = path.stat().st_size
    facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(facts))


def test_a_damaged_engine_is_put_aside_and_built_again(machine: GpuMachine) -> None:
    package(machine)
    with running(machine, wait_for_engine=True):
        pass
    (engine,) = machine.cache.glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:-7])
    with running(machine) as device:
        until(device, on("tensorrt"))
    assert machine.builds == 2
    assert len(list(machine.cache.glob("*.bad"))) == 1


def test_an_agent_with_a_gpu_reports_to_its_clients_and_its_metrics_what_computes(
    machine: GpuMachine,
) -> None:
    port = free_port()
    agent = machine.agent("--set", f"server.metrics=127.0.0.1:{port}")
    golden.write(agent.models / NAME, "anomaly_map", runtime={"batch_sizes": [1, 4]})
    machine.say("hold")
    with agent, agent.client() as client:
        agent.run(NAME)
        cpu = f'edge_agent_Engine{{engine="onnxruntime on CPU",model="{NAME}"}}'
        gpu = cpu.replace("onnxruntime on CPU", "tensorrt on GPU Fake Xavier, fp32")
        build = f'edge_agent_EngineBuild{{model="{NAME}"}}'
        contract_until(lambda: build in figures(port))
        assert figures(port)[cpu] == 1.0
        before = client.detect(NAME, golden.BAD)
        machine.unsay("hold")
        contract_until(lambda: gpu in figures(port), within_s=WITHIN_S)
        assert figures(port) == {gpu: 1.0}
        after = client.detect(NAME, golden.BAD)
        assert after.score == pytest.approx(before.score, abs=1e-5)
        assert (after.mask == before.mask).all()
        assert agent.process is not None
        (worker,) = workers(agent.process.pid)
        assert agent.stop() == 0
    contract_until(lambda: not Path(f"/proc/{worker}").exists())


def test_progress_and_time_left_are_figures_as_long_as_an_engine_is_built() -> None:
    metrics = Metrics()

    def figure(name: str) -> Optional[float]:
        return metrics.registry.get_sample_value(f"edge_agent_{name}", {"model": NAME})

    metrics.runs_on(NAME, "onnxruntime on CPU", BuildState(0.25, 90.0))
    assert (figure("EngineBuild"), figure("EngineBuildLeft")) == (0.25, 90.0)
    metrics.runs_on(NAME, "onnxruntime on CPU", BuildState(0.5))
    assert (figure("EngineBuild"), figure("EngineBuildLeft")) == (0.5, None)
    metrics.runs_on(NAME, "tensorrt on GPU", None)
    assert (figure("EngineBuild"), figure("EngineBuildLeft")) == (None, None)
