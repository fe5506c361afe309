"""Rewrites a graph so that some of its nodes compute with float16.

A tensor keeps its name in float32; in float16 it is called NAME/half. Where a node needs the one
and there is only the other, a Cast is put before it. Inputs and outputs of the graph stay.
"""

from __future__ import annotations

from typing import AbstractSet, Any, Dict, List, Mapping, Sequence, Set

import numpy as np

from edge_agent.packaging.graph.graph import DEFAULT_DOMAIN, Graph, library, needs

SUFFIX = "/half"
SAFE = 65504.0 / 16  # float16's largest number, and room for pictures harder than any seen

CONVOLVING = frozenset({"Conv", "ConvTranspose", "Gemm"})  # kernels add up in float32
MULTIPLYING = frozenset({"MatMul"})
ADDING = frozenset({"Add", "BatchNormalization", "Mul", "Sub"})
# These move numbers or choose among them: float16 when all that they take is.
_FOLLOWING = """
    AveragePool Clip Concat DepthToSpace Elu Flatten Gather GlobalAveragePool GlobalMaxPool
    HardSigmoid HardSwish Identity LeakyRelu Max MaxPool Min Neg PRelu Pad ReduceMax ReduceMin Relu
    Reshape Resize Sigmoid Slice SpaceToDepth Split Squeeze Tanh Tile Transpose Unsqueeze
"""
FOLLOWING = frozenset(_FOLLOWING.split())
ONLY_FIRST = frozenset({"Resize"})  # the scales have their own type


class Rewriting:
    """`graph` with float16 in `count` nodes.

    peaks: name → largest absolute value of each float32 tensor that is computed; what may come near
    float16's limit stays. beginning: operators that use float16 wherever they can; going_on: when
    all that they take is float16 already.
    """

    def __init__(
        self,
        graph: Graph,
        peaks: Mapping[str, float],
        beginning: AbstractSet[str],
        going_on: AbstractSet[str],
    ) -> None:
        self.count = 0
        self._graph, self._beginning, self._going_on = graph, beginning, going_on | FOLLOWING
        self._peaks: Dict[str, float] = {**_stored(graph), **peaks}
        self._nodes: List[Any] = []
        self._constants: List[Any] = []
        self._born: Set[str] = set()  # tensors that are float16 where they are made
        self._cast: Set[str] = set()  # tensors that are there in both
        for node in graph.model.graph.node:
            self._add(node)
        for output in graph.outputs:
            self._need(output.name)

    def model(self) -> bytes:
        """Return the file."""
        made = library().ModelProto()
        made.CopyFrom(self._graph.model)
        used = {name for node in self._nodes for name in needs(node)}
        used |= {output.name for output in self._graph.outputs}
        kept = [entry for entry in made.graph.initializer if entry.name in used]
        nodes = [
            node for node in self._nodes if node.op_type != "Constant" or node.output[0] in used
        ]
        for field, entries in (
            (made.graph.node, nodes),
            (made.graph.initializer, [*kept, *self._constants]),
            (made.graph.value_info, []),
        ):
            copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
            del field[:]
            field.extend(copies)
        content: bytes = made.SerializeToString(deterministic=True)
        return content

    def _add(self, node: Any) -> None:
        taken = self._taken(node)
        if not self._may(node, taken):
            for name in needs(node):
                self._need(name)
            self._nodes.append(node)
            return
        made = type(node)()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in taken:
                made.input[place] = self._halved(name)
        for place, name in enumerate(node.output):
            if name:
                made.output[place] = name + SUFFIX
                self._born.add(name)
        self.count += 1
        self._nodes.append(made)

    def _taken(self, node: Any) -> List[str]:
        """Return the float32 tensors that a node computes with."""
        names: Sequence[str] = node.input[:1] if node.op_type in ONLY_FIRST else node.input
        return [name for name in names if name in self._peaks]

    def _may(self, node: Any, taken: Sequence[str]) -> bool:
        """Whether a node can use float16."""
        if node.domain not in (DEFAULT_DOMAIN, "ai.onnx") or not taken:
            return False
        given = [name for name in node.output if name]
        if not all(self._peaks.get(name, np.inf) <= SAFE for name in (*taken, *given)):
            return False
        computed = [name for name in taken if name not in self._graph.constants]
        follows = bool(computed) and all(name in self._born for name in computed)
        kind = node.op_type
        return kind in self._beginning or (kind in self._going_on and follows)

    def _halved(self, name: str) -> str:
        """Return what the tensor is called in float16, having made it."""
        if name not in self._born | self._cast:
            self._cast.add(name)
            if name in self._graph.constants:
                array = self._graph.array(name).astype(np.float16)
                self._constants.append(library().numpy_helper.from_array(array, name + SUFFIX))
            else:
                self._convert(name, name + SUFFIX, library().TensorProto.FLOAT16)
        return name + SUFFIX

    def _need(self, name: str) -> None:
        """Make sure that the tensor is there in float32."""
        if name in self._born - self._cast:
            self._cast.add(name)
            self._convert(name + SUFFIX, name, library().TensorProto.FLOAT)

    def _convert(self, old: str, new: str, kind: int) -> None:
        self._nodes.append(library().helper.make_node("Cast", [old], [new], f"to {new}", to=kind))


def _stored(graph: Graph) -> Dict[str, float]:
    """Return the largest absolute value of each float32 constant."""
    return {
        name: float(np.abs(graph.array(name)).max(initial=0.0))
        for name in graph.constants
        if graph.dtype(name) == "float32"
    }
