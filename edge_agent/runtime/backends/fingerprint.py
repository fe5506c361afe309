"""What a TensorRT engine depends on: it serves where all of that is the same, or where it carries.

An engine that was built to be compatible is for later releases of TensorRT, or for other GPUs.
NVIDIA's documents differ on whether it is for the next major version as well: the support matrices
of 10.0 to 10.16 say "within the same major version", "Engine Compatibility" says that engines of 10
work with 11. Here they don't.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import List, Optional, Sequence, Set, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict, read_json
from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.trt_options import is_portable
from edge_agent.targets import BuildSpec, Precision, Profile

ID_LENGTH = 16
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# field → its name for people; of the others it is only said that they differ
NAMED = {
    "tensorrt": "TensorRT", "gpu": "GPU", "compute_capability": "compute capability",
    "cuda": "CUDA", "driver": "driver", "precision": "precision", "dla_core": "DLA core",
    "optimisation_level": "optimisation level", "hardware_compatible": "hardware compatibility",
    "version_compatible": "version compatibility",
}  # fmt: skip
UNNAMED = {
    "model": "another model.onnx",
    "calibration": "other calibration pictures",
    "profiles": "other batch sizes",
}
# came later; left out of the id where they are as they always were
LATER = ("optimisation_level", "hardware_compatible", "version_compatible")
FIRST_COMPATIBLE = [8, 6]  # release of TensorRT


class Fingerprint(Strict):
    """All that an engine depends on; see `serves`.

    model: sha-256 of model.onnx. cuda, driver: as `Gpu` has them. calibration: sha-256 over the
    pictures, None when there are none. dla_core: None on the GPU. hardware_compatible: wanted, and
    possible on this GPU.
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
    optimisation_level: Optional[int] = None
    hardware_compatible: bool = False
    version_compatible: bool = False

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
            optimisation_level=build.optimisation_level,
            hardware_compatible=build.hardware_compatible and is_portable(gpu),
            version_compatible=build.version_compatible,
        )

    @property
    def id(self) -> str:
        """A short name for files, the same in every process and release."""
        usual = {name for name in LATER if not self._is_set(name)}
        values = json.dumps(self.model_dump(mode="json", exclude=usual), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:ID_LENGTH]

    def _is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def serves(self, wanted: Fingerprint) -> bool:
        """Say whether an engine built as this says may be loaded where `wanted` is asked for.

        The very same always. A compatible one with other drivers that know its CUDA, and with what
        it is compatible with. TensorRT has the last word: it checks what it loads.
        """
        return set(self.changed(wanted)) <= self._carried(wanted)

    def _carried(self, wanted: Fingerprint) -> Set[str]:
        """Return the fields that may differ."""
        built, here = _release(self.tensorrt), _release(wanted.tensorrt)
        carried: Set[str] = set()
        if built < FIRST_COMPATIBLE or self.dla_core is not None:
            return carried
        if self.hardware_compatible:
            carried |= {"gpu", "compute_capability"}
        if self.version_compatible and built[0] == here[0] and built <= here:
            carried |= {"tensorrt"}
        if carried and _release(self.cuda) <= _release(wanted.cuda):
            carried |= {"cuda", "driver"}
        return carried

    def changed(self, other: Fingerprint) -> List[str]:
        """Return the fields in which `other` differs."""
        return [name for name in (*UNNAMED, *NAMED) if getattr(self, name) != getattr(other, name)]

    def differences(self, other: Fingerprint) -> str:
        """Say what `other` has in place of this: "TensorRT 8.5.2 → 8.6.1"; empty when equal."""
        return ", ".join(
            UNNAMED.get(name) or self._change(name, other) for name in self.changed(other)
        )

    def _change(self, name: str, other: Fingerprint) -> str:
        before, after = _word(getattr(self, name)), _word(getattr(other, name))
        return f"{NAMED[name]} {before} → {after}"

    def to_json(self) -> bytes:
        """Serialise; reading it back gives an equal fingerprint."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value) or "unknown"


def _release(version: str) -> List[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def parse(content: bytes) -> Fingerprint:
    """Read a fingerprint. Raises ValueError: a sentence for each thing that is wrong."""
    return read_json(Fingerprint, content)
