"""The graph's arithmetic against the same worked out in numpy."""

from __future__ import annotations

import numpy as np

from edge_agent.training import head
from edge_agent.training.filter_bank import filter_bank
from edge_agent.training.graph import Session


def test_the_distance_is_that_to_the_nearest_remembered_patch() -> None:
    random = np.random.default_rng(0)
    bank = head.Bank(
        mean=random.normal(size=5).astype(np.float32),
        deviation=random.uniform(0.5, 2.0, 5).astype(np.float32),
        axes=random.normal(size=(5, 3)).astype(np.float32),
        position_weight=2.0,
        patches=random.normal(size=(30, 5)).astype(np.float32),
    )
    features = random.normal(size=(2, 5, 3, 4)).astype(np.float32)
    graph = Session(head.distance_model(bank, (3, 4)))
    scaled = (features - bank.mean[:, None, None]) / bank.deviation[:, None, None]
    scaled = np.einsum("ncyx,ca->nayx", scaled, bank.axes)
    places = np.broadcast_to(2.0 * head.coordinates(3, 4), (2, 2, 3, 4))
    queries = np.concatenate((scaled, places), axis=1).transpose(0, 2, 3, 1)
    away = np.linalg.norm(queries[..., None, :] - bank.patches, axis=-1).min(axis=-1)
    computed = graph.run_all("features", features)["distance"]
    np.testing.assert_allclose(computed[:, 0], away, atol=1e-4)


def test_a_score_is_the_higher_of_peak_and_mean_in_robust_deviations_of_good_images() -> None:
    usual = np.full((12, 12), 3.0, np.float32)
    norm = head.Norm(usual, peak=head.Usual(1.0, 0.5), mean=head.Usual(2.0, 4.0))
    distances = np.stack((usual, usual + 2.0, usual + 20.0))[:, None]
    distances[1, 0, 6, 6] += 60.0
    excess = Session(head.excess_model(usual)).run_all("distance", distances)
    np.testing.assert_allclose(excess["mean"], [0.0, 2.0 + 60.0 / 144, 20.0], atol=1e-5)
    scores = Session(head.score_model(norm)).run_all("distance", distances)["score"]
    expected = np.maximum((excess["peak"] - 1.0) / 0.5, (excess["mean"] - 2.0) / 4.0)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert scores[0] == -0.5


def test_a_coreset_keeps_the_patches_that_differ() -> None:
    patches = np.zeros((100, 3), np.float32)
    patches[7], patches[40] = (9, 0, 0), (0, 9, 0)
    chosen = head.coreset(patches, 3, np.random.default_rng(0))
    assert {tuple(row) for row in chosen.tolist()} == {(0, 0, 0), (9, 0, 0), (0, 9, 0)}


def test_no_filter_answers_to_a_constant() -> None:
    bank = filter_bank()
    assert bank.shape == (13, 9, 9)
    np.testing.assert_allclose(bank.sum(axis=(1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose((bank**2).sum(axis=(1, 2)), 1.0, atol=1e-5)
