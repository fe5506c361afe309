"""Frames resized by the GPU's kernels, which the CPU runs here: the FAKE driver calls their source.

What a GPU makes of resize.ptx, these tests can't show; `Placement` compares before it relies on it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.gpu_resize import KERNELS, NAMES, Resizer, Resizing, Step
from edge_agent.runtime.models.placement import read_input
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame
from tests.fakes import fake_cuda, resize_on_cpu

# OpenCV's wheels for x86-64 compute as resize.cu; those for ARM have other code for the same.
TOLERANCE = 0 if platform.machine() == "x86_64" else 1

Size = Tuple[int, int]  # width, height


def spec(size: Size, **changes: object) -> InputSpec:
    values = {"tensor": "x", "width": size[0], "height": size[1], **changes}
    return InputSpec.model_validate(values)


def resizing(size: Size, **changes: object) -> Resizing:
    found = Resizing.of(spec(size, **changes))
    assert found is not None
    return found


@pytest.fixture
def library(tmp_path: Path) -> str:
    return fake_cuda.driver(tmp_path, kernels=resize_on_cpu.kernels())


@pytest.fixture
def driver(library: str) -> Iterator[Driver]:
    driver = CtypesDriver(library)
    with driver.context():
        yield driver
    assert fake_cuda.left_words(library) == ""


@contextmanager
def allocated(driver: Driver, size: int) -> Iterator[int]:
    address = driver.allocate(size)
    yield address
    driver.free(address)


def on_gpu(driver: Driver, frame: Any, wanted: InputSpec) -> Any:
    """Take a frame to the GPU, resize it there in another stream, and bring the result back."""
    height, width = frame.shape[:2]
    result = np.zeros(item_shape(wanted), wanted.dtype)
    asked = Resizing.of(wanted)
    assert asked is not None
    told = Resizing.from_json(json.loads(json.dumps(asked.to_json())))
    assert told == asked
    streams, arrived, done = [driver.stream(), driver.stream()], driver.event(), driver.event()
    resizer = Resizer(driver, told, frame.nbytes)
    with allocated(driver, frame.nbytes) as source, allocated(driver, result.nbytes) as target:
        driver.copy_in(source, frame.ctypes.data, frame.nbytes, streams[0])
        driver.record(arrived, streams[0])
        driver.wait(streams[1], arrived)
        resizer.launch(source, width, height, target, streams[1])
        driver.copy_out(result.ctypes.data, target, result.nbytes, streams[1])
        driver.record(done, streams[1])
        driver.synchronize(done)
    resizer.close()
    for stream in streams:
        driver.destroy_stream(stream)
    for event in (arrived, done):
        driver.destroy_event(event)
    return result


def on_cpu(frame: Any, wanted: InputSpec) -> Any:
    slot = np.empty(item_shape(wanted), wanted.dtype)
    write_input(Frame(frame), wanted, slot)
    return slot


def noise(size: Size, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def picture(size: Size, seed: int) -> Any:
    """Noise, smooth noise, black and white noise, or slopes: what rounding depends on."""
    image, kind = noise(size, seed), seed % 4
    if kind == 1:
        image = cv2.GaussianBlur(image, (0, 0), 3)
    elif kind == 2:
        image = (image & 1) * np.uint8(255)
    elif kind == 3:
        slope = np.add.outer(np.arange(size[1]), np.arange(size[0])) // 3
        image = np.repeat(slope[:, :, None], 3, axis=2).astype(np.uint8)
    return image


def assert_equal(driver: Driver, frame: Any, wanted: InputSpec) -> None:
    gpu, cpu = on_gpu(driver, frame, wanted), on_cpu(frame, wanted)
    seen = [read_input(slot, wanted).astype(int) for slot in (gpu, cpu)]
    apart = np.abs(seen[0] - seen[1]).max()
    assert apart <= TOLERANCE, f"{frame.shape} to {wanted}: {apart}"
    assert TOLERANCE or np.array_equal(gpu, cpu), f"{frame.shape} to {wanted}"


@pytest.mark.parametrize("resize", ["pyramid", "bilinear"])
@pytest.mark.parametrize("size", [
    (1920, 1080), (1281, 963), (640, 480), (641, 481),  # usual ones, and odd ones
    (512, 512), (512, 300), (300, 512), (1024, 1024), (513, 513),  # twice the model's, or nearly
    (256, 256), (100, 90), (64, 64), (257, 255),  # its own, and smaller ones
    (1500, 100), (100, 1500),  # halved one way only
    (4095, 67), (67, 4095),  # with shares of less than a thousandth
])  # fmt: skip
def test_the_gpu_makes_the_very_pixels_that_the_cpu_makes(
    driver: Driver, size: Size, resize: str
) -> None:
    for seed in range(4):
        assert_equal(driver, picture(size, seed), spec((256, 256), resize=resize))


def test_the_pixels_are_equal_for_any_size_of_frames_and_models(driver: Driver) -> None:
    random = np.random.default_rng(11)
    for seed in range(150):
        own = (int(random.integers(8, 400)), int(random.integers(8, 400)))
        size = (int(random.integers(64, 1200)), int(random.integers(64, 1200)))
        resize = ("pyramid", "bilinear")[seed % 3 == 0]
        assert_equal(driver, picture(size, seed), spec(own, resize=resize))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("numbers", [
    {},
    {"dtype": "float32"},
    {"dtype": "float32", "scale": 1 / 255, "mean": [0.485, 0.456, 0.406],
     "std": [0.229, 0.224, 0.225]},
    {"dtype": "float32", "mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]},
])  # fmt: skip
def test_models_get_the_very_numbers_and_planes_that_the_cpu_makes(
    driver: Driver, layout: str, numbers: Dict[str, Any]
) -> None:
    wanted = spec((96, 64), layout=layout, **numbers)
    for seed, size in enumerate([(640, 480), (192, 128), (96, 64), (64, 64), (641, 333)]):
        assert_equal(driver, picture(size, seed), wanted)


def test_the_largest_frames_fit(driver: Driver) -> None:
    assert_equal(driver, noise((4096, 4096)), spec((320, 224)))


def test_a_frame_is_refused_where_the_cpus_rounding_decides_what_counts() -> None:
    assert resizing((256, 256)).can(1920, 1080)
    assert not resizing((256, 256)).can(2001, 1080)
    assert not resizing((256, 256)).can(1080, 4001)
    assert not resizing((256, 256)).can(4003, 1080)  # halves to 2001, which is halved
    assert not resizing((256, 256)).can(640, 4002)
    assert resizing((1001, 256)).can(2001, 1080)  # isn't halved
    assert resizing((256, 256), resize="bilinear").can(2001, 4001)


def test_what_the_kernels_have_no_code_for_stays_on_the_cpu() -> None:
    assert Resizing.of(spec((64, 64), resize="area")) is None


def test_the_steps_are_as_few_as_can_be() -> None:
    own = resizing((256, 256))
    assert own.steps(256, 256) == [Step("linear", 256, 256)]
    assert own.steps(512, 512) == [Step("halve", 256, 256)]
    assert own.steps(513, 513) == [Step("halve", 256, 256)]
    assert own.steps(1920, 1080) == [
        Step("halve", 960, 540), Step("halve", 480, 270), Step("linear", 256, 256),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(1920, 1080), (64, 4096), (4096, 64), (4096, 4096), (65, 4095)])
def test_what_lies_between_needs_less_memory_than_the_frame(size: Size) -> None:
    between = resizing((8, 8)).steps(*size)[:-1]
    assert sum(step.size_bytes for step in between) < 3 * size[0] * size[1]


def test_the_compiled_kernels_are_of_this_source() -> None:
    head = KERNELS.read_text().splitlines()[0]
    digest = hashlib.sha256(resize_on_cpu.KERNEL_SOURCE.read_bytes()).hexdigest()
    assert digest in head, "resize.cu was changed: run scripts/ptx, which compiles it"


def test_the_compiled_kernels_are_read_by_cuda_11_4_for_a_xavier() -> None:
    text = KERNELS.read_text()
    assert re.findall(r"^\.version (.*)$", text, re.M) == ["7.4"]
    assert re.findall(r"^\.target (.*)$", text, re.M) == ["sm_60"]  # runs on all that came later
    assert re.findall(r"\.entry (\w+)", text) == list(NAMES)


def test_no_product_is_fused_with_a_sum_that_the_cpu_rounds_apart() -> None:
    assert not re.search(r"\bfma\.|\bmad\.[a-z.]*f(32|64)", KERNELS.read_text())
