"""A FAKE of NVIDIA's `tensorrt`, for machines without a GPU.

Nothing here is TensorRT: no kernel is chosen, no number computed. `tensorrt(version)` has the calls
that engine building may use, and each version has exactly those that its real one has: 8.5 as read
off the wheel 8.5.2.2 (`test_every_call_of_the_fake_exists_in_the_real_8_5` compares them where that
is installed), the others by the table of NVIDIA's API documentation. A call that a version lacks
raises AttributeError. It refuses what the real one refuses, in its words: no driver, a network
without an explicit batch, shapes without a profile, a parser that is gone before its weights are
used, a subclass that forgets to call `__init__`, plugins in what is to be compatible, version
compatibility without the lean runtime; hardware compatibility before Ampere and on Jetson where
`add_runtime` told which GPU there is.

The "engine" is JSON of all that was asked for, `asked(engine)`; pictures of the calibration are
read back from the memory that the driver (`fake_cuda`) gave.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import hashlib
import json
import weakref
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import onnx

VERSIONS = ("8.5.2.2", "8.6.1", "10.3.0", "10.16.1", "11.4.0")
WEAK = VERSIONS[:4]  # flags may allow smaller numbers than the graph's own
STRONG = VERSIONS[4:]

NO_DRIVER = (
    "CUDA initialization failure with error: 35. Please check your CUDA installation:  "
    "http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html"
)
NO_PROFILE = (
    "4: [network.cpp::validate::3062] Error Code 4: Internal Error (Network has dynamic or shape "
    "inputs, but no optimization profile has been defined.)"
)
NO_GRAPH = (
    "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to parse the ONNX model."
)
NO_FALLBACK = (
    "Error Code 4: Internal Error (Network validation failed: a layer can't run on DLA, and GPU "
    "fallback isn't enabled.)"
)
# In words of ours: what the real ones say isn't public.
NOT_PORTABLE = "Error Code 9: Hardware compatibility isn't supported on this GPU."
NO_LEAN = (
    "Unable to load library: libnvinfer_lean.so.10: libnvinfer_lean.so.10: cannot open shared "
    "object file: No such file or directory"
)  # as TensorRT-RTX 1.7 has it
PLUGIN_INSIDE = "Error Code 9: An engine that is to be compatible can't have plugins."
NO_PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'


def asked(engine: bytes) -> Any:
    """What the builder of this "engine" was told."""
    return json.loads(engine)


def tensorrt(
    version: str = "8.5.2.2",
    has_driver: bool = True,
    failure: str = "",
    dla_cores: int = 0,
    while_building: Callable[[], object] = lambda: None,
    has_lean: bool = True,
) -> Any:
    """A module; with `failure` every build ends with this message of an error.

    while_building: called once a build, while kernels are "measured". has_lean: the lean runtime is
    installed.
    """
    since = tuple(int(part) for part in version.split(".")[:2])
    made = _Fake(version, since, has_driver, failure, dla_cores, while_building)
    made._has_lean = has_lean
    return made


def _enum(name: str, *members: str) -> Any:
    return enum.IntEnum(name, {member: value for value, member in enumerate(members)})


class _Memory:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.nbytes = len(content)

    def __bytes__(self) -> bytes:
        return self._content


class _Profile:
    def __init__(self) -> None:
        self.shapes: Dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: Tuple[int, ...]) -> None:
        assert len(shapes) == 3
        self.shapes[name] = shapes


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> _Memory:
        return _Memory(self.content)


class _ParserError:
    name = ""

    def __init__(self, node: int, text: str) -> None:
        self._node, self._text = node, text

    def node(self) -> int:
        return self._node

    def desc(self) -> str:
        return self._text


class _NamingParserError(_ParserError):
    def node_name(self) -> str:
        return self.name


def _base(*hooks: str) -> Any:
    """A class that C++ calls back, which pybind11 makes sure is initialised."""

    class Base:
        is_ready = False

        def __init__(self) -> None:
            self.is_ready = True

    for hook in hooks:
        setattr(Base, hook, None)
    return Base


class _Fake:
    """What `import tensorrt` gives. `is_strong`: every network is strongly typed."""

    def __init__(
        self,
        version: str,
        since: Tuple[int, ...],
        has_driver: bool,
        failure: str,
        dla_cores: int,
        while_building: Callable[[], object],
    ) -> None:
        self.__version__ = version
        self._since, self._has_driver, self._failure = since, has_driver, failure
        self._dla_cores, self._while_building = dla_cores, while_building
        self._is_strong, self._is_later = since >= (11, 0), since >= (10, 0)
        self._is_compatible = since >= (8, 6)  # can be
        self._cuda: Any = None
        self._has_lean = True
        self._add_enumerations()
        hooks = "get_batch_size", "get_batch", "read_calibration_cache", "write_calibration_cache"
        if not self._is_strong:
            self.IInt8EntropyCalibrator2 = _base(*hooks)
        if self._is_later:
            self.IProgressMonitor = _base("phase_start", "step_complete", "phase_finish")
        self.ParserError = _NamingParserError if self._is_later else _ParserError
        self.IBuilderConfig = self._type(_Config, __slots__=self._settings())
        self.INetworkDefinition = self._type(_Network)
        self.OnnxParser = self._type(_FlaggedParser if self._is_compatible else _Parser)
        fast = {} if self._is_strong else {"platform_has_fast_fp16": True}
        self.Builder = self._type(_Builder, **fast)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        _ready(logger)
        return True

    def _add_enumerations(self) -> None:
        weak = not self._is_strong
        types = ("FLOAT", "HALF", "INT8", "INT32", "BOOL")
        newer = ("UINT8",) * (self._since >= (8, 5)) + ("INT64", "BF16") * self._is_later
        self.DataType = _enum("DataType", *types, *newer)
        typed = "STRONGLY_TYPED" if self._is_later else "EXPLICIT_PRECISION"
        self.NetworkDefinitionCreationFlag = _enum("Creation", *("EXPLICIT_BATCH",) * weak, typed)
        flags = ("FP16", "INT8") * weak + ("GPU_FALLBACK", "TF32")
        if self._is_compatible:
            flags += ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
            self.HardwareCompatibilityLevel = _enum("Level", "NONE", "AMPERE_PLUS")
            self.OnnxParserFlag = _enum("ParserFlag", "NATIVE_INSTANCENORM")
        self.BuilderFlag = _enum("BuilderFlag", *flags)
        own = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
        self.TacticSource = _enum("Source", *("CUBLAS", "CUBLAS_LT", "CUDNN") * weak, *own)
        self.MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE")
        self.DeviceType = _enum("DeviceType", "GPU", "DLA")
        self.LayerType = _enum("LayerType", "CONVOLUTION", "PLUGIN_V2")
        self.ILogger = _base("log")
        levels = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
        self.ILogger.Severity = _enum("Severity", *levels)

    def _settings(self) -> Tuple[str, ...]:
        """Attributes of a configuration that may be set; any other is an AttributeError."""
        return (
            "default_device_type",
            "DLA_core",
            *("int8_calibrator",) * (not self._is_strong),
            *("builder_optimization_level",) * self._is_compatible,
            *("hardware_compatibility_level",) * self._is_compatible,
            *("progress_monitor",) * self._is_later,
        )

    def _type(self, base: Any, **values: Any) -> Any:
        return type(base.__name__, (base,), {"_fake": self, **values})


class _Config:
    __slots__ = ("_cache", "_flags", "_limits", "_profiles", "_sources")
    _fake: Any

    def __init__(self) -> None:
        self._flags = {self._fake.BuilderFlag.TF32}
        self._limits: Dict[str, int] = {}
        self._profiles: List[_Profile] = []
        self._sources = sum(1 << source for source in self._fake.TacticSource)
        self._cache: Optional[_Cache] = None
        self.default_device_type = self._fake.DeviceType.GPU
        self.DLA_core = -1
        if self._fake._is_compatible:
            self.builder_optimization_level = 3
            self.hardware_compatibility_level = self._fake.HardwareCompatibilityLevel.NONE

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._fake.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._fake.BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._limits[self._fake.MemoryPoolType(pool).name] = size

    def add_optimization_profile(self, profile: _Profile) -> int:
        for shapes in profile.shapes.values():
            if not all(low <= best <= high for low, best, high in zip(*shapes)):
                return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_tactic_sources(self, sources: int) -> bool:
        self._sources = sources
        return True

    def create_timing_cache(self, content: bytes) -> Optional[_Cache]:
        if not content or content.startswith(b"timed"):
            return _Cache(content)
        return _Cache(b"") if self._fake._is_later else None

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert isinstance(cache, _Cache)
        if cache.content and not cache.content.endswith(self._fake.__version__.encode()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Optional[_Cache]:
        return self._cache


class _Network:
    _fake: Any

    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._content = b""
        self._graph: Any = None
        self._owner: Any = None  # the parser, which has the weights
        self._is_native = self._fake._is_later  # InstanceNormalization isn't a plugin

    @property
    def num_inputs(self) -> int:
        return len(self._graph.input)

    def get_input(self, index: int) -> Any:
        entry = self._graph.input[index]
        axes = entry.type.tensor_type.shape.dim
        shape = tuple(axis.dim_value or -1 for axis in axes)
        return SimpleNamespace(name=entry.name, shape=shape)

    @property
    def num_layers(self) -> int:
        return len(self._graph.node)

    def get_layer(self, index: int) -> Any:
        return _layer(self._fake, self, self._graph.node[index])


class _Parser:
    _fake: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, _ready(logger)
        self._errors: List[Any] = []

    def parse(self, content: bytes) -> bool:
        explicit = getattr(self._fake.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if not self._fake._is_later and not self._network._flags & 1 << explicit:
            return self._refuse(0, None, "This version only supports explicit batch.")
        try:
            graph = onnx.load_model_from_string(content).graph
        except Exception:
            return self._refuse(0, None, NO_GRAPH)
        for index, node in enumerate(graph.node):
            if not onnx.defs.has(node.op_type):
                return self._refuse(index, node, NO_PLUGIN)
        self._network._content = bytes(content)
        self._network._graph, self._network._owner = graph, weakref.ref(self)
        return True

    def _refuse(self, index: int, node: Any, text: str) -> bool:
        refusal = self._fake.ParserError(index, text)
        if node is not None:
            told = f'While parsing node number {index} [{node.op_type} -> "out"]:'
            self._logger.log(self._fake.ILogger.Severity.ERROR, told)
            refusal.name = node.name
        self._errors.append(refusal)
        return False

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class _FlaggedParser(_Parser):
    def set_flag(self, flag: Any) -> None:
        assert flag == self._fake.OnnxParserFlag.NATIVE_INSTANCENORM
        self._network._is_native = True


class _Builder:
    _fake: Any

    def __init__(self, logger: Any) -> None:
        self._logger = _ready(logger)
        if not self._fake._has_driver:
            severity = self._fake.ILogger.Severity
            logger.log(severity.WARNING, "Unable to determine GPU memory usage")
            logger.log(severity.WARNING, NO_DRIVER)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return int(self._fake._dla_cores)

    def create_network(self, flags: int = 0) -> Any:
        return self._fake.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._fake.IBuilderConfig()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: Any, config: Any) -> Optional[_Memory]:
        wrong = self._fake._failure or _wrong(self._fake, network, config)
        calibrator = getattr(config, "int8_calibrator", None)
        if wrong:
            if calibrator is not None:  # it fails in the middle
                _ready(calibrator).get_batch([network.get_input(0).name])
            self._logger.log(self._fake.ILogger.Severity.ERROR, wrong)
            return None
        _measure(self._fake, self._logger, network, config)
        told = _told(self._fake, network, config)
        if calibrator is not None:
            told["calibrated"] = _calibrated(_ready(calibrator), network)
        if config._cache is not None:
            told["cached"] = config._cache.content.decode()
            config._cache.content = b"timed with " + self._fake.__version__.encode()
        return _Memory(json.dumps(told).encode())


def _ready(hooks: Any) -> Any:
    if not hooks.is_ready:
        raise TypeError("__init__() must be called when overriding __init__")
    return hooks


def _layer(fake: _Fake, network: Any, node: Any) -> Any:
    """A layer; it has float16 results when any constant of the graph is float16."""
    half = any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in network._graph.initializer)
    kind = fake.DataType.HALF if half else fake.DataType.FLOAT
    plugin = node.op_type == "InstanceNormalization" and not network._is_native
    return SimpleNamespace(
        type=fake.LayerType.PLUGIN_V2 if plugin else fake.LayerType.CONVOLUTION,
        num_outputs=len(node.output),
        get_output=lambda index: SimpleNamespace(dtype=kind),
    )


def _measure(fake: _Fake, logger: Any, network: Any, config: Any) -> None:
    """Tell how far the "measuring" is, as the version does."""
    monitor = getattr(config, "progress_monitor", None)
    if monitor is not None:
        _go_through_phases(fake, _ready(monitor), network.num_layers)
    else:
        _talk(fake, logger, network, max(1, len(config._profiles)))


def _talk(fake: _Fake, logger: Any, network: Any, profiles: int) -> None:
    """Say what 8.4 to 8.6 say, as public logs of trtexec --verbose have it; two are fused."""

    def say(text: str) -> None:
        logger.log(fake.ILogger.Severity.VERBOSE, text)

    layers = max(1, network.num_layers - 1)
    say(f"Original: {network.num_layers} layers")
    say(f"After dead-layer removal: {network.num_layers} layers")
    say(f"After vertical fusions: {layers} layers")
    say(f"After concat removal: {layers} layers")
    for profile in range(profiles):
        say(f"Constructing optimization profile number {profile} [{profile + 1}/{profiles}].")
        say("=============== Computing reformatting costs")
        for layer in range(layers):
            if profile == 0 and layer == layers // 2:
                fake._while_building()
            say("=============== Computing costs for ")
            say("*************** Autotuning format combination: Float(1) -> Float(1) ************")
            say(f"--------------- Timing Runner: layer {layer} (CaskConvolution)")
            say("Tactic: 0x00000000000003ea Time: 0.00364102")
            say("Fastest Tactic: 0x00000000000003ea Time: 0.00364102")
        say("Formats and tactics selection completed in 0.1 seconds.")


def _go_through_phases(fake: _Fake, monitor: Any, layers: int) -> None:
    """Go through phases as TensorRT-RTX 1.7 does, where they were seen."""

    def phase(name: str, parent: Optional[str], steps: int) -> Iterator[int]:
        monitor.phase_start(name, parent, steps)
        for step in range(steps):
            yield step
            assert monitor.step_complete(name, step) is True
        monitor.phase_finish(name)

    for outer in phase("Building engine", None, 3):
        if outer == 0:
            list(phase("Cloning network graph", "Building engine", layers))
        if outer == 1:
            for inner in phase("Computing profile costs", "Building engine", layers):
                if inner == layers // 2:
                    fake._while_building()
                list(phase("Timing graph nodes", "Computing profile costs", 2))


def _told(fake: _Fake, network: Any, config: Any) -> Dict[str, Any]:
    return {
        "model": base64.b64encode(network._content).decode(),
        "device": fake.DeviceType(config.default_device_type).name,
        "dla_core": config.DLA_core,
        "version": fake.__version__,
        "flags": sorted(flag.name for flag in config._flags),
        "profiles": [profile.shapes for profile in config._profiles],
        "limits": config._limits,
        "level": getattr(config, "builder_optimization_level", None),
        "is_portable": _is_portable(fake, config),
        **({"capability": fake._cuda.capability()} if fake._cuda else {}),
        "sources": [one.name for one in fake.TacticSource if config._sources & 1 << one],
    }


def _is_portable(fake: _Fake, config: Any) -> bool:
    level = getattr(config, "hardware_compatibility_level", None)
    return level is not None and level == fake.HardwareCompatibilityLevel.AMPERE_PLUS


def _not_compatible(fake: _Fake, network: Any, config: Any) -> str:
    is_portable = _is_portable(fake, config)
    is_for_later = any(flag.name == "VERSION_COMPATIBLE" for flag in config._flags)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    if (is_portable or is_for_later) and any(
        layer.type == fake.LayerType.PLUGIN_V2 for layer in layers
    ):
        return PLUGIN_INSIDE
    if is_for_later and not fake._has_lean:
        return NO_LEAN
    if is_portable and fake._cuda and not fake._cuda.is_ampere():
        return NOT_PORTABLE
    return ""


def _wrong(fake: _Fake, network: Any, config: Any) -> str:
    if network._owner() is None:
        return "the parser is gone, and the weights with it; the real one may crash"
    is_dynamic = -1 in network.get_input(0).shape
    if is_dynamic and not config._profiles:
        return NO_PROFILE
    quantised = any(node.op_type == "QuantizeLinear" for node in network._graph.node)
    flag = getattr(fake.BuilderFlag, "INT8", None)
    if config.default_device_type == fake.DeviceType.DLA:
        if fake.BuilderFlag.GPU_FALLBACK not in config._flags:
            return NO_FALLBACK
        if config.DLA_core >= fake._dla_cores:
            return "Error Code 3: API Usage Error (Parameter check failed: dlaCore < NbDLACores)"
    if quantised and flag is not None and flag not in config._flags:
        return "Error Code 4: API Usage Error (Quantized networks need the flag INT8.)"
    return _not_compatible(fake, network, config)


def _calibrated(calibrator: Any, network: Any) -> List[str]:
    """Read all batches as the real builder does; return the SHA-256 of each."""
    assert calibrator.read_calibration_cache() is None
    shape = network.get_input(0).shape
    count = calibrator.get_batch_size() * int(abs(shape[1] * shape[2] * shape[3]))
    digests = []
    while True:
        addresses = calibrator.get_batch([network.get_input(0).name])
        if addresses is None:
            break
        content = ctypes.string_at(addresses[0], count)  # uint8: a byte a value
        digests.append(hashlib.sha256(content).hexdigest())
    calibrator.write_calibration_cache(_Memory(b"ranges"))
    return digests
