"""The light of the training images, which the agent compares its frames with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.light import measure
from edge_agent.training.dataset import Pictures


def test_training_measures_what_the_agent_measures(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        random = np.random.default_rng(seed)
        assert cv2.imwrite(str(path), random.integers(0, 200 + seed, (96, 128, 3)))
    pictures = Pictures.load(paths, InputSpec(tensor="image", height=64, width=80))
    lights = [measure(pixels) for pixels in pictures.pixels]
    for fact in ("brightness", "sharpness"):
        values = [getattr(light, fact) for light in lights]
        assert pictures.range_of(fact) == (min(values), max(values))
