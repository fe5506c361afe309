"""Whether the precision asked for can be had on the target."""

from __future__ import annotations

from typing import Iterator

from edge_agent.packaging.graph.findings import Finding, error, note, warning
from edge_agent.packaging.graph.graph import Graph
from edge_agent.targets import Precision

WHOLE_COVERAGE = 100  # fewer pictures than this seldom show all of a line's light and parts


def is_quantised(graph: Graph) -> bool:
    """Whether the graph tells its int8 ranges itself."""
    return bool(graph.of_type("QuantizeLinear")) and bool(graph.of_type("DequantizeLinear"))


def check(graph: Graph, precision: Precision, on_gpu: bool, calibration: int) -> Iterator[Finding]:
    """Compare the precision with the target and the graph; `calibration` pictures are given."""
    if not on_gpu:
        yield from _on_cpu(graph, precision, calibration)
    elif precision == "int8":
        yield from _int8(graph, calibration)
    elif calibration:
        yield error(
            f"{calibration} calibration pictures came, which only int8 uses; the precision is "
            f"{precision}. Say --precision int8, or leave --calibration-images out."
        )
    elif is_quantised(graph):
        yield warning(
            "The graph is quantised (QuantizeLinear), which TensorRT builds as int8 only; the "
            f"precision is {precision}. Say --precision int8."
        )


def _on_cpu(graph: Graph, precision: Precision, calibration: int) -> Iterator[Finding]:
    if calibration:
        yield error(
            "Calibration pictures are for int8 on NVIDIA targets; this one is a CPU. Leave "
            "--calibration-images out."
        )
    if precision != "fp32" and not (precision == "int8" and is_quantised(graph)):
        yield warning(
            f"The precision {precision} is for NVIDIA targets; on this CPU the graph is computed "
            "as it is. For int8 here quantise the graph itself (onnxruntime.quantization)."
        )


def _int8(graph: Graph, calibration: int) -> Iterator[Finding]:
    if is_quantised(graph) and calibration:
        yield note("The graph is quantised already; the calibration pictures won't be used.")
    elif not is_quantised(graph) and not calibration:
        yield error(
            "int8 needs to know the ranges of all results: a graph with QuantizeLinear and "
            "DequantizeLinear, or pictures of normal production, --calibration-images FOLDER. "
            "Or choose --precision fp16."
        )
    elif 0 < calibration < WHOLE_COVERAGE:
        yield warning(
            f"{calibration} calibration pictures are few; int8 ranges of {WHOLE_COVERAGE} or more "
            "are steadier."
        )
