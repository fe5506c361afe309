"""Copies of images in other light, place and focus, and the features of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.training import evidence
from edge_agent.training.augmentation import (
    COPIES,
    MOST_COPIES,
    OF_EACH,
    STRONG,
    TAKEN,
    USUAL,
    Views,
)
from edge_agent.training.ensemble import append_ensemble, fit
from edge_agent.training.evidence import Evidence, Features, Images
from edge_agent.training.features import BORDER, feature_model
from edge_agent.training.filter_bank import FilterBank, usual_magnitudes
from edge_agent.training.graph import IMAGE, GraphBuilder, Session

SIZE = (64, 96)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Soft blobs: something that a shift and a blur change."""
    random = np.random.default_rng(seed)
    small = random.integers(40, 200, (count, 8, 12, 3)).astype(np.uint8)
    return np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)


def test_copies_are_of_images_evenly_chosen_and_belong_to_their_part() -> None:
    views = Views.of(images(7), np.array([5, 5, 5, 6, 6, 6, 7]), seed=0, highest=STRONG)
    counts = np.bincount(views.levels)
    assert counts.tolist() == [7, 7 * OF_EACH, 7 * OF_EACH]
    of_each = np.bincount(views.images[views.levels == USUAL])
    assert of_each.max() - of_each.min() <= 1
    assert set(zip(views.images.tolist(), views.parts.tolist())) == set(
        zip(range(7), (5, 5, 5, 6, 6, 6, 7))
    )


@pytest.mark.parametrize(("count", "usual"), [(40, COPIES), (150, 150), (3000, MOST_COPIES)])
def test_many_images_have_a_copy_each_up_to_a_bound(count: int, usual: int) -> None:
    views = Views.of(np.zeros((count, 1, 1, 3), np.uint8), np.arange(count), seed=0, highest=STRONG)
    assert np.bincount(views.levels).tolist() == [count, usual, COPIES]


def test_no_images_have_no_copies() -> None:
    assert len(Views.of(images(0), np.zeros(0, int), seed=0, highest=STRONG)) == 0


def test_copies_are_the_same_whenever_they_are_asked_for_and_images_stay_as_taken() -> None:
    pixels = images(6)
    views = Views.of(pixels, np.arange(6), seed=3, highest=STRONG)
    every = views.at(np.arange(len(views)))
    np.testing.assert_array_equal(every[views.levels == TAKEN], pixels)
    np.testing.assert_array_equal(views.at(np.array([20, 3, 50])), every[[20, 3, 50]])
    away = np.abs(every.astype(int) - pixels[views.images]).mean(axis=(1, 2, 3))
    assert away[views.levels == USUAL].min() > 0.0
    assert away[views.levels == STRONG].mean() > 1.3 * away[views.levels == USUAL].mean()


def test_another_seed_gives_other_copies() -> None:
    one, other = (Views.of(images(4), np.arange(4), seed, STRONG) for seed in (1, 2))
    assert (one.at(np.array([20])) != other.at(np.array([20]))).any()


def test_features_computed_whenever_needed_are_those_that_were_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = Views.of(images(12), np.arange(12), seed=0, highest=STRONG)
    extractor = FilterBank(usual_magnitudes(views.pixels))
    session = Session(feature_model(SIZE, extractor))
    folds = evidence.fold_of_parts(12)
    kept = Features.of(views, folds, session, extractor.channels)
    monkeypatch.setattr(evidence, "KEPT", 0)
    again = Features.of(views, folds, session, extractor.channels)
    np.testing.assert_allclose(again.all(), kept.all(), atol=1e-5)
    some = kept.folds == 2
    np.testing.assert_allclose(again.some(some).all(), kept.all()[some], atol=1e-5)
    assert len(again.at_most(9)) == 9


def test_what_changes_all_of_an_image_counts_as_far_as_it_is_unusual() -> None:
    views = Images.of(images(12), images(0), 0, USUAL)
    plain = FilterBank(usual_magnitudes(views.normal.pixels))
    evidence = Evidence.of(views, plain)
    usual = evidence.normal.means()
    levelled = FilterBank(plain.floors, usual)
    session = Session(feature_model(SIZE, levelled))
    features = session.run_all(IMAGE, images(12))["features"]
    known = evidence.levelled(usual).normal.compute(np.arange(12))
    np.testing.assert_allclose(features, known, rtol=0.0, atol=1e-5)

    def away(changed: np.ndarray) -> float:
        return float(np.abs(session.run_all(IMAGE, changed)["features"] - features).mean())

    assert away(images(12) + np.uint8(5)) < 0.1 * away(np.full_like(images(12), 120))


def test_a_part_and_all_its_copies_are_in_one_fold() -> None:
    made = Images.of(images(12), images(0), 0, USUAL)
    features = Features.of(
        made.synthetic,
        evidence.fold_of_parts(12),
        Session(feature_model(SIZE, FilterBank(usual_magnitudes(made.normal.pixels)))),
        FilterBank.channels,
    )
    assert set(features.levels.tolist()) == {TAKEN, USUAL}
    for part in range(12):
        assert len(set(features.folds[features.parts == part].tolist())) <= 1


def test_the_outermost_pixels_change_nothing() -> None:
    pixels = images(12)
    fitted = fit(pixels, pixels[:0], 0)
    graph = GraphBuilder()
    _, score = append_ensemble(graph, fitted, SIZE)
    graph.output("score", score, ("N",))
    session = Session(graph.model())
    dead = pixels.copy()
    dead[:, :, :BORDER] = 0
    dead[:, -BORDER:] = 255
    scores = [session.run_all(IMAGE, each)["score"] for each in (pixels, dead)]
    np.testing.assert_array_equal(*scores)
