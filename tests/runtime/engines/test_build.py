"""Engines built in real processes, with a FAKE of TensorRT and of the CUDA driver in them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import numpy as np
import pytest

from edge_agent.errors import BackendUnavailable, BuildFailed, InvalidPackage
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines import build as module
from edge_agent.runtime.engines import build_process
from edge_agent.runtime.engines.build import BuildProgress, EngineBuild
from edge_agent.runtime.engines.cache import EngineCache
from edge_agent.runtime.engines.machine import look
from edge_agent.runtime.processes.channel import Channel
from edge_agent.runtime.vision.picture_files import png
from tests import ROOT
from tests.conftest import children
from tests.fakes import fake_cuda, micro
from tests.fakes.disks import disk
from tests.fakes.engines import XAVIER, profile, settings
from tests.fakes.fake_tensorrt import NO_GRAPH, VERSIONS, asked

SITE = ROOT / "tests/fakes/fake_site"
MODEL = micro.graph("classification")
IMAGE = InputSpec(tensor="image", height=micro.SIZE, width=micro.SIZE)

# A module `tensorrt` with something amiss: {body} happens while kernels are measured.
AMISS = """
import os, resource, signal, sys, time
from pathlib import Path
from tests.fakes import fake_tensorrt, fake_tensorrt_runtime
def amiss():
{body}
trt = fake_tensorrt.tensorrt("8.5.2.2", while_building=amiss)
fake_tensorrt_runtime.add_runtime(trt)
{more}
sys.modules[__name__] = trt
"""

Seen = List[BuildProgress]


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the driver, and whose modules are found first."""
    folder = tmp_path / "site"
    folder.mkdir()
    fake_cuda.driver(folder)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{SITE}:{ROOT}")
    return folder


@pytest.fixture(name="cache")
def _cache(tmp_path: Path, site: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache", 1 << 30)


def amiss(site: Path, body: str, more: str = "") -> None:
    code = AMISS.format(body=textwrap.indent(body, "    "), more=more)
    (site / "tensorrt.py").write_text(code)


@functools.lru_cache(maxsize=None)
def release() -> str:
    """The release of this machine.s driver."""
    found = look()
    assert found.gpu is not None, found.no_gpu
    return found.gpu.driver


def wanted(model: bytes = MODEL, spec: Any = None, pictures: Any = (), **options: Any) -> Any:
    gpu = type(XAVIER)("Xavier", (7, 2), "11.4", release())
    version = options.pop("version", "8.5.2.2")
    return Fingerprint.of(version, gpu, model, spec or settings(), pictures, **options)


def build(cache: EngineCache, model: bytes = MODEL, spec: Any = None, **options: Any) -> Any:
    within_s, pictures = options.pop("within_s", 100.0), options.pop("pictures", ())
    spec, dla_core = spec or settings(), options.get("dla_core")
    return EngineBuild(
        model,
        IMAGE,
        spec,
        pictures,
        wanted(model, spec, pictures, **options),
        cache,
        dla_core=dla_core,
        within_s=within_s,
    )


def run(cache: EngineCache, *arguments: Any, **options: Any) -> Any:
    path = build(cache, *arguments, **options).run(lambda _: None)
    return asked(path.read_bytes())


def files(cache: EngineCache) -> List[str]:
    return sorted(path.name for path in cache.timing("").parent.iterdir())


def failure(cache: EngineCache, *arguments: Any, **options: Any) -> str:
    """The sentence of a build that must fail, and leave nothing behind."""
    with pytest.raises(BuildFailed) as caught:
        run(cache, *arguments, **options)
    assert files(cache) == []
    return str(caught.value)


def test_a_module_that_lies_where_the_agent_works_is_never_taken(
    cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for name in ("logging", "tensorrt"):
        (poisoned / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    monkeypatch.chdir(poisoned)

    assert run(EngineCache(Path("cache"), 1 << 30))
    assert run(cache)
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_loaded_and_found(
    version: str, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", version)
    seen: Seen = []

    path = build(cache, version=version).run(seen.append)

    assert cache.find(wanted(version=version)) == path
    assert asked(path.read_bytes())["version"] == version
    assert asked(path.read_bytes())["limits"]["WORKSPACE"] > 0
    stages = [progress.stage for progress in seen]
    assert stages == sorted(stages, key=["parsing", "measuring kernels", "loading"].index)
    assert stages[-1] == "loading"
    assert wanted(version=version).id + ".engine" in files(cache)
    assert len(files(cache)) == 3  # with its facts and the timing cache


def test_the_agent_itself_never_loads_tensorrt_or_the_driver(cache: EngineCache) -> None:
    run(cache)

    assert "tensorrt" not in sys.modules
    assert str(os.environ["LD_LIBRARY_PATH"]) not in Path("/proc/self/maps").read_text()


def test_what_was_measured_serves_the_next_build_of_another_model(cache: EngineCache) -> None:
    first = run(cache)
    second = run(cache, micro.graph("segmentation"))

    assert first["cached"] == ""
    assert second["cached"] == "timed with 8.5.2.2"


def test_int8_is_calibrated_with_all_pictures(cache: EngineCache) -> None:
    pictures = [png(np.full((micro.SIZE, micro.SIZE, 3), value, np.uint8)) for value in range(6)]
    spec = settings(precision="int8", profiles=(profile(1, 4),))

    told = run(cache, spec=spec, pictures=pictures)

    assert len(told["calibrated"]) == 2


def test_an_accelerator_is_used_with_the_gpu_for_the_rest(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_DLA", "2")

    told = run(cache, spec=settings(precision="fp16"), dla_core=1)

    assert (told["device"], told["dla_core"]) == ("DLA", 1)
    assert "GPU_FALLBACK" in told["flags"]


def test_the_time_of_the_last_build_is_what_the_next_expects(
    cache: EngineCache, tmp_path: Path
) -> None:
    seen: Seen = []
    build(cache).run(lambda _: None)
    (tmp_path / "cache" / f"{wanted().id}.engine").unlink()

    build(cache).run(seen.append)

    assert any(progress.remaining_s is not None for progress in seen)


WAITS = """
for _ in range(6000):
    if Path({path!r}).exists():
        break
    time.sleep(0.01)
"""


def test_progress_is_reported_while_kernels_are_measured(
    cache: EngineCache, site: Path, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    amiss(site, WAITS.format(path=str(go_on)))
    seen: Seen = []

    def note(progress: BuildProgress) -> None:
        seen.append(progress)
        if progress.stage == "measuring kernels":
            go_on.touch()

    build(cache).run(note)

    assert go_on.exists()
    fractions = [progress.fraction for progress in seen if progress.fraction is not None]
    assert fractions == sorted(fractions)
    elapsed = [progress.elapsed_s for progress in seen]
    assert elapsed == sorted(elapsed)


LOWLY = """
get_idle = 252 if os.uname().machine == "x86_64" else 31  # ioprio_get
idle = __import__("ctypes").CDLL(None).syscall(get_idle, 1, 0) >> 13
score = Path("/proc/self/oom_score_adj").read_text().strip()
Path({path!r}).write_text(f"{{os.nice(0)}} {{score}} {{idle}} {{os.getsid(0) == os.getpid()}}")
"""


def test_the_process_gives_way_to_everything_else(
    cache: EngineCache, site: Path, tmp_path: Path
) -> None:
    amiss(site, LOWLY.format(path=str(tmp_path / "lowly")))

    run(cache)

    assert (tmp_path / "lowly").read_text() == "19 1000 3 True"


ENDINGS = [
    ("os.kill(os.getpid(), signal.SIGKILL)",
     "ended by SIGKILL, probably by the kernel because memory ran out; dmesg shows it. Unload"),
    ("bytearray(1 << 60)", "Memory ran out while the engine was built. Unload other models"),
    ("os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\"); "
     "os.abort()", "Memory ran out while the engine was built. Unload other models"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "it was ended by SIGSEGV (Segmentation fault)."),
    ("os.write(2, b'kernel: odd\\n'); os.abort()",
     "it was ended by SIGABRT (Aborted); its last line: kernel: odd."),
    ("raise RuntimeError('odd')",
     "The engine build made no engine: it ended with exit status 1; its last line: "
     "RuntimeError: odd."),
    ("os.write(1, os.urandom(1 << 20)); os._exit(0)",
     "ended with exit status 0"),
    ("os.write(2, b'{\"stage\": 5}\\n{\"is_done\": 1}\\n'); os._exit(3)",
     "ended with exit status 3; its last line: {\"is_done\": 1}."),
]  # fmt: skip


@pytest.mark.parametrize(("body", "told"), ENDINGS)
def test_an_end_without_an_engine_is_a_sentence(
    body: str, told: str, cache: EngineCache, site: Path
) -> None:
    amiss(site, body)

    assert told in failure(cache)


def test_a_process_that_falls_silent_is_ended(
    cache: EngineCache, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENDS_WITHIN_S", 0.1)
    amiss(site, "os.write(1, b'odd\\n'); os.closerange(1, 100); time.sleep(1000)")

    assert failure(cache) == (
        "The engine build made no engine: it was ended because it didn't end by itself."
    )


def test_a_process_that_cannot_be_started_is_a_sentence(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = build(cache)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(BuildFailed, match="can't be started: No such file or directory"):
        building.run(lambda _: None)
    assert files(cache) == []


def test_what_tensorrt_warns_of_is_in_the_log_of_the_agent(
    cache: EngineCache, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "logging.getLogger('edge_agent').info('TensorRT warns: weights were rounded')"
    amiss(site, f"import logging; {warning}; os.write(2, b'x\\n' * 200)")

    with caplog.at_level(logging.INFO):
        run(cache)

    assert "): TensorRT warns: weights were rounded" in caplog.text
    assert caplog.text.count("): x") < 101


def test_events_of_one_stage_are_reported_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_process, "EVERY_S", 1000.0)
    agent, end = Channel.pair()
    reporter = build_process.Reporter(Channel(end))

    reporter.progress("parsing")
    for step in range(100):
        reporter.progress("measuring kernels", step / 100)
    reporter.progress("loading")
    end.close()

    stages = [received.content["stage"] for received in iter(agent.receive, None)]
    assert stages == ["parsing", "measuring kernels", "loading"]
    agent.close()


UNFINISHED = """
class Engine(trt.ICudaEngine):
    def create_execution_context(self):
        os.write(1, b'{"stage": ')
        return super().create_execution_context()
trt.ICudaEngine = Engine
"""


def test_what_libraries_print_between_does_no_harm(cache: EngineCache, site: Path) -> None:
    amiss(site, "os.write(1, os.urandom(1 << 20))", UNFINISHED)

    assert run(cache)


@pytest.mark.parametrize("call", ["ICudaEngine.create_execution_context", "Runtime.__init__"])
def test_a_crash_at_the_first_load_meets_only_the_building_process(
    call: str, cache: EngineCache, site: Path
) -> None:
    amiss(site, "pass", f"trt.{call} = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)")

    assert failure(cache) == (
        "The engine build made no engine: it was ended by SIGSEGV (Segmentation fault)."
    )


def test_an_engine_that_its_own_runtime_refuses_is_no_engine(
    cache: EngineCache, site: Path
) -> None:
    amiss(site, "pass", "trt.Runtime.deserialize_cuda_engine = lambda *_: None")

    with pytest.raises(BackendUnavailable, match="can't load the engine"):
        run(cache)
    assert files(cache) == []


def test_a_crash_costs_the_timing_cache_which_may_be_its_reason(
    cache: EngineCache, site: Path
) -> None:
    run(cache)
    amiss(site, "os.kill(os.getpid(), signal.SIGSEGV)")

    with pytest.raises(BuildFailed, match="SIGSEGV"):
        run(cache, micro.graph("segmentation"))

    assert not cache.timing("timing.cache").exists()


def test_a_build_that_takes_too_long_is_ended(cache: EngineCache, site: Path) -> None:
    amiss(site, "time.sleep(1000)")

    assert failure(cache, within_s=2.5) == (
        "The engine wasn't built within 2.5 s. Allow more in engine.build_within_s, or package the "
        "model with an engine built on a machine like this one."
    )


def test_a_build_is_cancelled_at_once_while_it_hangs(
    cache: EngineCache, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PULSE_S", 1000.0)
    hangs = tmp_path / "hangs"
    amiss(site, f"Path({str(hangs)!r}).touch(); time.sleep(1000)")
    building = build(cache)

    def cancel() -> None:
        wait_for(hangs.exists)
        building.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(BuildFailed, match=r"^The engine build was cancelled\.$"):
        building.run(lambda _: None)
    canceller.join()
    assert files(cache) == []


def test_a_build_cancelled_before_it_began_never_begins(cache: EngineCache) -> None:
    building = build(cache)
    building.cancel()

    with pytest.raises(BuildFailed, match="cancelled"):
        building.run(lambda _: pytest.fail("it ran"))
    assert building._process is None


def test_who_listens_to_progress_may_fail_and_no_process_is_left(cache: EngineCache) -> None:
    building = build(cache)

    def fail(_: BuildProgress) -> None:
        raise KeyError("listener")

    with pytest.raises(KeyError):
        building.run(fail)
    assert not children(build_process.MODULE)
    assert files(cache) == []


def test_a_file_that_is_no_graph_is_refused(cache: EngineCache) -> None:
    with pytest.raises(InvalidPackage) as caught:
        run(cache, b"rubbish")

    assert str(caught.value) == f"TensorRT 8.5.2.2 can't read model.onnx: {NO_GRAPH[:-1]}."


def test_a_precision_that_tensorrt_lacks_is_no_accident(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "11.4.0")
    with pytest.raises(BackendUnavailable, match=r"has no float16\. Export") as caught:
        run(cache, spec=settings(precision="fp16"), version="11.4.0")
    assert not isinstance(caught.value, BuildFailed)


def test_a_missing_tensorrt_is_named_with_how_to_install_it(cache: EngineCache, site: Path) -> None:
    text = "raise ModuleNotFoundError('No module', name='tensorrt')"
    (site / "tensorrt.py").write_text(text)

    with pytest.raises(BackendUnavailable, match="TensorRT isn't installed"):
        run(cache)


def test_a_gpu_that_fails_is_an_accident(cache: EngineCache, site: Path) -> None:
    fake_cuda.driver(site, fault="cuMemGetInfo:1=700")

    assert "cuMemGetInfo failed, an illegal memory access" in failure(cache)


def test_another_tensorrt_than_the_agent_saw_builds_nothing(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", "8.6.1")

    assert failure(cache) == (
        "The machine has changed since the agent started: TensorRT 8.5.2.2 → 8.6.1. Restart "
        "the agent."
    )


def test_a_disk_that_is_full_before_or_after_the_build_is_a_sentence(
    tmp_path: Path, site: Path
) -> None:
    model = micro.slow(steps=4)
    with disk(tmp_path / "disk", f"size={len(model) * 2 // 4096 * 4096}") as small:
        cache = EngineCache(small / "cache", 1 << 30)
        assert f"the disk of {small}/cache" in failure(cache, model)

        (small / "filler").write_bytes(bytes(len(model)))
        building = build(cache, model)
        with pytest.raises(BuildFailed, match=r"is full.* are free"):
            building.run(lambda _: pytest.fail("it ran"))
        assert files(cache) == []


def test_where_nothing_can_be_written_nothing_is_built(tmp_path: Path, site: Path) -> None:
    with disk(tmp_path / "disk", "size=1m,ro") as closed:
        cache = EngineCache(closed / "cache", 1 << 30)

        with pytest.raises(BuildFailed, match=r"can't be written \(Read-only file system\)\. Let"):
            run(cache)


def test_two_builds_of_one_engine_at_once_both_succeed(cache: EngineCache) -> None:
    paths: List[Optional[Path]] = []
    builds = [build(cache) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda each=each: paths.append(each.run(lambda _: None)))
        for each in builds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert paths == [cache.find(wanted())] * 2
    assert len(files(cache)) == 3


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.runtime.engines import test_build as here
from edge_agent.runtime.engines.cache import EngineCache
here.build(EngineCache(Path(sys.argv[1]), 1 << 30)).run(lambda _: None)
"""


@contextlib.contextmanager
def another_agent(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    code = PARENT.format(root=str(ROOT))
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    try:
        yield parent
    finally:
        parent.kill()
        parent.wait()


def test_the_process_ends_with_the_agent(cache: EngineCache, site: Path, tmp_path: Path) -> None:
    amiss(site, f"Path({str(tmp_path / 'id')!r}).write_text(str(os.getpid())); time.sleep(1000)")

    with another_agent(tmp_path / "cache") as parent:
        wait_for(lambda: (tmp_path / "id").exists() and (tmp_path / "id").read_text())
        building = int((tmp_path / "id").read_text())
        assert is_running(building)
        parent.kill()
        parent.wait()

        try:
            wait_for(lambda: not is_running(building))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(building, signal.SIGKILL)


def is_running(process: int) -> bool:
    """Whether it computes; what ended in a container may wait for ever to be noticed."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("parsing", None, 1.0, None), "parsing"),
        (("parsing", None, 10.0, 100.0), "parsing, about 2 min left"),
        (("measuring kernels", 0.34, 100.0, 400.0), "34 %, about 4 min left"),
        (("measuring kernels", 0.5, 60.0, None), "50 %, about 60 s left"),
        (("measuring kernels", 0.5, 300.0, 100.0), "50 %, about 2 min left"),
        (("measuring kernels", 0.01, 0.0, 20000.0), "1 %, about 6 h left"),
        (("measuring kernels", 0.0, 5.0, None), "0 %"),
        (("loading", None, 500.0, 400.0), "loading"),
        (("loading", None, 100.0, 400.0), "loading"),
        (("measuring kernels", 0.75, 100.0, 400.0), "75 %, about 2 min left"),
        (("measuring kernels", 0.996, 60.0, 36000.0), "99 %, about 2 min left"),
        (("measuring kernels", 0.996, 60.0, None), "99 %, about 1 s left"),
        (("measuring kernels", 1.0, 60.0, 36000.0), "100 %"),
        (("measuring kernels", 1.0, 60.0, None), "100 %"),
        (("measuring kernels", 0.004, 1.0, None), "0 %, about 4 min left"),
        (("measuring kernels", None, 60.0, 60.0), "measuring kernels"),
        (("measuring kernels", 0.5, 0.0, None), "50 %"),
    ],
)
def test_progress_is_shown_with_what_is_likely_to_remain(values: Any, told: str) -> None:
    assert str(BuildProgress.of(*values)) == told


def test_nothing_is_left_of_what_is_done() -> None:
    assert str(BuildProgress("measuring kernels", 1.0, 60.0, 180.0)) == "100 %"
