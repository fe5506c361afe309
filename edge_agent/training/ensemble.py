"""Several heads in one model, weighted by how well they find defects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from edge_agent.evaluation import metrics
from edge_agent.training.augmentation import STRONG, TAKEN, USUAL
from edge_agent.training.evidence import Evidence, Images
from edge_agent.training.features import STRIDE, FeatureExtractor, append_image
from edge_agent.training.filter_bank import FilterBank, usual_magnitudes
from edge_agent.training.gaussian_head import GaussianHead
from edge_agent.training.graph import GraphBuilder, Size
from edge_agent.training.head import BankOptions
from edge_agent.training.labelled_heads import PatchHead, PooledHead
from edge_agent.training.sample import Sample
from edge_agent.training.validation import Validated, validate, validate_labelled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

ENLARGE = 2  # the map against the grid of patches, each way
POWER = 8  # of the AUROC above chance, for the weight
LEAST_SHARE = 0.25  # of the highest weight, for a member that is worth its time
FEWEST_BAD = 8  # images, for heads that learn from them
LARGE = 1 << 18  # pixels, above which images take long and have more patches than a bank can know
ENOUGH = 0.99  # AUROC of the first kind of head or resolution, from which on no other is tried
LABELLED = (PooledHead, PatchHead)
# Shares of a texture's usual magnitude, well below which it counts as flat. Low: faint texture
# shows; high: its noise doesn't, and fewer patches are enough, as places don't count: parts may lie
# anywhere.
FILTER_BANKS = ((0.1, BankOptions(2000, 2.0)), (1.0, BankOptions(1000, 0.0)))
OF_BACKBONE = BankOptions(1000, 1.0, variance=0.95)  # many channels say the same


class Member(NamedTuple):
    """One head of an ensemble, and what it looks at; weights sum to 1."""

    extractor: FeatureExtractor
    validated: Validated
    weight: float


@dataclass(frozen=True)
class Ensemble:
    """What is served, and the weighted scores (n,) of cross-validation."""

    members: Tuple[Member, ...]

    @property
    def normal(self) -> Sample:
        """Scores of good images."""
        return self._sum([member.validated.normal for member in self.members])

    @property
    def anomaly(self) -> Sample:
        """Scores of bad images."""
        return self._sum([member.validated.anomaly for member in self.members])

    @property
    def synthetic(self) -> Sample:
        """Scores of good images with artificial defects."""
        return self._sum([member.validated.synthetic for member in self.members])

    def _sum(self, samples: Sequence[Sample]) -> Sample:
        weights = [member.weight for member in self.members]
        total = sum(weight * sample.scores for weight, sample in zip(weights, samples))
        return samples[0]._replace(scores=np.asarray(total, np.float32))


def fit(
    normal: Pixels, anomaly: Pixels, seed: int, backbones: Sequence[FeatureExtractor] = ()
) -> Ensemble:
    """Fit and validate heads for each extractor; weigh them by the bad images, if there are any.

    normal, anomaly: (n, H, W, 3) uint8 RGB. backbones: forms of one, of which the best is used. The
    weight is (AUROC - 0.5) to the power of POWER, so that a member that finds little counts for
    little; one below LEAST_SHARE is left out. What is validated are images as taken and in other
    light, place and focus. Of large images there are no such copies: a Gaussian of each place knows
    nothing that was moved.
    """
    is_labelled = len(anomaly) >= FEWEST_BAD
    highest = STRONG if is_labelled else USUAL
    images = Images.of(normal, anomaly, seed, TAKEN if _is_large(normal.shape[1:3]) else highest)
    found: List[Tuple[FeatureExtractor, Validated]] = []
    for extractor, evidence, validated in _nearest(images, backbones, seed):
        found.append((extractor, validated))
        if is_labelled:
            found += [(extractor, validate_labelled(evidence, kind, seed)) for kind in LABELLED]
    merits = np.array([_merit(validated) for _, validated in found])
    has_map = np.array([validated.has_map for _, validated in found])
    least = LEAST_SHARE * min(merits.max(), merits[has_map].max())  # one that has a map is kept
    shares = np.where(merits < least, 0.0, merits)
    return Ensemble(
        tuple(
            Member(extractor, validated, float(share / shares.sum()))
            for (extractor, validated), share in zip(found, shares)
            if share
        )
    )


class _Nearest(NamedTuple):
    """Nearest neighbours in one form of features, and what these showed."""

    extractor: FeatureExtractor
    evidence: Evidence
    validated: Validated


def _nearest(
    images: Images, backbones: Sequence[FeatureExtractor], seed: int
) -> Iterator[_Nearest]:
    magnitudes = usual_magnitudes(images.normal.pixels)
    for floor, options in FILTER_BANKS:
        yield _best(_filters(images, FilterBank(floor * magnitudes)), options, seed)
    if backbones:
        seen = ((form, Evidence.of(images, form)) for form in backbones)
        yield _best(seen, OF_BACKBONE, seed)


def _filters(images: Images, plain: FilterBank) -> Iterator[Tuple[FeatureExtractor, Evidence]]:
    evidence = Evidence.of(images, plain)
    yield plain, evidence
    normal = evidence.normal
    usual = normal.some(normal.levels <= USUAL).means()
    yield replace(plain, usual=usual), evidence.levelled(usual)


def _best(
    forms: Iterable[Tuple[FeatureExtractor, Evidence]], options: BankOptions, seed: int
) -> _Nearest:
    """Return what tells most: of one of `forms`, with copies or without."""
    best = max(
        (_Nearest(*form, _validated(form[1], options, seed)) for form in forms),
        key=lambda each: _auroc(each.validated),
    )
    if best.evidence.normal.levels.max() == TAKEN:
        return best
    changed = best._replace(validated=validate(best.evidence, options, seed, USUAL))
    return max(best, changed, key=lambda each: _auroc(each.validated))


def _validated(evidence: Evidence, options: BankOptions, seed: int) -> Validated:
    """Return nearest neighbours; of large images a Gaussian, if these don't tell more."""
    rows, columns = evidence.normal.shape[1:]
    if not _is_large((rows * STRIDE, columns * STRIDE)):
        return validate(evidence, options, seed, TAKEN)
    gaussian = validate_labelled(evidence, GaussianHead, seed)
    if _auroc(gaussian) >= ENOUGH:
        return gaussian
    return max(gaussian, validate(evidence, options, seed, TAKEN), key=_auroc)


def _is_large(size: Size) -> bool:
    return size[0] * size[1] > LARGE


def _auroc(validated: Validated) -> float:
    bad = validated.anomaly if len(validated.anomaly.scores) else validated.synthetic
    return metrics.auroc(validated.normal.scores, bad.scores)


def _merit(validated: Validated) -> float:
    return float(max(_auroc(validated) - 0.5, 0.01) ** POWER)


def append_ensemble(graph: GraphBuilder, ensemble: Ensemble, size: Size) -> Tuple[str, str]:
    """Append the whole model: image → map (N, 1, H/4, W/4) and score (N,), both on one scale.

    The map is moved so that its peak is the score: there are places to show when, and only when,
    the image as a whole is anomalous.
    """
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    rgb = append_image(graph, size)
    of_maps = sum(member.weight for member in ensemble.members if member.validated.has_map)
    maps: List[str] = []
    scores: List[str] = []
    for extractor, validated, weight in ensemble.members:
        scored = validated.head.append(graph, extractor.append(graph, rgb), grid)
        scores.append(graph.add("Mul", scored.score, graph.constant(weight)))
        if scored.map:
            share = weight / of_maps
            maps.append(graph.add("Mul", scored.map, graph.constant(share)))
    score = graph.add("Sum", *scores)
    map_ = graph.enlarge(graph.add("Sum", *maps), ENLARGE)
    peak = graph.add("ReduceMax", map_, axes=[1, 2, 3], keepdims=1)
    column = graph.add("Reshape", score, graph.constant([-1, 1, 1, 1], np.int64))
    return graph.add("Add", map_, graph.add("Sub", column, peak)), score
