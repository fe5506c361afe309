"""An exported graph made to fit the agent: one RGB picture in, a batch axis, float32 out.

What is added are small nodes before the first and after the last; the model itself stays. Each step
leaves a sentence. What can't be adapted stays as it is: the checks say what is wrong with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.graph.check import NEWEST_IR
from edge_agent.packaging.graph.graph import (
    GraphTensor,
    all_inputs,
    library,
    nested,
    parsed,
    replace,
    tensor,
)
from edge_agent.packaging.json_document import Document

if TYPE_CHECKING:
    import onnx

CHANNELS = (1, 3)
LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as OpenCV and Pillow make gray
SELECTED = re.compile(r"^(?P<reversed>1-)?(?P<name>.+?)(\[(?P<index>\d+)\])?$")
# of inputs and outputs; the agent supplies uint8 and float32, and reads float32
CONVERTED = (
    "float16",
    "bfloat16",
    "float64",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
)
AXES_ARE_INPUTS = 13  # the opset from which Squeeze and Unsqueeze take axes as an input
PREFIX = "edge_agent/"  # of the names that are added

Picture = Optional[GraphTensor]


def adapt(content: bytes, given: Document) -> Tuple[bytes, Document, Tuple[str, ...]]:
    """Return the graph, what of `given` is left for the manifest, and a sentence for each change.

    `given` is what --manifest says: `constants` are values of inputs that are no picture, and
    outputs.score may be NAME[INDEX], one class of several, or 1-NAME. Raises InvalidPackage,
    InvalidConfiguration.
    """
    work = _Work(parsed(content), given)
    work.lower_ir()
    work.fix_inputs()
    work.add_channel()
    work.add_batch()
    work.put_channels_first()
    work.make_gray()
    work.cast()
    work.select()
    if not work.remarks:
        return content, work.given, ()
    return bytes(work.model.SerializeToString(deterministic=True)), work.given, tuple(work.remarks)


def picture_among(inputs: Sequence[GraphTensor], given: Document) -> Picture:
    """Return the input that is the picture: the one that is named, or the only one it can be."""
    image = given.get("input")
    named = image.get("tensor") if isinstance(image, dict) else None
    if named is not None:
        return next((entry for entry in inputs if entry.name == named), None)
    fitting = [entry for entry in inputs if _channels_axis(entry) is not None]
    return fitting[0] if len(fitting) == 1 else (inputs[0] if len(inputs) == 1 else None)


def _channels_axis(entry: GraphTensor) -> Optional[int]:
    """Return which axis from the end holds the channels: 1 NHWC, 3 NCHW; None: it's no picture."""
    shape = entry.shape or ()
    if len(shape) not in (3, 4):
        return None
    fitting = [axis for axis in (3, 1) if shape[-axis] in CHANNELS]
    return fitting[0] if len(fitting) == 1 else None


class _Work:
    """One graph while it is changed."""

    def __init__(self, model: onnx.ModelProto, given: Document) -> None:
        self.model, self.graph = model, model.graph
        self.given = dict(given)
        self.remarks: List[str] = []
        self._opset = max(
            (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
            default=0,
        )

    def lower_ir(self) -> None:
        """Write the file in a version that all engines read; the operators have their own."""
        if self.model.ir_version > NEWEST_IR:
            self.remarks.append(f"IR version {self.model.ir_version} is written as {NEWEST_IR}.")
            self.model.ir_version = NEWEST_IR

    def fix_inputs(self) -> None:
        """Leave out inputs that nothing uses; store the values that are given for others."""
        values = self.given.pop("constants", {})
        if not isinstance(values, dict):
            raise InvalidConfiguration(f"--manifest: constants must be an object, not {values!r}.")
        used = {name for node in self.graph.node for name in all_inputs(node)}
        picture = picture_among(self._inputs(), self.given)
        for entry in self._inputs():
            if entry.name in values:
                self._store(entry, values[entry.name])
                self.remarks.append(f"Input {entry} is always {values[entry.name]}.")
            elif entry.name not in used and entry != picture:
                self.remarks.append(f"Input {entry} isn't used and is left out.")
            else:
                continue
            self._remove_input(entry.name)

    def add_channel(self) -> None:
        """Give a gray picture without an axis for its channel, (H, W) or (N, H, W), that axis."""
        picture = picture_among(self._inputs(), self.given)
        shape = picture.shape if picture else None
        if picture is None or shape is None or _channels_axis(picture) is not None:
            return
        if len(shape) == 2 or (len(shape) == 3 and shape[0] is None):
            axis = len(shape) - 2
            wide = (*shape[:axis], 1, *shape[axis:])
            self._before(picture, wide, [self._axis_node("Squeeze", axis)])
            self.remarks.append(f"Input {picture} has no axis for its channel; it is added.")

    def add_batch(self) -> None:
        """Give a graph of one picture, (H, W, C) or (C, H, W), a first axis of 1."""
        picture = picture_among(self._inputs(), self.given)
        shape = picture.shape if picture else None
        if picture is None or shape is None:
            return
        is_missing = len(shape) == 3 and _channels_axis(picture) is not None
        if is_missing:
            self._before(picture, (1, *shape), [self._axis_node("Squeeze", 0)])
            self.remarks.append(f"Input {picture} has no batch axis; it is added, of length 1.")
        if is_missing or (len(shape) == 4 and shape[0] == 1):
            self._add_batch_to_outputs(free_is_batch=not is_missing)

    def _add_batch_to_outputs(self, free_is_batch: bool) -> None:
        """Give the outputs of a graph of one picture that have no first axis of 1 that axis."""
        for value in list(self.graph.output):
            found = tensor(value)
            shape = found.shape
            if shape is None or (shape and shape[0] in ((1, None) if free_is_batch else (1,))):
                continue
            is_maps = len(shape) == 3 and not self._map_channels.isdisjoint((shape[0], shape[2]))
            if len(shape) < 3 or is_maps:
                self._after(value, (1, *shape), [self._axis_node("Unsqueeze", 0)])
                self.remarks.append(f"Output {found} has no batch axis; it is added.")

    def put_channels_first(self) -> None:
        """Make maps (N, h, w, channels) into (N, channels, h, w)."""
        for value in list(self.graph.output):
            found = tensor(value)
            if found.shape is None or len(found.shape) != 4:
                continue
            batch, *size, last = found.shape
            if last in self._map_channels and size[0] not in self._map_channels and size[1] != 1:
                self._after(value, (batch, last, *size), [("Transpose:0,3,1,2", [])])
                self.remarks.append(f"Output {found} has its channels last; they are put first.")

    @property
    def _map_channels(self) -> Set[int]:
        """How many channels maps can have: an anomaly map 1, of classes one more than these."""
        classes = self.given.get("classes")
        return {1, len(classes) + 1} if isinstance(classes, list) else {1}

    def make_gray(self) -> None:
        """Turn RGB into the one channel that the graph takes."""
        picture = picture_among(self._inputs(), self.given)
        axis = _channels_axis(picture) if picture else None
        shape = picture.shape if picture else None
        if picture is None or axis is None or shape is None or shape[-axis] != 1:
            return
        channels_first = axis == 3
        kernel = np.array(LUMA, np.float32).reshape((1, 3, 1, 1) if channels_first else (3, 1))
        weights = self._constant("luma", kernel)
        steps = [("Conv" if channels_first else "MatMul", [weights])]
        if "int" in picture.dtype:
            steps += [("Add", [self._constant("half", np.float32(0.5))]), ("Floor", [])]
        if picture.dtype != "float32":
            steps = [("Cast:float32", []), *steps, (f"Cast:{picture.dtype}", [])]
        wide = [3 if index == len(shape) - axis else each for index, each in enumerate(shape)]
        self._before(picture, tuple(wide), steps)
        self.remarks.append(f"Input {picture} has one channel; RGB is turned into gray before it.")

    def cast(self) -> None:
        """Take uint8 or float32 and give float32, where the graph has other numbers."""
        picture = picture_among(self._inputs(), self.given)
        if picture and picture.shape and picture.dtype in CONVERTED:
            supplied = "float32" if "float" in picture.dtype else "uint8"
            self._before(picture, picture.shape, [(f"Cast:{picture.dtype}", [])], supplied)
            self.remarks.append(f"Input {picture} gets {supplied}, converted.")
        for value in list(self.graph.output):
            found = tensor(value)
            if found.dtype in CONVERTED and "float" in found.dtype and found.shape is not None:
                self._after(value, found.shape, [("Cast:float32", [])], "float32")
                self.remarks.append(f"Output {found} is converted to float32.")

    def select(self) -> None:
        """Make the score one class of several, or the reverse, as outputs.score says."""
        outputs = self.given.get("outputs")
        score = outputs.get("score") if isinstance(outputs, dict) else None
        by_name = {value.name: value for value in self.graph.output}
        if not isinstance(outputs, dict) or not isinstance(score, str) or score in by_name:
            return
        found = SELECTED.match(score)
        value = by_name.get(found["name"]) if found else None
        if found is None or value is None:
            return
        steps: List[Step] = []
        shape = tensor(value).shape
        if shape is not None and not _has_class(shape, found["index"]):
            return
        if shape is not None and len(shape) > 2:
            steps.append(("Flatten", []))
            shape = shape[:2]
        if found["index"]:
            index = self._constant("class", np.array([int(found["index"])], np.int64))
            steps.append(("Gather:1", [index]))
            shape = shape and (shape[0], 1)
        if found["reversed"]:
            steps += [("Neg", []), ("Add", [self._constant("one", np.float32(1.0))])]
        name = PREFIX + "score"
        self._append(value.name, name, steps)
        made = library().helper.make_tensor_value_info
        axes = None if shape is None else _axes(shape)
        self.graph.output.append(made(name, library().TensorProto.FLOAT, axes))
        self.given["outputs"] = {**outputs, "score": name}
        self.remarks.append(f"The score is {score}.")

    def _inputs(self) -> List[GraphTensor]:
        stored = {entry.name for entry in self.graph.initializer}
        return [tensor(each) for each in self.graph.input if each.name not in stored]

    def _remove_input(self, name: str) -> None:
        replace(self.graph.input, [each for each in self.graph.input if each.name != name])

    def _store(self, entry: GraphTensor, value: object) -> None:
        shape = [axis or 1 for axis in entry.shape or ()]
        try:
            array = np.ascontiguousarray(np.broadcast_to(np.asarray(value, entry.dtype), shape))
        except (TypeError, ValueError) as error:
            raise InvalidConfiguration(
                f"--manifest: constants.{entry.name} doesn't fit {entry}: {error}."
            ) from None
        self.graph.initializer.append(library().numpy_helper.from_array(array, entry.name))

    def _constant(self, name: str, value: object) -> str:
        """Store a value, once, and return its tensor's name."""
        full = PREFIX + name
        if not any(entry.name == full for entry in self.graph.initializer):
            array = library().numpy_helper.from_array(np.asarray(value), full)
            self.graph.initializer.append(array)
        return full

    def _axis_node(self, operator: str, axis: int) -> Step:
        if self._opset < AXES_ARE_INPUTS:
            return (f"{operator}:{axis}", [])
        return (operator, [self._constant(f"axis{axis}", np.array([axis], np.int64))])

    def _before(
        self, picture: GraphTensor, shape: Sequence[Optional[int]], steps: Steps, dtype: str = ""
    ) -> None:
        """Let the steps make the picture of an input of its name, of another shape or dtype."""
        inner = f"{PREFIX}{picture.name}/{len(self.remarks)}"
        self._rename(picture.name, inner)
        nodes = self._nodes(picture.name, inner, steps)
        replace(self.graph.node, [*nodes, *self.graph.node])
        value = next(each for each in self.graph.input if each.name == picture.name)
        _describe(value, shape, dtype or picture.dtype)

    def _after(
        self,
        value: onnx.ValueInfoProto,
        shape: Sequence[Optional[int]],
        steps: Steps,
        dtype: str = "",
    ) -> None:
        """Let the steps make the output, of the same name, of what was it so far."""
        inner = f"{PREFIX}{value.name}/{len(self.remarks)}"
        self._rename(value.name, inner)
        self._append(inner, value.name, steps)
        _describe(value, shape, dtype or tensor(value).dtype)

    def _append(self, source: str, target: str, steps: Steps) -> None:
        self.graph.node.extend(self._nodes(source, target, steps))

    def _nodes(self, source: str, target: str, steps: Steps) -> Iterator[onnx.NodeProto]:
        """Yield the chain of nodes from one tensor to the other."""
        for number, (operator, others) in enumerate(steps):
            kind, _, parameter = operator.partition(":")
            output = target if number == len(steps) - 1 else f"{target}/step{number}"
            attributes: Dict[str, object] = {}
            if kind == "Cast":
                attributes["to"] = _kind(parameter)
            elif kind == "Gather":
                attributes["axis"] = int(parameter)
            elif kind == "Transpose":
                attributes["perm"] = [int(axis) for axis in parameter.split(",")]
            elif parameter:
                attributes["axes"] = [int(parameter)]
            name = f"{output}/{kind}"
            yield library().helper.make_node(kind, [source, *others], [output], name, **attributes)
            source = output

    def _rename(self, old: str, new: str) -> None:
        for scope in nested(self.graph):
            for node in scope.node:
                for names in (node.input, node.output):
                    for index, name in enumerate(names):
                        if name == old:
                            names[index] = new


def _has_class(shape: Sequence[Optional[int]], index: Optional[str]) -> bool:
    """Whether scores (N, classes), perhaps with axes of 1 behind, have the class `index`.

    Without an index: whether they have just one.
    """
    classes = shape[1] if len(shape) > 1 else 1
    if any(axis != 1 for axis in shape[2:]):
        return False
    if not index:
        return classes in (1, None)
    return len(shape) > 1 and (classes is None or int(index) < classes)


Step = Tuple[str, List[str]]  # operator, with its parameter after a colon; what it takes besides
Steps = Sequence[Step]


def _kind(dtype: str) -> int:
    kinds = library().TensorProto.DataType
    return int(kinds.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())))


def _axes(shape: Sequence[Optional[int]]) -> List[object]:
    return [f"axis{index}" if axis is None else axis for index, axis in enumerate(shape)]


def _describe(value: onnx.ValueInfoProto, shape: Sequence[Optional[int]], dtype: str) -> None:
    made = library().helper.make_tensor_value_info(value.name, _kind(dtype), _axes(shape))
    value.CopyFrom(made)
