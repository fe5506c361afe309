"""Graph, settings and calibration pictures → TensorRT engine, with this machine's GPU."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence

import numpy as np

from edge_agent.errors import BackendUnavailable
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.cuda.driver import Driver, Gpu
from edge_agent.runtime.backends.trt_engine import Built, EngineBuilder
from edge_agent.runtime.backends.trt_options import is_portable
from edge_agent.runtime.backends.trt_progress import Report
from edge_agent.runtime.vision.picture_files import read_png
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.targets import BuildSpec
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

LEAN = "libnvinfer_lean"  # library whose copy goes into version-compatible engines
WORKSPACE_PART = 2  # half of the free memory: weights and results need room as well


def make(
    builder: EngineBuilder,
    driver: Driver,
    model: bytes,
    image: InputSpec,
    spec: BuildSpec,
    pictures: Sequence[bytes],
    *,
    timing_cache: bytes = b"",
    dla_core: Optional[int] = None,
    on_progress: Optional[Report] = None,
) -> Built:
    """Build an engine of `model`, within the driver's context; raises as `EngineBuilder.build`.

    pictures: files of the calibration, PNG of the input's size. Layers may use half of what is
    free of the GPU's memory now.
    """

    def build(spec: BuildSpec) -> Built:
        batches = driver.batches(_items(pictures, image), spec.profiles[0].optimum[0])
        with closing(batches):
            return builder.build(
                model,
                _possible(spec, driver.gpu()),
                workspace_bytes=driver.free_bytes() // WORKSPACE_PART,
                calibration=batches,
                timing_cache=timing_cache,
                dla_core=dla_core,
                on_progress=on_progress,
            )

    try:
        return build(spec)
    except BackendUnavailable as error:
        if not spec.version_compatible or LEAN not in str(error):
            raise
        log.warning("The engine is built for this TensorRT only; install %s. %s", LEAN, error)
    return build(spec.model_copy(update={"version_compatible": False}))


def _possible(spec: BuildSpec, gpu: Gpu) -> BuildSpec:
    """Leave out what this GPU's engines can't be, and say so."""
    if not spec.hardware_compatible or is_portable(gpu):
        return spec
    log.warning(
        "The engine will work on this kind of GPU only. Engines for several kinds are built on "
        "GPUs of compute capability 8.0 and newer, and not on Jetson; this is %s, %s.%s.",
        gpu.name,
        *gpu.capability,
    )
    return spec.model_copy(update={"hardware_compatible": False})


def _items(pictures: Sequence[bytes], image: InputSpec) -> Iterator[NDArray[Any]]:
    """Yield each picture as the model takes it."""
    for picture in pictures:
        pixels = read_png(picture, image.width, image.height)
        slot = np.empty(item_shape(image), image.dtype)
        write_input(Frame(pixels), image, slot)
        yield slot
