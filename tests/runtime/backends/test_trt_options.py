"""What TensorRT offers from 8.6 on, with a FAKE of it; with the real one for RTX where named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from edge_agent.errors import BackendUnavailable
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends import trt_loading
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.trt_engine import Built, EngineBuilder
from edge_agent.runtime.engines.make import make
from edge_agent.targets import BuildSpec
from tests.fakes import fake_cuda, fake_tensorrt, fake_tensorrt_runtime, micro
from tests.fakes.engines import settings
from tests.fakes.fake_tensorrt import VERSIONS, asked
from tests.packaging import graphs

MODEL = micro.graph("classification")
IMAGE = InputSpec(tensor="image", height=micro.SIZE, width=micro.SIZE)
ALL = {"optimisation_level": 5, "hardware_compatible": True, "version_compatible": True}
FROM_8_6 = VERSIONS[1:]
A2, L4 = Gpu("A2", (8, 6), "12.2", "535"), Gpu("L4", (8, 9), "12.4", "550")
ORIN = Gpu("Orin", (8, 7), "12.6", "R36.4.0", is_integrated=True)
T4 = Gpu("T4", (7, 5), "12.2", "535")


def told(version: str, spec: BuildSpec, model: bytes = MODEL, **options: Any) -> Any:
    trt = fake_tensorrt.tensorrt(version, dla_cores=1)
    return asked(EngineBuilder(trt).build(model, spec, **options).engine)


@pytest.mark.parametrize("version", FROM_8_6)
def test_from_8_6_on_tensorrt_is_asked_for_all_of_it(version: str) -> None:
    made = told(version, settings(**ALL))

    assert (made["level"], made["is_portable"]) == (5, True)
    assert "VERSION_COMPATIBLE" in made["flags"]
    assert "EXCLUDE_LEAN_RUNTIME" not in made["flags"], "nothing could load it after an upgrade"


@pytest.mark.parametrize("version", FROM_8_6)
def test_what_nobody_wants_stays_as_tensorrt_has_it(version: str) -> None:
    made = told(version, settings())

    assert (made["level"], made["is_portable"]) == (3, False)
    assert "VERSION_COMPATIBLE" not in made["flags"]


@pytest.mark.parametrize("version", FROM_8_6)
def test_the_lowest_level_is_a_level(version: str) -> None:
    assert told(version, settings(optimisation_level=0))["level"] == 0


def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_8_5_builds_without_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    made = told("8.5.2.2", settings(**ALL))

    assert (made["level"], made["is_portable"], made["flags"]) == (None, False, [])
    assert warnings(caplog) == [
        "TensorRT 8.5.2.2 lacks optimisation levels and hardware compatibility and version "
        "compatibility; the engine is built without."
    ]


@pytest.mark.parametrize("version", FROM_8_6)
def test_an_accelerator_has_engines_of_its_own(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [graphs.node("QuantizeLinear", ["float", "scale", "zero"], ["small"]),
             graphs.node("DequantizeLinear", ["small", "scale", "zero"], ["back"])]  # fmt: skip
    constants = [graphs.constant("scale", 0.5), graphs.constant("zero", 0, np.int8)]
    model = graphs.scorer(nodes, constants, head="back")
    spec = settings(precision="int8", quantised=True, **ALL)

    made = told(version, spec, model, dla_core=0)

    assert (made["level"], made["is_portable"]) == (5, False)
    assert "VERSION_COMPATIBLE" not in made["flags"]
    assert "on the DLA lacks hardware compatibility and version" in "".join(warnings(caplog))


def normalising() -> bytes:
    nodes = [
        graphs.node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        graphs.node("InstanceNormalization", ["planes", "ones", "zeros"], ["normal"]),
    ]
    constants = [graphs.constant("ones", np.ones(3)), graphs.constant("zeros", np.zeros(3))]
    return graphs.scorer(nodes, constants, head="normal")


@pytest.mark.parametrize("version", FROM_8_6)
@pytest.mark.parametrize("name", ["hardware_compatible", "version_compatible"])
def test_what_is_compatible_is_parsed_without_plugins(version: str, name: str) -> None:
    assert told(version, settings(**{name: True}), normalising())


@pytest.fixture(name="gpu")
def _gpu(tmp_path: Path) -> Any:
    def made(**options: Any) -> CtypesDriver:
        return CtypesDriver(fake_cuda.driver(tmp_path, **options))

    return made


def made_by(trt: Any, driver: CtypesDriver, spec: BuildSpec) -> Built:
    with driver.context():
        return make(EngineBuilder(trt), driver, MODEL, IMAGE, spec, ())


@pytest.mark.parametrize(
    ("machine", "is_portable"),
    [
        ({"capability": (8, 6)}, True),
        ({"capability": (7, 5)}, False),
        ({"capability": (8, 7), "integrated": 1}, False),
    ],
)
def test_gpus_before_ampere_and_jetsons_build_for_themselves(
    machine: Dict[str, Any], is_portable: bool, gpu: Any, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    driver = gpu(**machine)
    library = str(tmp_path / "libcuda.so.1")
    trt = fake_tensorrt_runtime.add_runtime(fake_tensorrt.tensorrt("10.3.0"), library)

    built = made_by(trt, driver, settings(hardware_compatible=True))

    assert asked(built.engine)["is_portable"] == is_portable
    assert ("will work on this kind of GPU only" in "".join(warnings(caplog))) == (not is_portable)


def test_without_the_lean_runtime_the_engine_is_for_this_release_only(
    gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trt = fake_tensorrt.tensorrt("10.3.0", has_lean=False)

    built = made_by(trt, gpu(), settings(version_compatible=True))

    assert "VERSION_COMPATIBLE" not in asked(built.engine)["flags"]
    assert "install libnvinfer_lean. TensorRT 10.3.0 can't build" in warnings(caplog)[-1]


def test_another_failure_of_a_version_compatible_build_is_one(gpu: Any) -> None:
    with pytest.raises(BackendUnavailable, match="can't build the engine: no such kernel"):
        made_by(
            fake_tensorrt.tensorrt("10.3.0", failure="no such kernel"),
            gpu(),
            settings(version_compatible=True),
        )


LATER = [
    ("8.6.1", "8.6.1", True), ("8.6.1", "8.6.2", True), ("10.3.0", "10.16.1", True),
    ("10.16.1", "10.3.0", False), ("8.6.1", "10.3.0", False), ("10.16.1", "11.4.0", False),
]  # fmt: skip


@pytest.mark.parametrize(("built", "here", "loads"), LATER)
def test_host_code_runs_where_it_is_allowed_only(
    built: str, here: str, loads: bool, gpu: Any, tmp_path: Path
) -> None:
    """And an engine serves exactly where the runtime takes it."""
    library = str(tmp_path / "libcuda.so.1")
    driver = gpu()
    spec = settings(version_compatible=True)
    engine = EngineBuilder(fake_tensorrt.tensorrt(built)).build(MODEL, spec).engine
    trt = fake_tensorrt_runtime.add_runtime(fake_tensorrt.tensorrt(here), library)
    there, now = (Fingerprint.of(one, A2, MODEL, spec) for one in (built, here))

    assert there.serves(now) == loads
    with driver.context():
        for allowed in (False, True):
            runtime = trt_loading.runtime(trt, None, allow_host_code=allowed)
            if loads and allowed:
                assert trt_loading.engine(trt, runtime, engine)
            else:
                with pytest.raises(BackendUnavailable):
                    trt_loading.engine(trt, runtime, engine)
            del runtime


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_allowed_is_no_matter_to_other_engines(
    version: str, gpu: Any, tmp_path: Path
) -> None:
    driver = gpu()
    trt = fake_tensorrt_runtime.add_runtime(
        fake_tensorrt.tensorrt(version), str(tmp_path / "libcuda.so.1")
    )
    engine = EngineBuilder(trt).build(MODEL, settings()).engine
    with driver.context():
        runtime = trt_loading.runtime(trt, None, allow_host_code=True)
        assert trt_loading.engine(trt, runtime, engine)
        del runtime


def of(gpu: Gpu, version: str = "10.3.0", dla_core: Any = None, **changes: Any) -> Fingerprint:
    return Fingerprint.of(version, gpu, b"model", settings(**changes), dla_core=dla_core)


def both(**changes: Any) -> Any:
    return {"hardware_compatible": True, "version_compatible": True, **changes}


PORTABLE = {"hardware_compatible": True}
LASTING = {"version_compatible": True}
NEWER = Gpu("A2", (8, 6), "12.4", "550")
SERVING = [
    (of(A2), of(A2), True),
    (of(A2), of(NEWER), False),
    (of(A2), of(L4), False),
    (of(A2, **PORTABLE), of(L4, **PORTABLE), True),
    (of(L4, **PORTABLE), of(A2, **PORTABLE), False),  # the driver there is older than its CUDA
    (of(A2, **PORTABLE), of(NEWER, **PORTABLE), True),
    (of(A2, **PORTABLE), of(L4), False),
    (of(A2, **PORTABLE), of(L4, "10.4.0", **PORTABLE), False),
    (of(A2, **PORTABLE), of(T4, **PORTABLE), False),
    (of(A2, **PORTABLE), of(ORIN, **PORTABLE), False),
    (of(ORIN, **PORTABLE), of(L4, **PORTABLE), False),
    (of(A2, "8.5.2.2", **PORTABLE), of(L4, "8.5.2.2", **PORTABLE), False),
    (of(A2, **LASTING), of(A2, "10.16.1", **LASTING), True),
    (of(A2, **LASTING), of(NEWER, "10.16.1", **LASTING), True),
    (of(A2, **LASTING), of(L4, "10.16.1", **LASTING), False),
    (of(A2, **LASTING), of(A2, "10.16.1", precision="fp16", **LASTING), False),
    (of(A2, "8.5.2.2", **LASTING), of(A2, "8.6.1", **LASTING), False),
    (of(ORIN, **LASTING), of(ORIN, "10.7.0", **LASTING), True),
    (of(ORIN, dla_core=0, **LASTING), of(ORIN, "10.7.0", dla_core=0, **LASTING), False),
    (of(A2, **both()), of(L4, "10.16.1", **both()), True),
    (of(A2, **both()), of(L4, "10.16.1", **both(optimisation_level=1)), False),
]  # fmt: skip


@pytest.mark.parametrize(("made", "wanted", "serves"), SERVING)
def test_an_engine_serves_as_far_as_it_is_compatible(
    made: Fingerprint, wanted: Fingerprint, serves: bool
) -> None:
    assert made.serves(wanted) == serves


@pytest.fixture(name="rtx", scope="module")
def _rtx() -> Any:
    reason = "TensorRT-RTX, which builds without a GPU, isn't installed here"
    return pytest.importorskip("tensorrt_rtx", reason=reason)


@pytest.mark.filterwarnings("ignore:.*[Tt]iming cache:DeprecationWarning")
class TestWithTheRealTensorRtForRtx:
    @pytest.mark.parametrize("level", [0, 5])
    def test_every_level_is_taken(self, level: int, rtx: Any) -> None:
        assert EngineBuilder(rtx).build(MODEL, settings(optimisation_level=level)).engine

    def test_what_it_does_not_do_it_says_itself(
        self, rtx: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")

        assert EngineBuilder(rtx).build(MODEL, settings(hardware_compatible=True)).engine

        assert "setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX" in caplog.text

    def test_it_has_no_lean_runtime_and_builds_without(
        self, rtx: Any, gpu: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert made_by(rtx, gpu(), settings(version_compatible=True)).engine

        assert "install libnvinfer_lean" in "".join(warnings(caplog))
        assert fake_tensorrt.NO_LEAN.split(":")[0] in caplog.text
