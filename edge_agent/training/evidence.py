"""What heads are fitted on: features of views of the images, and good patches to remember."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Iterator, Tuple

import numpy as np

from edge_agent.training import synthetic_defects
from edge_agent.training.augmentation import TAKEN, USUAL, Views
from edge_agent.training.features import STRIDE, FeatureExtractor, Means, feature_model
from edge_agent.training.graph import IMAGE, Session
from edge_agent.training.head import CANDIDATES, coordinates
from edge_agent.training.sample import robust_deviation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Pixels = NDArray[np.uint8]
    Indices = NDArray[np.intp]

FOLDS = 5
PLENTY = 2  # times the candidates of a coreset that are drawn
KEPT = 512 << 20  # bytes of features of one label; of more they are computed whenever needed
CHUNK = 64  # views whose features are in memory at a time then, at most
CHUNK_BYTES = 64 << 20
PARTS_REACH = 3.0  # robust deviations each way from the median, of means of a feature
COPIES_REACH, MOST_COPIES = 2.0, 0.95  # times what so many of the views differ from the part's own


@dataclass(frozen=True)
class Images:
    """Views of good images, of bad ones, and else of good ones with drawn defects."""

    normal: Views
    anomaly: Views
    synthetic: Views

    @classmethod
    def of(cls, normal: Pixels, anomaly: Pixels, seed: int, highest: int) -> Images:
        """Take images (n, H, W, 3) uint8 RGB; draw artificial defects where no bad ones are.

        highest: level of copies.
        """
        made, sources = normal[:0], np.zeros(0, np.intp)
        if not len(anomaly):
            made, sources = synthetic_defects.add_defects(normal, np.random.default_rng(seed))
        return cls(
            Views.of(normal, np.arange(len(normal)), seed, highest),
            Views.of(anomaly, np.arange(len(anomaly)), seed + 1, highest),
            Views.of(made, sources, seed + 2, min(highest, USUAL)),
        )


@dataclass(frozen=True)
class Features:
    """Features of views of one label.

    shape: of one view's, (channels, rows, columns). levels, parts: (v,), as in Views. folds: (v,),
    of cross-validation: the one whose head hasn't seen that part. compute: indices (k,) → features
    (k, channels, rows, columns).
    """

    shape: Tuple[int, int, int]
    levels: Indices
    parts: Indices
    folds: Indices
    compute: Callable[[Indices], Floats]

    @classmethod
    def of(cls, views: Views, of_parts: Indices, session: Session, channels: int) -> Features:
        """Look at `views` through a graph `image` → `features`. of_parts: the fold of each part."""
        height, width = views.pixels.shape[1:3]
        shape = (channels, height // STRIDE, width // STRIDE)

        def compute(indices: Indices) -> Floats:
            return session.run_all(IMAGE, views.at(indices))["features"]

        features = cls(shape, views.levels, views.parts, of_parts[views.parts], compute)
        if len(views) * features.bytes_of_view > KEPT:
            return features
        return cls.known(features.all(), views.levels, views.parts, features.folds)

    @classmethod
    def known(cls, features: Floats, levels: Indices, parts: Indices, folds: Indices) -> Features:
        """Hold `features` (v, channels, rows, columns) themselves."""
        channels, rows, columns = features.shape[1:]
        return cls(
            (channels, rows, columns), levels, parts, folds, lambda indices: features[indices]
        )

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def bytes_of_view(self) -> int:
        """How much memory the features of one view take."""
        return 4 * int(np.prod(self.shape))

    def some(self, which: NDArray[np.bool_]) -> Features:
        """Return those that `which` (v,) is true of."""
        chosen = np.flatnonzero(which)
        return Features(
            self.shape,
            self.levels[chosen],
            self.parts[chosen],
            self.folds[chosen],
            lambda indices: self.compute(chosen[indices]),
        )

    def means(self) -> Means:
        """Return between which values the mean of each feature usually lies in good images.

        As far from their median as parts differ, and further by what changes of copies make of it.
        Both robust, as a few of the images may show something else.
        """
        found = np.concatenate([chunk.mean(axis=(2, 3)) for chunk in self.chunks()])
        taken = found[self.levels == TAKEN]
        changes = np.abs(found - taken[self.parts])
        reach = PARTS_REACH * robust_deviation(taken) + COPIES_REACH * np.quantile(
            changes, MOST_COPIES, axis=0
        )
        middle = np.median(taken, axis=0)
        low, high = (np.asarray(each, np.float32) for each in (middle - reach, middle + reach))
        return Means(low, high)

    def levelled(self, usual: Means) -> Features:
        """Return them less the mean of each over a view, as far as it is usual."""
        return replace(self, compute=lambda indices: usual.levelled(self.compute(indices)))

    def at_most(self, count: int) -> Features:
        """Return all, or `count` of them evenly chosen."""
        if len(self) <= count:
            return self
        which = np.zeros(len(self), bool)
        which[np.arange(count) * len(self) // count] = True
        return self.some(which)

    def chunks(self) -> Iterator[Floats]:
        """Yield the features of a few views at a time, in order."""
        some = int(np.clip(CHUNK_BYTES // self.bytes_of_view, 1, CHUNK))
        for start in range(0, max(len(self), 1), some):
            yield self.compute(np.arange(start, min(start + some, len(self))))

    def all(self) -> Floats:
        """Return all features (v, channels, rows, columns) at once."""
        found = np.empty((len(self), *self.shape), np.float32)
        begin = 0
        for chunk in self.chunks():
            found[begin : begin + len(chunk)] = chunk
            begin += len(chunk)
        return found

    def judge(self, session: Session, name: str) -> Floats:
        """Return output `name` of a graph that takes `features`, a row for each view."""
        parts = [session.run_all("features", chunk)[name] for chunk in self.chunks()]
        return np.concatenate(parts)


@dataclass(frozen=True)
class Evidence:
    """What the images show, before anything is fitted."""

    normal: Features
    anomaly: Features
    synthetic: Features

    @property
    def kinds(self) -> Tuple[Features, Features, Features]:
        """Features of normal, anomaly and synthetic images."""
        return self.normal, self.anomaly, self.synthetic

    @classmethod
    def of(cls, images: Images, extractor: FeatureExtractor) -> Evidence:
        """Look at the images through the `extractor`."""
        session = Session(feature_model(images.normal.pixels.shape[1:3], extractor))
        good, bad = (fold_of_parts(len(each.pixels)) for each in (images.normal, images.anomaly))
        normal, anomaly, synthetic = (
            Features.of(views, folds, session, extractor.channels)
            for views, folds in (
                (images.normal, good),
                (images.anomaly, bad),
                (images.synthetic, good),
            )
        )
        return cls(normal, anomaly, synthetic)

    def levelled(self, usual: Means) -> Evidence:
        """Return the same of features less the mean of each over a view, as far as it is usual."""
        return Evidence(*(each.levelled(usual) for each in self.kinds))


def fold_of_parts(count: int) -> Indices:
    """Return the fold (count,) of each part.

    Folds are runs of neighbouring files: images taken one after the other look alike, and would
    vouch for each other.
    """
    return np.arange(count) * FOLDS // max(count, 1)


def some_patches(features: Features, random: np.random.Generator) -> Floats:
    """Draw (views, m, channels + 2): m patches of each view, their place (-1 to 1) at the end."""
    channels, rows, columns = features.shape
    places = coordinates(rows, columns).reshape(2, -1)
    wanted = min(rows * columns, -(-PLENTY * CANDIDATES // len(features)))
    drawn = np.empty((len(features), wanted, channels + 2), np.float32)
    targets = iter(drawn)
    for chunk in features.chunks():
        for view, target in zip(chunk.reshape(len(chunk), channels, -1), targets):
            chosen = np.sort(random.choice(rows * columns, wanted, replace=False))
            target[:, :channels] = view[:, chosen].T
            target[:, channels:] = places[:, chosen].T
    return drawn
