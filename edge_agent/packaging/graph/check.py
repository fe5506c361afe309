"""All checks of one graph for one target."""

from __future__ import annotations

from typing import Iterator

from edge_agent.manifest import Manifest
from edge_agent.packaging.graph import memory, ort, precision, tensors, trt
from edge_agent.packaging.graph.findings import Finding, Report
from edge_agent.packaging.graph.graph import Graph
from edge_agent.packaging.target import GpuOptions, Target


def check(model: bytes, manifest: Manifest, target: Target, calibration: int = 0) -> Report:
    """Find what the target will make of `model`, an ONNX file that holds all its tensors.

    calibration: how many pictures for int8 are given. Raises InvalidPackage when the file can't be
    read, InvalidConfiguration when onnx isn't installed.
    """
    graph = Graph(model)
    findings = list(_static(graph, manifest, target, calibration))
    if not any(finding.severity == "error" for finding in findings):
        findings.extend(ort.trial(model, manifest, _on_gpu(target)))
    return Report(tuple(findings))


def _static(
    graph: Graph, manifest: Manifest, target: Target, calibration: int
) -> Iterator[Finding]:
    yield from tensors.check(graph, manifest, _on_gpu(target))
    if isinstance(target.options, GpuOptions):
        yield from trt.check(graph, manifest, target.options.trt_ver)
    else:
        yield from ort.check(graph)
    yield from precision.check(graph, manifest.runtime.precision, _on_gpu(target), calibration)
    yield from memory.check(graph, manifest)


def _on_gpu(target: Target) -> bool:
    return isinstance(target.options, GpuOptions)
