"""The data leak: images whose label shows in how they were taken or stored, not in the part."""

from __future__ import annotations

from typing import List

from edge_agent.evaluation import metrics
from edge_agent.training.dataset import Pictures

SUSPICIOUS = ("PNG", "JPEG", "width", "height", "colourless share", "mid-tone share", "brightness")
FEWEST = 5  # images a label, below which chance alone separates
SEPARATED = 0.98  # AUROC


def warnings(normal: Pictures, anomaly: Pictures) -> List[str]:
    """Return a sentence for each trivial fact that tells anomalous images from normal ones."""
    if min(len(normal), len(anomaly)) < FEWEST:
        return []
    found = []
    for name in SUSPICIOUS:
        area = metrics.auroc(normal.facts[name], anomaly.facts[name])
        if max(area, 1.0 - area) >= SEPARATED:
            found.append(
                f"Warning: {name} alone tells normal from anomaly (AUROC {area:.2f}). Results on "
                "such images say nothing about defects: take and store both kinds alike."
            )
    return found
