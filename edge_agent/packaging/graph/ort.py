"""Whether onnxruntime, in every release the agent runs on, takes the graph; and a run of it here.

Source of the limits: onnxruntime's table of compatible versions; 1.19 is the last one for
CPython 3.8 and the oldest the agent supports.
"""

from __future__ import annotations

from typing import Iterator

from edge_agent.errors import BackendUnavailable, ModelError
from edge_agent.manifest import Manifest
from edge_agent.packaging.graph.findings import Finding, error, names, note, warning
from edge_agent.packaging.graph.graph import DEFAULT_DOMAIN, Graph

OLDEST = "1.19"
NEWEST_IR = 10
NEWEST_OPSETS = {DEFAULT_DOMAIN: 21, "ai.onnx.ml": 5, "com.microsoft": 1}
OLDEST_OPSET = 7
OF_ONE_MACHINE = "com.microsoft.nchwc"
TRIAL_BATCH = 2  # the least that shows a graph whose free batch isn't


def check(graph: Graph) -> Iterator[Finding]:
    """Compare file version, opsets and domains with what onnxruntime 1.19 reads."""
    if graph.ir_version > NEWEST_IR:
        yield error(
            f"The graph has IR version {graph.ir_version}; onnxruntime {OLDEST}, the oldest the "
            f"agent runs on, reads up to {NEWEST_IR}. Save it with ir_version={NEWEST_IR}."
        )
    used = {domain for domain, _ in graph.operators()}
    if OF_ONE_MACHINE in used:
        yield error(
            "The graph was optimised by onnxruntime for one processor (operators of "
            f"{OF_ONE_MACHINE}); package the graph it was made of, with --optimise if you like."
        )
    for domain in sorted(used - {OF_ONE_MACHINE}):
        yield from _opset(domain, graph)


def _opset(domain: str, graph: Graph) -> Iterator[Finding]:
    came, newest = graph.opsets.get(domain, 1), NEWEST_OPSETS.get(domain)
    if newest is None:
        operators = names([name for owner, name in graph.operators() if owner == domain])
        yield error(
            f"The graph needs operators of the domain {domain!r} ({operators}), which onnxruntime "
            "doesn't have. Export it without them."
        )
    elif came > newest or (domain == DEFAULT_DOMAIN and came < OLDEST_OPSET):
        oldest = f"{OLDEST_OPSET} to " if domain == DEFAULT_DOMAIN else "up to "
        yield error(
            f"The graph has opset {came}{domain and f' of {domain}'}; onnxruntime {OLDEST}, the "
            f"oldest the agent runs on, takes {oldest}{newest}. Export it with opset "
            f"{min(17, newest)}, which every target takes."
        )


def trial(model: bytes, manifest: Manifest, on_gpu: bool) -> Iterator[Finding]:
    """Load the graph as the agent does and compute black frames; on a GPU it's only a fallback."""
    try:
        _run(model, manifest)
    except BackendUnavailable:
        yield note("onnxruntime isn't installed here, so the graph wasn't tried.")
    except ModelError as caught:
        problem = f"{caught} (a trial on this machine)"
        if on_gpu:
            yield warning(f"{problem} The target can run the model in TensorRT only.")
        else:
            yield error(problem)


def _run(model: bytes, manifest: Manifest) -> None:
    """Compute one frame and a batch. Raises ModelError."""
    from edge_agent.runtime.backends.base import BackendOptions
    from edge_agent.runtime.backends.catalog import open_backend
    from edge_agent.runtime.models.inference_unit import InferenceUnit

    batch = min(TRIAL_BATCH, max(manifest.runtime.batch_sizes))
    runtime = manifest.runtime.model_copy(update={"batch_sizes": (batch,)})
    tried = manifest.model_copy(update={"runtime": runtime})
    options = BackendOptions(threads=1, cpu_batches=True)
    backend = open_backend(["onnxruntime"], model, tried, options)
    try:
        InferenceUnit(backend, tried).warm_up()
    finally:
        backend.close()
