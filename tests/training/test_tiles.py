from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Tuple

import numpy as np
import onnx
import pytest

from edge_agent.manifest import MODEL_FILE, FileEntry, InputSpec, Manifest, OutputSpec
from edge_agent.packaging.graph import trt
from edge_agent.packaging.graph.graph import Graph
from edge_agent.training import backbones
from edge_agent.training.backbones import BackboneOptions
from edge_agent.training.features import STRIDE, FeatureExtractor, feature_model
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Session
from edge_agent.training.resolution import Resolution
from edge_agent.training.tiles import MOST_TILES, OVERLAP, TILE, TiledExtractor, Tiles
from tests.training import networks


class Means:
    """Means of patches: what each sees doesn't reach beyond it."""

    channels: ClassVar[int] = 3

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        return graph.add("AveragePool", rgb, kernel_shape=[8, 8], strides=[8, 8])


class Smoothed(Means):
    """Means of patches and of their neighbours, as a convolution sees them."""

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        means = super().append(graph, rgb)
        return graph.add(
            "AveragePool", means, kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4,
            count_include_pad=0,
        )  # fmt: skip


@pytest.mark.parametrize("tiles", [Tiles(1, 1), Tiles(1, 4), Tiles(3, 2)])
def test_tiles_cover_each_pixel_and_neighbours_overlap(tiles: Tiles) -> None:
    seen = np.zeros(tiles.size, int)
    for top, left in tiles.starts:
        seen[top : top + TILE, left : left + TILE] += 1
    assert seen.min() == 1
    assert len(tiles.starts) == tiles.total
    if tiles.columns > 1:
        assert (seen[0] == 2).sum() == OVERLAP * (tiles.columns - 1)


@pytest.mark.parametrize(
    ("size", "tiles"),
    [((2160, 3840), Tiles(5, 8)), ((1080, 1920), Tiles(2, 4)), ((256, 256), Tiles(1, 1))],
)
def test_a_picture_is_judged_at_half_its_resolution(size: tuple[int, int], tiles: Tiles) -> None:
    assert Tiles.of_picture(size) == tiles


@pytest.mark.parametrize("size", [(4096, 4096), (1024, 4096), (4096, 600)])
def test_the_number_of_tiles_is_bounded_and_the_shape_kept(size: tuple[int, int]) -> None:
    tiles = Tiles.of_picture(size, 1.0)
    assert tiles.total <= MOST_TILES
    ratio = tiles.size[0] / tiles.size[1] / (size[0] / size[1])
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize("extractor", [Means(), Smoothed()])
def test_features_of_tiles_are_those_of_the_whole_picture(extractor: Means) -> None:
    tiles = Tiles(2, 3)
    pictures = np.random.default_rng(0).integers(0, 256, (2, *tiles.size, 3), np.uint8)
    whole, tiled = (
        Session(feature_model(tiles.size, each)).run_all(IMAGE, pictures)["features"]
        for each in (extractor, TiledExtractor(extractor, tiles))
    )
    np.testing.assert_allclose(tiled, whole, rtol=1e-4)


def test_a_network_of_one_size_sees_tile_after_tile(tmp_path: Path) -> None:
    path = networks.save(networks.transformer(), tmp_path / "transformer.onnx")
    tiles = Tiles(1, 2)
    resolution = Resolution.of_tiles(tiles)
    tiled, *_ = backbones.find(BackboneOptions(str(path)), resolution).forms
    alone, *_ = backbones.find(BackboneOptions(str(path)), Resolution((TILE, TILE))).forms
    planes = np.random.default_rng(0).uniform(0, 255, (2, 3, *tiles.size)).astype(np.float32)
    model = plain_model(tiles.size, tiled)
    whole = Session(model).run_all("rgb", planes)["features"]
    one = Session(plain_model((TILE, TILE), alone))
    for side, columns in ((0, slice(0, 30)), (tiles.starts[1][1], slice(30, 60))):
        seen = one.run_all("rgb", planes[..., side : side + TILE])["features"]
        own = seen[..., :30] if side == 0 else seen[..., 2:]
        np.testing.assert_allclose(whole[..., columns], own, rtol=1e-3, atol=1e-4)
    operators = {node.op_type for node in onnx.load_from_string(model).graph.node}
    assert {"Slice", "Concat", "Reshape"} <= operators
    assert_tensorrt_takes(model, tiles)


def plain_model(size: Tuple[int, int], extractor: FeatureExtractor) -> bytes:
    """Return the graph `rgb` (N, 3, H, W) → `features`, without the look away from the border."""
    graph = GraphBuilder()
    features = extractor.append(graph, graph.input("rgb", np.float32, (BATCH, 3, *size)))
    shape = (BATCH, extractor.channels, size[0] // STRIDE, size[1] // STRIDE)
    graph.output("features", features, shape)
    return graph.model()


def assert_tensorrt_takes(model: bytes, tiles: Tiles) -> None:
    """8.5, the oldest in use."""
    height, width = tiles.size
    manifest = Manifest(
        name="tiles", task="anomaly_map",
        input=InputSpec(tensor="rgb", height=height, width=width, layout="NCHW", dtype="float32"),
        outputs=OutputSpec(map="features"), files=(FileEntry.of(MODEL_FILE, model),),
    )  # fmt: skip
    found = trt.check(Graph(model), manifest, "8.5.2")
    assert [str(each) for each in found if each.severity == "error"] == []
