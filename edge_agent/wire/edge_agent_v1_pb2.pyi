from edge_agent.wire import edge_agent_pb2 as _edge_agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Region(_message.Message):
    __slots__ = ("name", "left", "top", "width", "height", "area", "peak")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    name: str
    left: int
    top: int
    width: int
    height: int
    area: float
    peak: float
    def __init__(self, name: _Optional[str] = ..., left: _Optional[int] = ..., top: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., area: _Optional[float] = ..., peak: _Optional[float] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("result", "regions", "model_version")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    result: _edge_agent_pb2.DetectAnomalyResult
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    model_version: str
    def __init__(self, result: _Optional[_Union[_edge_agent_pb2.DetectAnomalyResult, _Mapping]] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...
