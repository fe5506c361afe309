"""Weights of PyTorch's old files, read without running the pickles in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.training import lite0, torch_weights
from edge_agent.training.graph import BATCH, GraphBuilder, Session

FILE: Optional[Path] = lite0.weights_file()
needs_weights = pytest.mark.skipif(
    FILE is None, reason="the weights of EfficientNet-Lite0 aren't installed (edge-agent[backbone])"
)
# Of the network in PyTorch 2.13 with these weights, on the pictures below: mean, deviation, and the
# value of the first picture's first channel in the middle.
REFERENCE = {"fine": (-1.730754, 6.936274, 6.675008), "coarse": (-0.3556816, 3.848581, 2.997854)}


@needs_weights
def test_features_are_those_of_the_network_in_pytorch() -> None:
    assert FILE is not None
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 256, 256)).astype(np.float32)
    graph = GraphBuilder()
    stages = lite0.Lite0.read(FILE).append_stages(
        graph, graph.input("rgb", np.float32, (BATCH, 3, 256, 256))
    )
    for name, tensor, shape in zip(REFERENCE, stages, ((40, 32, 32), (112, 16, 16))):
        graph.output(name, tensor, (BATCH, *shape))
    found = Session(graph.model()).run_all("rgb", pictures)
    for name, values in found.items():
        middle = values[0, 0, values.shape[2] // 2, values.shape[3] // 2]
        np.testing.assert_allclose(
            (values.mean(), values.std(), middle), REFERENCE[name], rtol=1e-4
        )


@needs_weights
@pytest.mark.parametrize("kept", [0, 100, 40_000, 5_000_000])
def test_a_file_that_ends_early_is_refused(tmp_path: Path, kept: int) -> None:
    assert FILE is not None
    (tmp_path / "cut.pth").write_bytes(FILE.read_bytes()[:kept])
    with pytest.raises(InvalidConfiguration, match=r"cut\.pth can't be read as PyTorch weights"):
        torch_weights.read(tmp_path / "cut.pth")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    content = b"".join(pickle.dumps(each, 2) for each in (1, 2, 3, _Touch(ran), ["0"]))
    (tmp_path / "evil.pth").write_bytes(content)
    with pytest.raises(InvalidConfiguration):
        torch_weights.read(tmp_path / "evil.pth")
    assert not ran.exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Tuple[Any, ...]:
        return Path.touch, (self._path,)
