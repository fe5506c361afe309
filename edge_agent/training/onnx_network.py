"""A network out of an ONNX file, to be a part of a graph that is built: float32, opset 13."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.training.graph import IR_VERSION, OPSET, GraphBuilder, Size

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

FLOAT, FLOAT16 = 1, 10  # onnx.TensorProto.DataType
# Attributes of older opsets that are inputs in OPSET, in order.
NOW_INPUTS = {
    "Clip": ("min", "max"), "Pad": ("pads", "value"), "Slice": ("starts", "ends", "axes"),
    "Squeeze": ("axes",), "Unsqueeze": ("axes",), "ReduceSum": ("axes",), "Split": ("split",),
}  # fmt: skip
USUAL = {"spatial": 1}  # of attributes that OPSET hasn't: what it always does; of others 0
PICTURES = 2  # that shapes are asked for: a graph made for one only shows


class Network:
    """A model that takes one tensor of pictures.

    input: its name. is_channels_last: pictures are (N, H, W, 3), not (N, 3, H, W). fixed_size:
    height and width, when the file names them.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = _in_float32(_in_current_opset(model))
        graph = self._model.graph
        self.nodes: Sequence[NodeProto] = graph.node
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        given = [each for each in graph.input if each.name not in self.weights]
        shape = [dim.dim_value for dim in given[0].type.tensor_type.shape.dim] if given else []
        kinds = [each.type.tensor_type.elem_type for each in given]
        if kinds != [FLOAT] or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ValueError(
                f"it takes {len(kinds)} tensors, the first of shape {shape} (0: any); a backbone "
                "takes one of floating-point numbers: N x 3 x height x width or N x height x width "
                "x 3"
            )
        self.input = given[0].name
        self.is_channels_last = shape[1] != 3
        height, width = shape[1:3] if self.is_channels_last else shape[2:4]
        self.fixed_size: Optional[Size] = (height, width) if height and width else None

    @property
    def unknown(self) -> List[str]:
        """Operators that OPSET hasn't."""
        from onnx import defs

        kinds = sorted({node.op_type for node in self.nodes})
        return [kind for kind in kinds if not defs.has(kind, OPSET, "")]

    @classmethod
    def read(cls, path: Path) -> Network:
        """Raise InvalidConfiguration when `path` can't be read or is no such network."""
        import onnx

        try:
            return cls(onnx.load_model_from_string(path.read_bytes()))
        except OSError as error:
            problem = str(error.strerror)
        except Exception as error:  # of protobuf, several kinds
            problem = str(error).strip().splitlines()[0] if str(error).strip() else "no ONNX model"
        raise InvalidConfiguration(f"{path} can't be the backbone: {problem}.")

    def shapes(self, size: Size) -> Dict[str, Tuple[int, ...]]:
        """Return the shapes of its tensors for PICTURES of `size`, in order, where known."""
        from onnx import ModelProto, helper, shape_inference

        model = ModelProto()
        model.CopyFrom(self._model)
        model.ir_version = IR_VERSION  # of old ones weights must be inputs too
        graph = model.graph
        shape = (*size, 3) if self.is_channels_last else (3, *size)
        for part in (graph.input, graph.output, graph.value_info):
            del part[:]
        graph.input.append(helper.make_tensor_value_info(self.input, FLOAT, (PICTURES, *shape)))
        found = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        known = {
            each.name: tuple(dim.dim_value for dim in each.type.tensor_type.shape.dim)
            for each in found
            if each.type.tensor_type.elem_type == FLOAT
        }
        made = [output for node in self.nodes for output in node.output]
        return {name: known[name] for name in made if name in known}

    def append(self, graph: GraphBuilder, pictures: str, wanted: Sequence[str]) -> List[str]:
        """Append what the tensors `wanted` need, from pictures (N, 3, H, W); return their names."""
        if self.is_channels_last:
            pictures = graph.add("Transpose", pictures, perm=[0, 2, 3, 1])
        names = graph.insert(self._needed(wanted), self.weights, {self.input: pictures})
        return [names[each] for each in wanted]

    def _needed(self, wanted: Sequence[str]) -> List[NodeProto]:
        needed: Set[str] = set(wanted)
        found: List[NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                found.append(node)
        return found[::-1]


def _in_current_opset(model: ModelProto) -> ModelProto:
    """Return the model in OPSET.

    Most operators are the same in all opsets. What isn't known here stays as it is, and doesn't
    pass the check when it is needed. Raises ValueError: what stands against it.
    """
    import onnx

    if any(tensor.external_data for tensor in model.graph.initializer):
        raise ValueError("it keeps weights in other files. Export it into one")
    others = [each.domain for each in model.opset_import if each.domain not in ("", "ai.onnx")]
    if any(node.domain in others for node in model.graph.node):
        raise ValueError(f"it needs operators of {', '.join(others)}. Export it without")
    opset = max(
        (each.version for each in model.opset_import if each.domain not in others), default=1
    )
    if opset == OPSET:
        return model
    ported = onnx.ModelProto()
    ported.CopyFrom(model)
    del ported.opset_import[:]
    ported.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    weights = {tensor.name: tensor for tensor in ported.graph.initializer}
    del ported.graph.node[:]
    for node in model.graph.node:
        ported.graph.node.extend(_ported(node, opset, weights))
    return ported


def _ported(node: NodeProto, opset: int, weights: Mapping[str, TensorProto]) -> List[NodeProto]:
    """Return nodes of OPSET that do the same as one of `opset`; weights: of the graph, by name."""
    from onnx import defs, helper, numpy_helper

    if node.op_type == "LayerNormalization" and len([name for name in node.output if name]) == 1:
        return _layer_normalisation(node)
    if node.op_type == "Dropout":
        return [helper.make_node("Identity", node.input[:1], node.output[:1])]
    if not defs.has(node.op_type, OPSET, ""):
        return [node]
    known = defs.get_schema(node.op_type, OPSET, "")
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    inputs, nodes = list(node.input), []
    if node.op_type.startswith("Reduce") and len(inputs) > known.max_input:
        if inputs[-1] not in weights:
            return [node]
        given["axes"] = numpy_helper.to_array(weights[inputs.pop()]).tolist()
    for name, value in _now_inputs(node.op_type, given):
        inputs.append("" if value is None else f"{node.output[0]}/{name}")
        if value is not None:
            nodes.append(helper.make_node("Constant", [], [inputs[-1]], value=value))
    if node.op_type == "Softmax" and opset < OPSET:
        given.setdefault("axis", 1)  # -1 since OPSET
    kept = {
        name: value
        for name, value in given.items()
        if name in known.attributes or value != USUAL.get(name, 0)
    }
    return [*nodes, helper.make_node(node.op_type, inputs, list(node.output), **kept)]


def _now_inputs(
    operator: str, given: Dict[str, Any]
) -> Iterator[Tuple[str, Optional[TensorProto]]]:
    """Take the attributes that are inputs in OPSET out of `given`; yield them in order.

    None: one that isn't there. Nothing at all where none is.
    """
    from onnx import numpy_helper

    names = NOW_INPUTS.get(operator, ())
    for name in names if any(name in given for name in names) else ():
        value = given.pop(name, None)
        kind = np.float32 if isinstance(value, float) else np.int64
        yield name, None if value is None else numpy_helper.from_array(np.array(value, kind))


def _layer_normalisation(node: NodeProto) -> List[NodeProto]:
    """Return it in basic operators (https://onnx.ai/onnx/operators/onnx__LayerNormalization.html)."""
    from onnx import helper, numpy_helper

    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if given.get("axis", -1) != -1:
        raise ValueError("it normalises over more than the last axis")
    name, tensor = node.output[0], node.input[0]
    epsilon = numpy_helper.from_array(np.array(given.get("epsilon", 1e-5), np.float32))
    steps = [
        ("ReduceMean", [tensor], "mean", {"axes": [-1]}),
        ("Sub", [tensor, f"{name}/mean"], "centred", {}),
        ("Mul", [f"{name}/centred", f"{name}/centred"], "square", {}),
        ("ReduceMean", [f"{name}/square"], "variance", {"axes": [-1]}),
        ("Constant", [], "epsilon", {"value": epsilon}),
        ("Add", [f"{name}/variance", f"{name}/epsilon"], "raised", {}),
        ("Sqrt", [f"{name}/raised"], "deviation", {}),
        ("Div", [f"{name}/centred", f"{name}/deviation"], "normal", {}),
        ("Mul", [f"{name}/normal", node.input[1]], "scaled", {}),
    ]
    nodes = [
        helper.make_node(operator, inputs, [f"{name}/{output}"], **attributes)
        for operator, inputs, output, attributes in steps
    ]
    if len(node.input) > 2 and node.input[2]:
        nodes.append(helper.make_node("Add", [f"{name}/scaled", node.input[2]], [name]))
    else:
        nodes[-1].output[0] = name
    return nodes


def _in_float32(model: ModelProto) -> ModelProto:
    """Return the model with float32 in place of float16."""
    from onnx import ModelProto

    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.i == FLOAT16:
                attribute.i = FLOAT
    for described in graph.input:
        if described.type.tensor_type.elem_type == FLOAT16:
            described.type.tensor_type.elem_type = FLOAT
    return changed


def _widen(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type == FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
