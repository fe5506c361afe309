from __future__ import annotations

import pytest

from edge_agent.evaluation import metrics


def test_auroc_counts_pairs_and_ties_half() -> None:
    assert metrics.auroc([0.1, 0.2], [0.8, 0.9]) == 1.0
    assert metrics.auroc([0.8, 0.9], [0.1, 0.2]) == 0.0
    assert metrics.auroc([0.5, 0.5], [0.5]) == 0.5
    # of 6 pairs: 0.4 beats 0.1; 0.3 beats 0.1 and ties 0.3; 0.4 beats 0.3; both lose to 0.6
    assert metrics.auroc([0.1, 0.3, 0.6], [0.3, 0.4]) == pytest.approx(3.5 / 6)


def test_auroc_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.auroc([], [1.0])


def test_average_precision_weighs_precision_by_the_step_in_recall() -> None:
    # falling scores: bad, good, bad → precision 1 at recall 1/2, 2/3 at recall 1
    assert metrics.average_precision([0.5], [0.9, 0.1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # all tied: one step, from recall 0 to 1, with precision 2/5
    assert metrics.average_precision([0.5] * 3, [0.5] * 2) == pytest.approx(0.4)


def test_the_best_f1_comes_with_its_threshold() -> None:
    # from 0.4 on: 2 of 2 found with 1 false alarm, F1 = 2*2/(2*2+1); from 0.9 on: F1 = 2/3
    assert metrics.best_f1([0.1, 0.5], [0.4, 0.9]) == pytest.approx((0.8, 0.4))


def test_verdicts_are_counted() -> None:
    counted = metrics.precision_recall([True, False, False], [True, True, False])
    assert counted == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert metrics.precision_recall([False], [False]) == (0.0, 0.0, 0.0)
