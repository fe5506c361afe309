"""Drawn parts to train on: a grey plate with a hole, a little noise; bad ones bear a stain."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE = HEIGHT, WIDTH = 96, 128


def draw(seed: int, stained: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), 150.0)
    image += np.linspace(0, 20, WIDTH)[None, :, None] + random.normal(0, 2, image.shape)
    jitter = random.integers(-1, 2, 2)
    cv2.circle(image, (64 + int(jitter[0]), 48 + int(jitter[1])), 14, (60, 60, 70), -1)
    if stained:
        place = (int(random.integers(12, 116)), int(random.choice([16, 80])))
        cv2.circle(image, place, 8, (90, 120, 200), -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def write(folder: Path, normal: int, anomaly: int = 0, first_seed: int = 0) -> Path:
    for label, count in (("normal", normal), ("anomaly", anomaly)):
        for index in range(count):
            path = folder / label / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = first_seed + index + 1000 * (label == "anomaly")
            assert cv2.imwrite(str(path), draw(seed, label == "anomaly"))
    return folder
