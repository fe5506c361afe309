"""The generations of the protocol's file that clients in the field were made from.

Built from the field tables of the contract, in descriptor pools of their own, so that they know
nothing of the agent's own file.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "AWS.LookoutVision"
SERVICE = f"/{PACKAGE}.EdgeAgent/"
CALLS = ("DetectAnomalies", "StartModel", "StopModel", "ListModels", "DescribeModel")
STATUSES = ("STOPPED", "STARTING", "RUNNING", "FAILED", "STOPPING")
STOPPED, STARTING, RUNNING, FAILED, STOPPING = range(5)

Field = Tuple[int, str, str]  # number, name, type; "*" before the type: repeated
Tables = Dict[str, List[Field]]

_KINDS = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}
_ONE_OF = {"Bitmap": ("byte_data", "shared_memory_handle")}

_MODEL: List[Field] = [
    (1, "model_component", "string"),
    (2, "lookout_vision_model_arn", "string"),
    (3, "status", "ModelStatus"),
    (4, "status_message", "string"),
]
_NAME: List[Field] = [(1, "model_component", "string")]
_STATUS: List[Field] = [(1, "status", "ModelStatus")]


def tables_of_first() -> Tables:
    return {
        "SharedMemoryHandle": [
            (1, "name", "string"),
            (2, "size", "uint64"),
            (3, "offset", "uint64"),
        ],
        "Bitmap": [
            (1, "width", "int32"),
            (2, "height", "int32"),
            (3, "byte_data", "bytes"),
            (4, "shared_memory_handle", "SharedMemoryHandle"),
        ],
        "DetectAnomaliesRequest": [(1, "model_component", "string"), (2, "bitmap", "Bitmap")],
        "DetectAnomalyResult": [(1, "is_anomalous", "bool"), (2, "confidence", "float")],
        "DetectAnomaliesResponse": [(1, "detect_anomaly_result", "DetectAnomalyResult")],
        "ModelDescription": _MODEL,
        "ModelMetadata": _MODEL,
        "StartModelRequest": _NAME,
        "StartModelResponse": _STATUS,
        "StopModelRequest": _NAME,
        "StopModelResponse": _STATUS,
        "ListModelsRequest": [],
        "ListModelsResponse": [(1, "models", "*ModelMetadata")],
        "DescribeModelRequest": _NAME,
        "DescribeModelResponse": [(1, "model_description", "ModelDescription")],
    }


def tables_with_masks(mask_field: int) -> Tables:
    tables = tables_of_first()
    tables["AnomalyMaskParams"] = [(mask_field, "shared_memory_handle", "SharedMemoryHandle")]
    tables["PixelAnomaly"] = [(1, "total_percentage_area", "float"), (2, "hex_color", "string")]
    tables["Anomaly"] = [(1, "name", "string"), (2, "pixel_anomaly", "PixelAnomaly")]
    tables["DetectAnomaliesRequest"].append((3, "anomaly_mask_params", "AnomalyMaskParams"))
    tables["DetectAnomalyResult"] += [(3, "anomaly_mask", "Bitmap"), (4, "anomalies", "*Anomaly")]
    return tables


def tables_with_scores() -> Tables:
    tables = tables_with_masks(2)
    tables["DetectAnomalyResult"] += [
        (5, "anomaly_score", "float"),
        (6, "anomaly_threshold", "float"),
    ]
    return tables


def messages(tables: Tables) -> Any:
    """Return the message classes of a file with these tables, as attributes."""
    file = descriptor_pb2.FileDescriptorProto(name="edge-agent.proto", package=PACKAGE)
    file.syntax = "proto3"
    enum = file.enum_type.add(name="ModelStatus")
    for number, name in enumerate(STATUSES):
        enum.value.add(name=name, number=number)
    for message_name, fields in tables.items():
        message = file.message_type.add(name=message_name)
        if message_name in _ONE_OF:
            message.oneof_decl.add(name="data")
        for number, name, kind in fields:
            _add_field(message, number, name, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
            for name in tables
        }
    )


def _add_field(message: Any, number: int, name: str, kind: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    repeated, kind = kind.startswith("*"), kind.lstrip("*")
    field = message.field.add(name=name, number=number)
    field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type = kinds.TYPE_ENUM if kind == "ModelStatus" else kinds.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    if name in _ONE_OF.get(message.name, ()):
        field.oneof_index = 0


class Stub:
    """The five calls as a client made from one generation's messages makes them."""

    def __init__(self, channel: grpc.Channel, generation: Any) -> None:
        self.messages = generation
        for name in CALLS:
            call = channel.unary_unary(
                SERVICE + name,
                request_serializer=getattr(generation, f"{name}Request").SerializeToString,
                response_deserializer=getattr(generation, f"{name}Response").FromString,
            )
            setattr(self, name, call)


FIRST = messages(tables_of_first())  # 2021: no segmentation
MASK_AT_3 = messages(tables_with_masks(3))  # 2022, the samples' file: mask handle in field 3
MASK_AT_2 = messages(tables_with_masks(2))  # 2022, the published file: mask handle in field 2
LAST = messages(tables_with_scores())  # with score and threshold

GENERATIONS = {"first": FIRST, "mask_at_3": MASK_AT_3, "mask_at_2": MASK_AT_2, "last": LAST}
