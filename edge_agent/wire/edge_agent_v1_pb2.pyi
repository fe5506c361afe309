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
    __slots__ = ("result", "regions", "model_version", "camera_problems", "result_id", "is_unsure")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAMERA_PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    RESULT_ID_FIELD_NUMBER: _ClassVar[int]
    IS_UNSURE_FIELD_NUMBER: _ClassVar[int]
    result: _edge_agent_pb2.DetectAnomalyResult
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    model_version: str
    camera_problems: _containers.RepeatedScalarFieldContainer[str]
    result_id: str
    is_unsure: bool
    def __init__(self, result: _Optional[_Union[_edge_agent_pb2.DetectAnomalyResult, _Mapping]] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ..., model_version: _Optional[str] = ..., camera_problems: _Optional[_Iterable[str]] = ..., result_id: _Optional[str] = ..., is_unsure: bool = ...) -> None: ...

class StreamOptions(_message.Message):
    __slots__ = ("max_in_flight", "newest_frame_wins")
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FRAME_WINS_FIELD_NUMBER: _ClassVar[int]
    max_in_flight: int
    newest_frame_wins: bool
    def __init__(self, max_in_flight: _Optional[int] = ..., newest_frame_wins: bool = ...) -> None: ...

class StreamDetectRequest(_message.Message):
    __slots__ = ("options", "frame_id", "request")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    options: StreamOptions
    frame_id: int
    request: _edge_agent_pb2.DetectAnomaliesRequest
    def __init__(self, options: _Optional[_Union[StreamOptions, _Mapping]] = ..., frame_id: _Optional[int] = ..., request: _Optional[_Union[_edge_agent_pb2.DetectAnomaliesRequest, _Mapping]] = ...) -> None: ...

class StreamFailure(_message.Message):
    __slots__ = ("code", "message", "error_name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_NAME_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    error_name: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., error_name: _Optional[str] = ...) -> None: ...

class StreamDetectResponse(_message.Message):
    __slots__ = ("frame_id", "result", "failure", "skipped", "server_timing")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIMING_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    result: InspectResponse
    failure: StreamFailure
    skipped: bool
    server_timing: str
    def __init__(self, frame_id: _Optional[int] = ..., result: _Optional[_Union[InspectResponse, _Mapping]] = ..., failure: _Optional[_Union[StreamFailure, _Mapping]] = ..., skipped: bool = ..., server_timing: _Optional[str] = ...) -> None: ...
