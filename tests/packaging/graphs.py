"""Small ONNX graphs with one property each, and what the checks say of them."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent import manifest
from edge_agent.packaging.graph.check import check
from edge_agent.packaging.graph.findings import GraphReport
from edge_agent.packaging.target import Target, parse
from tests.fakes import micro

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
CPU = parse(None, "os=LINUX,arch=X86_64", None)

node = helper.make_node


def tensor(name: str, kind: int, shape: Optional[Sequence[Any]]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, values: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def gpu(version: str) -> Target:
    options = {"gpu-code": "sm_72", "trt-ver": version, "cuda-ver": "11.4"}
    return parse(None, "os=LINUX,arch=ARM64,accelerator=NVIDIA", json.dumps(options))


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
    opset: int = 13,
    ir: int = 8,
    domains: Sequence[Tuple[str, int]] = (),
    functions: Sequence[Any] = (),
) -> bytes:
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in domains)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))
    return bytes(made.SerializeToString())


def image(kind: int = UINT8, batch: Any = "N") -> Any:
    return tensor("image", kind, [batch, micro.SIZE, micro.SIZE, 3])


def scorer(
    middle: Sequence[Any] = (),
    constants: Sequence[Any] = (),
    head: str = "float",
    **options: Any,
) -> bytes:
    """Classification: the image as float, then `middle`, then the mean of the tensor `head`."""
    nodes = [
        node("Cast", ["image"], ["float"], to=FLOAT),
        *middle,
        # opset 13 to 17 have axes as an attribute
        node("ReduceMean", [head], ["score"], name="head", axes=[1, 2, 3], keepdims=0),
    ]
    return model(nodes, [image()], [tensor("score", FLOAT, ["N"])], constants, **options)


def altered(content: bytes, ir: Optional[int] = None, opset: Optional[int] = None) -> bytes:
    made = onnx.load_model_from_string(content)
    made.ir_version = ir or made.ir_version
    made.opset_import[0].version = opset or made.opset_import[0].version
    return bytes(made.SerializeToString())


def described(content: bytes, task: str = "classification", **changes: Any) -> manifest.Manifest:
    values: Dict[str, Any] = micro.manifest(task, content, **changes)
    return manifest.parse(json.dumps(values).encode())


def report(
    content: bytes,
    target: Target = CPU,
    task: str = "classification",
    calibration: int = 0,
    **changes: Any,
) -> GraphReport:
    return check(content, described(content, task, **changes), target, calibration)


def errors(content: bytes, target: Target = CPU, **options: Any) -> List[str]:
    return report(content, target, **options).of("error")


def warnings(content: bytes, target: Target = CPU, **options: Any) -> List[str]:
    found = report(content, target, **options)
    assert found.of("error") == []
    return found.of("warning")
