"""The graph's arithmetic against the same worked out in numpy."""

from __future__ import annotations

import numpy as np

from edge_agent.training import head
from edge_agent.training.features import filter_bank
from edge_agent.training.graph import Session


def test_the_distance_is_that_to_the_nearest_remembered_patch() -> None:
    random = np.random.default_rng(0)
    bank = head.Bank(
        mean=random.normal(size=5).astype(np.float32),
        deviation=random.uniform(0.5, 2.0, 5).astype(np.float32),
        position_weight=2.0,
        patches=random.normal(size=(30, 7)).astype(np.float32),
    )
    features = random.normal(size=(2, 5, 3, 4)).astype(np.float32)
    graph = Session(head.distance_model(bank, (3, 4)))
    scaled = (features - bank.mean[:, None, None]) / bank.deviation[:, None, None]
    places = np.broadcast_to(2.0 * head.coordinates(3, 4), (2, 2, 3, 4))
    queries = np.concatenate((scaled, places), axis=1).transpose(0, 2, 3, 1)
    away = np.linalg.norm(queries[..., None, :] - bank.patches, axis=-1).min(axis=-1)
    computed = graph.run_all("features", features)["distance"]
    np.testing.assert_allclose(computed[:, 0], away, atol=1e-4)


def test_a_score_counts_robust_deviations_of_good_peaks() -> None:
    usual = np.full((12, 12), 3.0, np.float32)
    norm = head.Norm(usual, np.array([1.0, 2.0], np.float32), np.array([0.5, 4.0], np.float32))
    score = Session(head.score_model(norm)).run_all("distance", usual[None, None])["score"]
    np.testing.assert_allclose(score, [-0.5], atol=1e-6)  # of (0-1)/0.5 and (0-2)/4 the higher


def test_position_explains_all_where_images_never_change_and_nothing_in_noise() -> None:
    random = np.random.default_rng(0)
    still = np.repeat(random.normal(size=(1, 4, 8, 8)), 20, axis=0).astype(np.float32)
    assert head.position_share(still) > 0.9
    assert abs(head.position_share(random.normal(size=(20, 4, 8, 8)).astype(np.float32))) < 0.05


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
