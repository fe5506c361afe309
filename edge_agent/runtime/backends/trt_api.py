"""TensorRT's objects as the agent uses them; its Python package has no types of its own."""

# ruff: noqa: D102 TensorRT's documentation says what its calls do.

from __future__ import annotations

from typing import Any, Optional, Protocol, Sequence, Tuple

TrtModule = Any  # `tensorrt` itself: what it offers differs from release to release
TrtObject = Any  # what its builder works with: networks, layers, parsers, configurations

TrtShape = Sequence[int]


class TrtEnum(Protocol):
    """A member of one of its enumerations."""

    name: str


class TrtContext(Protocol):
    """`IExecutionContext`."""

    active_optimization_profile: int
    device_memory: int

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool: ...
    def set_device_memory(self, address: int, size: int) -> None: ...
    def set_input_shape(self, name: str, shape: TrtShape) -> bool: ...
    def get_tensor_shape(self, name: str) -> TrtShape: ...
    def set_tensor_address(self, name: str, address: int) -> bool: ...
    def execute_async_v3(self, stream: int) -> bool: ...


class TrtEngine(Protocol):
    """`ICudaEngine`."""

    num_io_tensors: int
    num_optimization_profiles: int
    device_memory_size: int
    device_memory_size_v2: int

    def create_execution_context(self, strategy: object = ...) -> Optional[TrtContext]: ...
    def create_execution_context_without_device_memory(self) -> Optional[TrtContext]: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> TrtEnum: ...
    def get_tensor_location(self, name: str) -> TrtEnum: ...
    def get_tensor_dtype(self, name: str) -> TrtEnum: ...
    def get_tensor_shape(self, name: str) -> TrtShape: ...
    def get_tensor_profile_shape(
        self, name: str, profile: int
    ) -> Tuple[TrtShape, TrtShape, TrtShape]: ...


class TrtRuntime(Protocol):
    """`IRuntime`."""

    num_DLA_cores: int  # noqa: N815 - its name
    DLA_core: int
    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, content: bytes) -> Optional[TrtEngine]: ...
