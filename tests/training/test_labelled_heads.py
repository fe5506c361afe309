"""Heads that learn from bad images: what they find, and that the graph computes what was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.evaluation import metrics
from edge_agent.training import logistic
from edge_agent.training.evidence import Evidence, Features, fold_of_parts
from edge_agent.training.graph import BATCH, GraphBuilder, Session
from edge_agent.training.labelled_heads import PatchHead, PooledHead
from edge_agent.training.validation import Head, validate_labelled

GRID = (6, 8)


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5, *GRID)).astype(np.float32)


def marked(count: int, seed: int) -> np.ndarray:
    """Images with one patch of another kind, each at another place."""
    images = features(count, seed)
    places = np.random.default_rng(seed).integers(0, GRID, (count, 2))
    for image, (row, column) in zip(images, places):
        image[2:4, row, column] += (6.0, -6.0)
    return images


def washed(count: int, seed: int) -> np.ndarray:
    """Images whose second channel varies less."""
    images = features(count, seed)
    images[:, 1] *= 0.5
    return images


def known(values: np.ndarray) -> Features:
    """Features of pictures as they were taken, each of a part of its own."""
    count = len(values)
    return Features.known(values, np.zeros(count, int), np.arange(count), fold_of_parts(count))


def judged(head: Head, images: np.ndarray) -> np.ndarray:
    graph = GraphBuilder()
    tensor = graph.input("features", np.float32, (BATCH, 5, *GRID))
    graph.output("score", head.append(graph, tensor, GRID).score, (BATCH,))
    return Session(graph.model()).run_all("features", images)["score"]


@pytest.mark.parametrize(("kind", "bad"), [(PatchHead, marked), (PooledHead, washed)])
def test_a_head_finds_what_it_has_learned(kind: type, bad: object) -> None:
    head = kind.fit(known(features(20, 1)), known(bad(12, 2)), np.random.default_rng(0))  # type: ignore[attr-defined, operator]
    good, wrong = judged(head, features(30, 3)), judged(head, bad(30, 4))  # type: ignore[operator]
    assert metrics.auroc(good, wrong) > 0.95


def test_a_patch_head_points_at_the_patch() -> None:
    head = PatchHead.fit(known(features(20, 1)), known(marked(12, 2)), np.random.default_rng(0))
    image = features(1, 5)
    image[0, 2:4, 3, 6] += (6.0, -6.0)
    graph = GraphBuilder()
    tensor = graph.input("features", np.float32, (BATCH, 5, *GRID))
    map_ = head.append(graph, tensor, GRID).map
    assert map_
    graph.output("map", map_, (BATCH, 1, *GRID))
    found = Session(graph.model()).run_all("features", image)["map"][0, 0]
    assert np.unravel_index(found.argmax(), GRID) == (3, 6)


def test_labels_drawn_by_lot_are_not_learned() -> None:
    good = features(30, 1)
    evidence = Evidence(known(good), known(features(20, 2)), known(good[:0]))
    validated = validate_labelled(evidence, PooledHead, seed=0)
    assert 0.25 < metrics.auroc(validated.normal.scores, validated.anomaly.scores) < 0.75
    assert np.median(validated.normal.scores) == pytest.approx(0.0, abs=1e-5)


def test_a_logistic_line_is_where_the_chances_are_even() -> None:
    inputs = np.random.default_rng(0).normal(size=(4000, 1))
    targets = (inputs[:, 0] * 2.0 + np.random.default_rng(1).logistic(size=4000) > 0).astype(float)
    line = logistic.fit(inputs, targets, ridge=0.0)
    assert line.weights[0] == pytest.approx(2.0, abs=0.2)
    assert line.offset == pytest.approx(0.0, abs=0.1)


def test_both_kinds_count_the_same_however_many_there_are() -> None:
    inputs = np.array([[-1.0]] * 99 + [[1.0]])
    line = logistic.fit(inputs, np.array([0.0] * 99 + [1.0]), ridge=0.1)
    assert line.offset == pytest.approx(0.0, abs=1e-6)
    assert line.weights[0] > 0
