"""Large frames handed to the device whole: when, and that nothing else changes.

The device is a stand-in: onnxruntime computes, and `place` keeps a copy of the frame that the next
run resizes with the real `write_input`. Time is the test's own, as long as the device says.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest

from edge_agent.errors import AgentUnavailable, GpuFailed, InferenceFailed
from edge_agent.manifest import InputSpec, Manifest
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.models.inference_unit import DecisionInForce, InferenceUnit
from edge_agent.runtime.models.placement import Placement, read_input
from edge_agent.runtime.vision.frame import FrameReader, OpenFrame
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Bitmap, Caller, CameraProblem, Frame, Prediction
from tests.fakes import micro

LARGE, HD, SMALL = (1920, 1080), (1280, 720), (640, 480)  # width, height
CPU_MS = 10.0  # of any frame


class Device(OrtBackend):
    """Computes a frame in CPU_MS, one that it resizes in `ms` by its width."""

    name = "stand-in"
    device = "GPU"

    def __init__(self, manifest: Manifest, model: bytes) -> None:
        super().__init__(model, manifest, BackendOptions(threads=1, cpu_batches=True))
        self.ms = {1920: 2.0, 1280: 3.0, 640: 20.0}
        self.now_s = 0.0
        self.taken: List[int] = []  # widths
        self.refused: Tuple[int, ...] = ()  # widths that it doesn't resize
        self.error: Optional[Exception] = None  # of runs in which it resizes
        self.off_by = 0
        self._memory = super().slots()
        self._frames: Dict[int, Any] = {}

    def slots(self) -> Any:
        return self._memory

    def place(self, index: int, frame: Any) -> bool:
        _, width, channels = frame.shape
        assert channels == 3
        if width in self.refused:
            return False
        self._frames[index] = np.array(frame)
        self.taken.append(width)
        return True

    def _run(self, batch: Any) -> Dict[str, Any]:
        frames, self._frames = self._frames, {}
        self.now_s += (CPU_MS if not frames else 0.0) / 1000
        for index, frame in frames.items():
            assert index < len(batch)
            self.now_s += self.ms.get(frame.shape[1], 1.0) / 1000
            write_input(Frame(frame), self._spec, self._memory[index])
            self._memory[index] += np.uint8(self.off_by)
        if frames and self.error is not None:
            raise self.error
        return super()._run(batch)


def device(task: str = "classification") -> Device:
    model = micro.graph(task)
    manifest = Manifest.model_validate(micro.manifest(task, model))
    return Device(manifest, model)


def warm(device: Device, task: str = "classification") -> InferenceUnit:
    """A unit of `device`, in whose time it has decided."""
    manifest = Manifest.model_validate(micro.manifest(task, micro.graph(task)))
    verdicts = DecisionInForce(manifest)
    verdicts.placement = Placement(lambda: device.now_s)
    unit = InferenceUnit(device, manifest, verdicts)
    unit.warm_up()
    device.taken.clear()
    return unit


def plain(task: str = "classification") -> InferenceUnit:
    """A unit of the same model without such a device."""
    model = micro.graph(task)
    manifest = Manifest.model_validate(micro.manifest(task, model))
    options = BackendOptions(threads=1, cpu_batches=True)
    return InferenceUnit(OrtBackend(model, manifest, options), manifest)


def frame(size: Tuple[int, int], seed: int = 0) -> Any:
    width, height = size
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def item(pixels: Any, camera: str = "left") -> Item:
    return Item(OpenFrame(Frame(pixels)), 0.0, Caller(camera))


def computed(unit: InferenceUnit, *batch: Item) -> List[Prediction]:
    unit.compute(list(batch))
    return [each.future.result(0) for each in batch]


def test_frames_go_to_the_device_from_the_smallest_size_on_at_which_that_is_faster() -> None:
    gpu = device()
    unit = warm(gpu)
    assert unit.engine == "stand-in on GPU, frames from 1280x720 on resized there"
    computed(unit, *(item(frame(size)) for size in (LARGE, SMALL, HD, (1000, 1000))))
    assert gpu.taken == [1920, 1280, 1000]


def test_a_frame_gets_the_very_result_that_it_gets_from_the_cpu() -> None:
    gpu = device("anomaly_map")
    placing, usual = warm(gpu, "anomaly_map"), plain("anomaly_map")
    white = np.full((720, 1280, 3), 255, np.uint8)
    frames = [frame(LARGE), frame(SMALL), white, 0 * white]
    results = [computed(unit, *map(item, frames)) for unit in (placing, usual)]
    assert gpu.taken == [1920, 1280, 1280]
    for got, wanted in zip(*results):
        assert got.mask is not None
        assert wanted.mask is not None
        assert np.array_equal(got.mask, wanted.mask)
        assert replace(got, mask=None) == replace(wanted, mask=None)
    problems = [got.camera_problems for got in results[0]]
    assert problems[2] == (CameraProblem.BRIGHT, CameraProblem.BLANK)
    assert problems[3] == (CameraProblem.BLACK,)


def test_a_camera_is_found_frozen_after_as_many_frames() -> None:
    for unit in (warm(device()), plain()):
        told = [computed(unit, item(frame(HD)), item(frame(HD), "right")) for _ in range(10)]
        assert [each[0].camera_problems for each in told] == [()] * 9 + [(CameraProblem.FROZEN,)]
        assert [each[1].camera_problems for each in told] == [()] * 9 + [(CameraProblem.FROZEN,)]


def test_padded_rows_reach_the_device_without_their_padding() -> None:
    width, height = 1281, 720
    rows = np.full((height, 3844), 7, np.uint8)
    rows[:, :3843] = frame((width, height)).reshape(height, 3843)
    gpu = device()
    results = []
    for unit in (warm(gpu), plain()):
        opened = FrameReader().open(Bitmap(width, height, rows.tobytes()))
        results += computed(unit, Item(opened, 0.0, Caller()))
    assert gpu.taken == [width]
    assert results[0] == results[1]


def test_what_the_device_refuses_the_cpu_resizes() -> None:
    gpu = device()
    unit = warm(gpu)
    gpu.refused = (1280,)
    frames = [frame(LARGE), frame(HD), frame(LARGE, 1)]
    assert computed(unit, *map(item, frames)) == computed(plain(), *map(item, frames))
    assert gpu.taken == [1920, 1920]


def test_a_device_that_is_slower_or_resizes_nothing_never_gets_a_frame() -> None:
    slow, unable = device(), device()
    slow.ms[1920] = 10.5
    unable.refused = (1920,)
    for gpu in (slow, unable):
        unit = warm(gpu)
        assert unit.engine == "stand-in on GPU"
        computed(unit, item(frame(LARGE)))
        assert gpu.taken == []


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("numbers", [
    {},
    {"dtype": "float32"},
    {"dtype": "float32", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
])  # fmt: skip
def test_the_pixels_are_read_back_from_what_any_model_takes(
    layout: str, numbers: Dict[str, Any]
) -> None:
    values = {"tensor": "x", "height": 256, "width": 300, "layout": layout, **numbers}
    spec = InputSpec.model_validate(values)
    slot = np.empty(item_shape(spec), spec.dtype)
    written = write_input(Frame(frame((640, 480))), spec, slot)
    read = read_input(slot, spec)
    assert read.flags.c_contiguous
    assert read.dtype == np.uint8
    assert np.array_equal(read, written)


def test_a_device_that_resizes_wrongly_gets_no_frame(caplog: pytest.LogCaptureFixture) -> None:
    gpu = device()
    gpu.off_by = 2
    unit = warm(gpu)
    assert "not on GPU: What becomes of them there is wrong by up to 2 of 255." in caplog.text
    gpu.off_by = 0
    assert computed(unit, item(frame(LARGE))) == computed(plain(), item(frame(LARGE)))
    assert gpu.taken == []


def test_a_device_whose_resizing_fails_serves_without_it(caplog: pytest.LogCaptureFixture) -> None:
    gpu = device()
    gpu.error = GpuFailed.after("cuLaunchKernel failed, out of memory (2).", 2, is_sticky=False)
    unit = warm(gpu)
    assert unit.engine == "stand-in on GPU"
    assert "cuLaunchKernel failed" in caplog.text
    computed(unit, item(frame(LARGE)))


def test_a_device_lost_meanwhile_is_told() -> None:
    gpu = device()
    gpu.error = AgentUnavailable("The GPU worker ended.")
    with pytest.raises(AgentUnavailable):
        warm(gpu)


def test_the_units_of_a_model_decide_once_so_that_equal_pictures_stay_equal() -> None:
    first, second = device(), device()
    second.ms[1920] = 99.0
    verdicts = DecisionInForce(Manifest.model_validate(micro.manifest("classification", b"")))
    verdicts.placement = Placement(lambda: first.now_s + second.now_s)
    for gpu in (first, second):
        manifest = micro.manifest("classification", micro.graph("classification"))
        unit = InferenceUnit(gpu, Manifest.model_validate(manifest), verdicts)
        unit.warm_up()
        gpu.taken.clear()
        computed(unit, item(frame(LARGE)))
        assert gpu.taken == [1920]


def test_a_frame_that_cant_be_placed_leaves_its_neighbours_alone() -> None:
    gpu = device()
    unit = warm(gpu)
    broken = np.zeros((1080, 1920, 4), np.uint8)
    frames = [frame(LARGE), broken, frame(LARGE, 1), frame(SMALL), frame(LARGE, 2)]
    batch = [item(pixels) for pixels in frames]
    unit.compute(batch)
    assert isinstance(batch[1].future.exception(0), InferenceFailed)
    good = [each.future.result(0) for each in batch if each is not batch[1]]
    frames.pop(1)
    assert good == computed(plain(), *map(item, frames))


def test_a_batch_that_failed_leaves_nothing_to_the_next() -> None:
    gpu = device()
    unit = warm(gpu)
    gpu.error = InferenceFailed("The engine failed.")
    failed = item(frame(LARGE))
    unit.compute([failed])
    assert failed.future.exception(0) is gpu.error
    gpu.error = None
    assert computed(unit, item(frame(SMALL))) == computed(plain(), item(frame(SMALL)))


def test_the_memory_of_an_item_given_up_in_flight_is_not_touched() -> None:
    gpu = device("anomaly_map")
    unit = warm(gpu, "anomaly_map")
    mask = np.full((1080, 1920, 3), 7, np.uint8)
    gone = Item(OpenFrame(Frame(frame(LARGE)), (), mask), 0.0, Caller())
    gone.fail(InferenceFailed("It took too long."))
    unit.compute([gone])
    assert (mask == 7).all()


def test_what_was_measured_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    warm(device())
    wanted = "A frame of 1920x1080 takes 10.00 ms where the CPU resizes it, 2.00 ms where GPU does."
    assert wanted in caplog.text
