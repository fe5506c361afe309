"""An ONNX file and the files beside it that hold its tensors → one ONNX file.

Read by our own steps: older releases of onnx follow names that lead out of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator

from edge_agent.errors import InvalidPackage
from edge_agent.packaging.graph.graph import parsed, scopes

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2**31 - 1  # of a message of protobuf


def merged(path: Path) -> bytes:
    """Return the content of an ONNX file with all its tensors inside. Raises InvalidPackage."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidPackage(f"{path} can't be read: {error.strerror}.") from None
    model = parsed(content)
    outside = [tensor for tensor in _tensors(model) if tensor.external_data]
    if not outside:
        return content
    size = len(content)
    for tensor in outside:
        data = _read(path, tensor)
        size += len(data)
        if size > MOST_BYTES:
            raise InvalidPackage(
                f"{path} has over 2 GiB with its tensors, more than one ONNX file holds. Export a "
                "smaller model, or one in float16."
            )
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return bytes(model.SerializeToString(deterministic=True))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for scope in scopes(model):
        yield from getattr(scope, "initializer", ())
        for node in scope.node:
            for entry in node.attribute:
                if entry.HasField("t"):
                    yield entry.t
                yield from entry.tensors


def _read(path: Path, tensor: onnx.TensorProto) -> bytes:
    where: Dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    location = where.get("location", "")
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not location or folder not in file.parents:
        raise InvalidPackage(
            f"{path} keeps tensor {tensor.name!r} in {location!r}, which isn't a file in its "
            "folder. Save the model as one file."
        )
    try:
        start, length = int(where.get("offset", 0)), int(where.get("length", -1))
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(length)
    except OSError as error:
        raise InvalidPackage(
            f"{path} keeps tensor {tensor.name!r} in {file}: {error.strerror}. Put that file "
            "beside it, or save the model as one file."
        ) from None
    except ValueError:
        raise InvalidPackage(f"{path} is damaged: where is tensor {tensor.name!r}?") from None
    if length > len(data):
        raise InvalidPackage(f"{file} is too short: tensor {tensor.name!r} needs {length} bytes.")
    return data
