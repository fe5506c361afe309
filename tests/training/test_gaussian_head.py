"""A Gaussian of good patches: what it finds, and what it learns from."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_agent.training.augmentation import STRONG, TAKEN
from edge_agent.training.evidence import Features
from edge_agent.training.gaussian_head import GaussianHead
from edge_agent.training.graph import BATCH, GraphBuilder, Session

Floats = NDArray[np.float32]
CHANNELS, ROWS, COLUMNS = 8, 24, 32
COUNT = 16  # good pictures
RANDOM = np.random.default_rng(1)
MIX = RANDOM.standard_normal((CHANNELS, CHANNELS)).astype(np.float32) * np.geomspace(1, 0.05, 8)
PLACES = 5.0 * RANDOM.standard_normal((CHANNELS, ROWS, COLUMNS))
ROUGH = np.where(np.arange(COLUMNS) < COLUMNS // 2, 3.0, 1.0)  # the left half varies more


def textures(count: int, seed: int) -> Floats:
    """Return features (n, channels, rows, columns) of good pictures."""
    noise = np.random.default_rng(seed).standard_normal((count, ROWS, COLUMNS, CHANNELS))
    mixed = np.moveaxis(noise @ MIX.T, 3, 1)
    return np.asarray(PLACES + ROUGH * mixed, np.float32)


def known(features: Floats, level: int = TAKEN) -> Features:
    parts = np.arange(len(features))
    return Features.known(features, np.full(len(features), level), parts, parts % 5)


def head_of(good: Features) -> GaussianHead:
    return GaussianHead.fit(good, good.some(np.zeros(len(good), bool)), np.random.default_rng(0))


def model_of(head: GaussianHead) -> bytes:
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, CHANNELS, ROWS, COLUMNS))
    map_, score = head.append(graph, features, (ROWS, COLUMNS))
    assert map_ is not None
    graph.output("map", map_, (BATCH, 1, ROWS, COLUMNS))
    graph.output("score", score, (BATCH,))
    return graph.model()


def judged(head: GaussianHead, features: Floats) -> Tuple[Floats, Floats]:
    """Return maps (n, rows, columns) and scores (n,)."""
    found = Session(model_of(head)).run_all("features", features)
    return found["map"][:, 0], found["score"]


@pytest.fixture(scope="module")
def head() -> GaussianHead:
    return head_of(known(textures(COUNT, 2)))


@pytest.mark.parametrize("place", [(3, 4), (12, 25), (23, 31)])
def test_a_patch_that_breaks_the_rule_of_the_others_is_found(
    head: GaussianHead, place: Tuple[int, int]
) -> None:
    bad = textures(4, 3)
    rare = np.linalg.svd(MIX)[0][:, -1]  # the direction in which good patches vary least
    bad[:, :, place[0], place[1]] += 0.5 * ROUGH[place[1]] * rare  # less than a channel varies
    maps, scores = judged(head, bad)
    assert [np.unravel_index(each.argmax(), each.shape) for each in maps] == [place] * 4
    assert scores.min() > judged(head, textures(20, 4))[1].max()


def test_a_faint_change_of_many_patches_is_found(head: GaussianHead) -> None:
    bad = textures(4, 5)
    bad[:, :, 8:14, 18:24] += (1.5 * MIX.sum(axis=1))[:, None, None]
    maps, scores = judged(head, bad)
    assert scores.min() > judged(head, textures(20, 4))[1].max()
    for row, column in (np.unravel_index(each.argmax(), each.shape) for each in maps):
        assert 7 <= row <= 14
        assert 17 <= column <= 24


def test_places_where_good_pictures_differ_more_count_no_more_than_others(
    head: GaussianHead,
) -> None:
    maps, _ = judged(head, textures(20, 6))
    left, right = maps[..., : COLUMNS // 2].max(axis=(1, 2)), maps[..., COLUMNS // 2 :].max((1, 2))
    assert 4 <= (left > right).sum() <= 16


def test_scores_of_good_pictures_it_knows_and_of_others_are_alike(head: GaussianHead) -> None:
    _, scores = judged(head, textures(40, 7))
    assert abs(np.median(scores)) < 3.0


def test_moved_copies_are_not_learned_from() -> None:
    taken, moved = textures(COUNT, 2), textures(COUNT, 8)[..., ::-1]
    both = known(np.concatenate((taken, moved)))
    levels = np.repeat([TAKEN, STRONG], COUNT)
    mixed = Features(both.shape, levels, both.parts, both.folds, both.compute)
    np.testing.assert_array_equal(head_of(mixed).mean, head_of(known(taken)).mean)


def test_channels_that_never_vary_do_no_harm() -> None:
    features = textures(COUNT, 2)
    features[:, -1] = 0.25
    maps, scores = judged(head_of(known(features)), features)
    assert np.isfinite(maps).all()
    assert np.isfinite(scores).all()


def test_operators_are_those_that_every_engine_has(head: GaussianHead) -> None:
    operators = {node.op_type for node in onnx.load_from_string(model_of(head)).graph.node}
    assert operators <= {"Add", "Conv", "Identity", "Max", "Mul", "ReduceMax", "Sqrt", "Sub"}
