"""ONNX graph + build settings → TensorRT engine.

One way through for TensorRT 8.5 to 11. What differs is looked for, never derived from the version:
networks with an explicit batch must be asked for until 9; until 10 flags allow smaller numbers than
the graph's own and pictures calibrate int8; from 11 a network is strongly typed: float16 and int8
are used exactly where the graph itself has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Iterator, List, Optional, Sequence

from edge_agent.errors import BackendUnavailable, BuildFailed, InvalidPackage
from edge_agent.runtime.backends import trt_options
from edge_agent.runtime.backends.trt_api import TrtModule, TrtObject
from edge_agent.runtime.backends.trt_logger import (
    MOST_REASONS,
    UNKNOWN,
    create,
    first_line,
    logger,
    release,
)
from edge_agent.runtime.backends.trt_progress import Report, watch
from edge_agent.targets import BuildSpec, Profile

NOT_INSTALLED = (
    "TensorRT isn't installed. On a Jetson it is JetPack's package python3-libnvinfer, seen in "
    "environments made with --system-site-packages; elsewhere pip installs tensorrt from NVIDIA's "
    "own package index."
)
# precision → builder flags; int8 leaves float16 to layers without an int8 kernel
FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
NO_MEMORY = re.compile("OutOfMemory|out of memory|could not be allocated")
# Without cuBLAS and cuDNN, which take hundreds of MiB; after 8.5 they are off by default. Plugins
# get no handle of theirs then.
TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


def library() -> TrtModule:
    """Return the module `tensorrt`. Raises BackendUnavailable when it can't be imported."""
    try:
        import tensorrt as trt
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
            raise BackendUnavailable(NOT_INSTALLED) from None
        raise BackendUnavailable(
            f"TensorRT can't be loaded: {first_line(str(error))}. Install what is missing; on a "
            "Jetson all of it comes with sudo apt install nvidia-jetpack."
        ) from None
    if not hasattr(trt.DataType, "UINT8"):
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} is too old: it takes no uint8 images. 8.5 is the first "
            "that does; it comes with JetPack 5.1."
        )
    return trt


@dataclass(frozen=True)
class Built:
    """A serialised engine, and what its builder measured, for the next build."""

    engine: bytes
    timing_cache: bytes


class EngineBuilder:
    """Makes engines with the module `trt`; raises BackendUnavailable when it can't work here.

    Use one a process and thread: TensorRT logs everything to the logger that came first.
    """

    def __init__(self, trt: TrtModule) -> None:
        self._trt = trt
        self._name, self._logger = release(trt), logger(trt)
        self._builder = create(trt, "Builder")

    def build(
        self,
        model: bytes,
        spec: BuildSpec,
        *,
        workspace_bytes: Optional[int] = None,
        calibration: Iterable[int] = (),
        timing_cache: bytes = b"",
        dla_core: Optional[int] = None,
        on_progress: Optional[Report] = None,
    ) -> Built:
        """Build an engine of `model`, ONNX; takes seconds to many minutes.

        workspace_bytes: memory that a layer may use for a while; None leaves it to TensorRT.
        calibration: addresses, in the GPU's memory, of batches of the first profile's optimum.
        timing_cache: of an earlier build; one that doesn't fit is left aside. dla_core: the deep
        learning accelerator that computes what it can, the GPU the rest. on_progress: called, on
        any thread, when the graph is read and while kernels are measured.

        Raises InvalidPackage when TensorRT can't read the graph, BackendUnavailable when it can't
        build it, or not with this precision, BuildFailed when only memory was missing.
        """
        self._logger.forget()
        network = self._create_network()
        parser = self._trt.OnnxParser(network, self._logger)  # owns the weights till the end
        trt_options.prepare(self._trt, parser, spec)
        self._parse(parser, model)
        config = self._builder.create_builder_config()
        calibrator = self._set_precision(network, config, spec, calibration)
        self._add_profiles(network, config, spec.profiles)
        self._set_means(network, config, workspace_bytes)
        trt_options.set_options(self._trt, config, spec, dla_core)
        self._set_timing_cache(config, timing_cache)
        if dla_core is not None:
            self._set_accelerator(config, spec, dla_core)
        if on_progress is not None:
            on_progress(0.0)
            watch(self._trt, config, self._logger, on_progress)
        engine = self._builder.build_serialized_network(network, config)
        if calibrator is not None and calibrator.error is not None:
            raise calibrator.error
        if engine is None:
            raise self._failure()
        return Built(bytes(engine), bytes(config.get_timing_cache().serialize()))

    def _failure(self) -> BackendUnavailable:
        if any(NO_MEMORY.search(message) for message in self._logger.errors):
            return BuildFailed(
                f"{self._name} can't build the engine: the GPU's memory ran out. Unload other "
                "models, stop programs that use the GPU, or choose smaller batches."
            )
        return BackendUnavailable(f"{self._name} can't build the engine: {self._logger.reason()}.")

    def _create_network(self) -> TrtObject:
        explicit = getattr(self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        return self._builder.create_network(0 if explicit is None else 1 << int(explicit))

    def _parse(self, parser: TrtObject, model: bytes) -> None:
        if not parser.parse(model):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            where = self._logger.node() + _named(errors)
            reason = "; ".join(first_line(error.desc()) for error in errors[:MOST_REASONS])
            raise InvalidPackage(f"{self._name} can't read model.onnx{where}: {reason or UNKNOWN}.")

    def _set_precision(
        self, network: TrtObject, config: TrtObject, spec: BuildSpec, calibration: Iterable[int]
    ) -> TrtObject:
        """Allow what `spec` allows; return the calibrator that the build will use, if any."""
        flags = self._trt.BuilderFlag
        if spec.precision == "fp32":
            config.clear_flag(flags.TF32)  # has 10 bits of fraction, as float16
        if not hasattr(flags, "FP16"):
            self._check_typed(network, spec)
            return None
        for name in (*FLAGS[spec.precision], *(("INT8",) if spec.quantised else ())):
            config.set_flag(getattr(flags, name))
        if spec.precision != "int8" or spec.quantised:
            return None
        config.int8_calibrator = calibrator = _calibrator(
            self._trt, spec.profiles[0].optimum[0], iter(calibration)
        )
        return calibrator

    def _check_typed(self, network: TrtObject, spec: BuildSpec) -> None:
        """Raise BackendUnavailable unless the graph itself has the numbers of the precision."""
        half = self._trt.DataType.HALF
        if spec.precision == "fp16" and half not in _types(network):
            raise BackendUnavailable(
                f"{self._name} computes with float16 only where the graph itself does, and "
                "model.onnx has no float16. Export the graph with it, or choose --precision fp32."
            )
        if spec.precision == "int8" and not spec.quantised:
            raise BackendUnavailable(
                f"{self._name} takes no calibration pictures; int8 needs a graph with "
                "QuantizeLinear and DequantizeLinear. Quantise it, or choose --precision fp32."
            )

    def _add_profiles(
        self, network: TrtObject, config: TrtObject, profiles: Sequence[Profile]
    ) -> None:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        if not any(-1 in tuple(entry.shape) for entry in inputs):
            return  # the graph leaves no choice
        for entry in profiles:
            profile = self._builder.create_optimization_profile()
            profile.set_shape(entry.tensor, entry.minimum, entry.optimum, entry.maximum)
            if config.add_optimization_profile(profile) < 0:
                raise InvalidPackage(
                    f"{self._name} refuses the batches {entry.minimum[0]} to {entry.maximum[0]}: "
                    f"{self._logger.reason()}."
                )

    def _set_means(
        self, network: TrtObject, config: TrtObject, workspace_bytes: Optional[int]
    ) -> None:
        trt = self._trt
        if workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        if not any(layer.type.name.startswith("PLUGIN") for layer in _layers(network)):
            sources = [int(getattr(trt.TacticSource, name)) for name in TACTICS]
            config.set_tactic_sources(sum(1 << source for source in sources))

    def _set_accelerator(self, config: TrtObject, spec: BuildSpec, core: int) -> None:
        cores = self._builder.num_DLA_cores
        if core >= cores:
            raise BackendUnavailable(
                f"There is no DLA core {core}; this machine has {cores}, counted from 0. Only "
                "Jetson Xavier and Orin have any; leave engine.dla_core out to use the GPU."
            )
        if spec.precision == "fp32":
            raise BackendUnavailable(
                f"DLA core {core} computes float16 and int8 only, and the model wants fp32. "
                "Package it with --precision fp16, or leave engine.dla_core out to use the GPU."
            )
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def _set_timing_cache(self, config: TrtObject, content: bytes) -> None:
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)


def _layers(network: TrtObject) -> Iterator[TrtObject]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _types(network: TrtObject) -> List[TrtObject]:
    return [
        layer.get_output(index).dtype
        for layer in _layers(network)
        for index in range(layer.num_outputs)
    ]


def _named(errors: Sequence[TrtObject]) -> str:
    """Return the name of the node that the parser refuses, which older ones don't name."""
    names = [error.node_name() for error in errors[:1] if hasattr(error, "node_name")]
    return f" ({names[0]})" if names and names[0] else ""


def _calibrator(trt: TrtModule, batch: int, addresses: Iterator[int]) -> TrtObject:
    """Return what hands `addresses` of batches to the builder, one after the other."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.error: Optional[Exception] = None  # TensorRT lets none through

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: Sequence[str]) -> Optional[List[int]]:
            try:
                address = next(addresses, None)
            except Exception as error:
                self.error = error
                return None
            return None if address is None else [address]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: object) -> None:
            pass

    return Calibrator()
