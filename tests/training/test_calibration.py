from __future__ import annotations

import numpy as np
import pytest

from edge_agent.manifest import Calibration
from edge_agent.training import calibration


def threshold(fitted: Calibration) -> float:
    return -fitted.shift / fitted.scale


def test_normals_alone_put_the_threshold_at_their_upper_end() -> None:
    normal = np.arange(11.0)
    fitted = calibration.from_normals(normal, synthetic=np.zeros(4))
    assert threshold(fitted) == pytest.approx(9.0)  # the 90 % quantile of 0..10
    assert calibration.apply(fitted, np.array([5.0, 9.0])) == pytest.approx([0.1, 0.5])


def test_clear_artificial_defects_leave_the_normals_more_room() -> None:
    fitted = calibration.from_normals(np.arange(11.0), synthetic=np.full(4, 29.0))
    assert threshold(fitted) == pytest.approx(11.5)  # 9 and an eighth of the way to 29


def test_equal_normals_still_give_a_sigmoid() -> None:
    fitted = calibration.from_normals(np.ones(12), synthetic=np.ones(4))
    assert calibration.apply(fitted, np.array([1.1]))[0] > 0.99


def test_labels_put_the_threshold_between_the_two_kinds() -> None:
    fitted = calibration.from_both(np.array([0.0, 1.0] * 20), np.array([9.0, 10.0]))
    assert threshold(fitted) == pytest.approx(5.0, abs=0.5)  # however few the bad ones are
    assert calibration.apply(fitted, np.array([-1e6, 1e6])) == pytest.approx([0.0, 1.0])


def test_labels_that_contradict_the_score_are_not_used() -> None:
    normal = np.arange(11.0)
    assert calibration.from_both(normal, np.array([-5.0, -4.0])) == (
        calibration.from_normals(normal, np.empty(0))
    )
