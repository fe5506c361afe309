"""What a TensorRT engine depends on: it serves only where all of that is the very same."""

from __future__ import annotations

import hashlib
import json
from typing import List, Optional, Sequence, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict, read_json
from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.targets import BuildSpec, Precision, Profile

ID_LENGTH = 16
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# field → its name for people; of the others it is only said that they differ
NAMED = {
    "tensorrt": "TensorRT", "gpu": "GPU", "compute_capability": "compute capability",
    "cuda": "CUDA", "driver": "driver", "precision": "precision", "dla_core": "DLA core",
}  # fmt: skip
UNNAMED = {
    "model": "another model.onnx",
    "calibration": "other calibration pictures",
    "profiles": "other batch sizes",
}


class Fingerprint(Strict):
    """All that an engine depends on; it serves only where the fingerprint is the very same.

    model: sha-256 of model.onnx. cuda, driver: as `Gpu` has them. calibration: sha-256 over the
    pictures, None when there are none. dla_core: None on the GPU.
    """

    model: Digest
    tensorrt: str
    gpu: str
    compute_capability: str
    cuda: str
    driver: str
    precision: Precision
    calibration: Optional[Digest] = None
    profiles: Tuple[Profile, ...]
    dla_core: Optional[int] = None

    @classmethod
    def of(
        cls,
        tensorrt: str,
        gpu: Gpu,
        model: bytes,
        build: BuildSpec,
        pictures: Sequence[bytes] = (),
        dla_core: Optional[int] = None,
    ) -> Fingerprint:
        """Describe an engine of `model` built here; `pictures` are the files of the calibration."""
        digests = b"".join(hashlib.sha256(picture).digest() for picture in pictures)
        return cls(
            model=hashlib.sha256(model).hexdigest(),
            tensorrt=tensorrt,
            gpu=gpu.name,
            compute_capability="{}.{}".format(*gpu.capability),
            cuda=gpu.cuda,
            driver=gpu.driver,
            precision=build.precision,
            calibration=hashlib.sha256(digests).hexdigest() if pictures else None,
            profiles=build.profiles,
            dla_core=dla_core,
        )

    @property
    def id(self) -> str:
        """A short name for files, the same in every process and release."""
        values = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:ID_LENGTH]

    def changed(self, other: Fingerprint) -> List[str]:
        """Return the fields in which `other` differs."""
        return [name for name in (*UNNAMED, *NAMED) if getattr(self, name) != getattr(other, name)]

    def differences(self, other: Fingerprint) -> str:
        """Say what `other` has in place of this: "TensorRT 8.5.2 → 8.6.1"; empty when equal."""
        return ", ".join(
            UNNAMED.get(name) or self._change(name, other) for name in self.changed(other)
        )

    def _change(self, name: str, other: Fingerprint) -> str:
        words = {None: "none", "": "unknown"}
        before, after = getattr(self, name), getattr(other, name)
        return f"{NAMED[name]} {words.get(before, before)} → {words.get(after, after)}"

    def to_json(self) -> bytes:
        """Serialise; reading it back gives an equal fingerprint."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def parse(content: bytes) -> Fingerprint:
    """Read a fingerprint. Raises ValueError: a sentence for each thing that is wrong."""
    return read_json(Fingerprint, content)
