"""Where the defects of an image are: masks/PATH.png beside the images, not 0 where one is.

PATH is the image's inside anomaly/ (or from its manifest on), or its name alone. A mask that would
be of several images isn't used.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence

import numpy as np

from edge_agent.errors import InvalidPicture
from edge_agent.evaluation.label_words import ANOMALY
from edge_agent.pictures.listing import shown
from edge_agent.pictures.reader import read_samples
from edge_agent.runtime.vision.picture_files import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER, SUFFIX = "masks", ".png"


@dataclass(frozen=True)
class Masks:
    """The masks of a set of images; `folder` None: there are none."""

    folder: Optional[Path]
    images: Path  # from where on the paths of images and masks are the same
    paths: Sequence[Path]
    on_remark: Callable[[str], None]

    @classmethod
    def of(cls, source: Path, paths: Sequence[Path], on_remark: Callable[[str], None]) -> Masks:
        """Find the masks of the images `paths` in a folder `source` or in a manifest."""
        places = (source / FOLDER, source.resolve().parent / FOLDER)
        folder = next((place for place in places if place.is_dir()), None)
        images = source / ANOMALY if source.is_dir() else source.parent
        return cls(folder, images, paths, on_remark)

    def of_image(self, path: Path) -> Optional[NDArray[np.uint8]]:
        """Return 255 at a defect and 0 elsewhere, (height, width); None where that isn't known."""
        file = self._file(path) if self.folder else None
        if file is None:
            return None
        try:
            with quiet():
                mask = read_samples(file)
        except InvalidPicture as error:
            self.on_remark(str(error))
            return None
        return np.where(mask.any(axis=2), np.uint8(255), np.uint8(0))

    def _file(self, path: Path) -> Optional[Path]:
        exact, flat = self._exact(path), Path(f"{path.stem}{SUFFIX}")
        folder = self.folder or Path()
        if (folder / exact).is_file() and self._exacts[exact] == 1:
            return folder / exact
        if not (folder / flat).is_file():
            return None
        if self._stems[path.stem] == 1:
            return folder / flat
        self.on_remark(
            f"{shown(folder / flat)} isn't used for {shown(path)}: several images have its name."
        )
        return None

    @cached_property
    def _exacts(self) -> Mapping[Path, int]:
        return Counter(map(self._exact, self.paths))

    @cached_property
    def _stems(self) -> Mapping[str, int]:
        return Counter(path.stem for path in self.paths)

    def _exact(self, path: Path) -> Path:
        inside = path.relative_to(self.images) if self.images in path.parents else Path(path.name)
        return inside.with_suffix(SUFFIX)
