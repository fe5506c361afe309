"""Several memories in one model, each with its own eye, weighted by how well they find defects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, NamedTuple, Tuple

import numpy as np

from edge_agent.evaluation import metrics
from edge_agent.training import head
from edge_agent.training.evidence import Evidence, Images
from edge_agent.training.features import (
    STRIDE,
    append_features,
    append_image,
    append_patches,
    usual_magnitudes,
)
from edge_agent.training.graph import GraphBuilder, Size
from edge_agent.training.head import BankOptions
from edge_agent.training.validation import Validated, validate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

ENLARGE = 2  # the map against the grid of patches, each way
POWER = 8  # of the AUROC above chance, for the weight
LEAST_SHARE = 0.2  # of the weights, for a member that is worth its time


class Eye(NamedTuple):
    """What a member looks at.

    floor: share of a texture's usual magnitude, well below which it counts as flat. Low: faint
    texture shows; high: its noise doesn't.
    """

    floor: float
    bank: BankOptions


# Fewer patches are enough where places don't count: parts may lie anywhere.
EYES = (Eye(0.1, BankOptions(2000, 2.0)), Eye(1.0, BankOptions(1000, 0.0)))


class Member(NamedTuple):
    """A memory in an ensemble; weights of all sum to 1."""

    floors: Floats
    validated: Validated
    weight: float


@dataclass(frozen=True)
class Ensemble:
    """What is served, and the weighted raw scores (n,) of cross-validation."""

    members: Tuple[Member, ...]

    @property
    def normal(self) -> Floats:
        """Scores of good images."""
        return _sum([member.weight * member.validated.normal for member in self.members])

    @property
    def anomaly(self) -> Floats:
        """Scores of bad images."""
        return _sum([member.weight * member.validated.anomaly for member in self.members])

    @property
    def synthetic(self) -> Floats:
        """Scores of good images with artificial defects."""
        return _sum([member.weight * member.validated.synthetic for member in self.members])


def fit(images: Images, seed: int) -> Ensemble:
    """Fit and validate a member for each of EYES; weigh them by the bad images, if there are any.

    The weight is (AUROC - 0.5) to the power of POWER, so that a member that finds little counts
    for little; one below LEAST_SHARE is left out.
    """
    magnitudes = usual_magnitudes(images.normal)
    found = []
    for eye in EYES:
        floors = eye.floor * magnitudes
        evidence = Evidence.of(images, floors, np.random.default_rng(seed))
        found.append((floors, validate(evidence, eye.bank, seed)))
    merits = np.array([_merit(validated) for _, validated in found])
    shares = merits / merits.sum()
    shares = np.where(shares < LEAST_SHARE, 0.0, shares)
    return Ensemble(
        tuple(
            Member(floors, validated, float(share / shares.sum()))
            for (floors, validated), share in zip(found, shares)
            if share
        )
    )


def _merit(validated: Validated) -> float:
    bad = validated.anomaly if len(validated.anomaly) else validated.synthetic
    return float(max(metrics.auroc(validated.normal, bad) - 0.5, 0.01) ** POWER)


def append_ensemble(graph: GraphBuilder, ensemble: Ensemble, size: Size) -> Tuple[str, str]:
    """Append the whole model: image → map (N, 1, H/4, W/4) and score (N,), both on one scale.

    The map is moved so that its peak is the score: there are places to show when, and only when,
    the image as a whole is anomalous.
    """
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    patches = append_patches(graph, append_image(graph, size))
    maps: List[str] = []
    scores: List[str] = []
    for floors, validated, weight in ensemble.members:
        features = append_features(graph, patches, floors)
        distance = head.append_distance(graph, features, validated.bank, grid)
        map_, score = head.append_score(graph, distance, validated.norm)
        maps.append(graph.add("Mul", map_, graph.constant(weight)))
        scores.append(graph.add("Mul", score, graph.constant(weight)))
    score = graph.add("Sum", *scores)
    map_ = graph.enlarge(graph.add("Sum", *maps), ENLARGE)
    peak = graph.add("ReduceMax", map_, axes=[1, 2, 3], keepdims=1)
    column = graph.add("Reshape", score, graph.constant([-1, 1, 1, 1], np.int64))
    return graph.add("Add", map_, graph.add("Sub", column, peak)), score


def _sum(parts: List[Floats]) -> Floats:
    return np.asarray(np.sum(parts, axis=0), np.float32)
