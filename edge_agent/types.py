"""Values that travel between the rooms. Frozen, and they know no engine, broker or wire."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Tuple, Union

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

BACKGROUND_NAME = "background"
BACKGROUND_COLOR = "#FFFFFF"
CAMERA_PROBLEM_COLOR = "#FF0000"

# Colours by class index where a manifest names none; index 0 is the background.
PALETTE = (
    BACKGROUND_COLOR, "#23A436", "#14A3B3", "#F76902", "#9380FF",
    "#BD10E0", "#467CE6", "#A09308", "#0094BD", "#CC7700",
)  # fmt: skip


class ModelState(enum.Enum):
    """Life of a served model; the values are the numbers on the wire."""

    STOPPED = 0  # known, not loaded
    STARTING = 1  # being loaded and warmed up
    RUNNING = 2  # answers frames
    FAILED = 3  # could not be loaded; the message says why
    STOPPING = 4  # lets calls in flight finish


@dataclass(frozen=True)
class BuildState:
    """How far an engine's build is, 0 to 1, and how many seconds are left; None: unknown."""

    done: float
    left_s: Optional[float] = None


@dataclass(frozen=True)
class ModelInfo:
    """What Describe and List report of a model. `message` is for people; `arn` may be empty.

    `inference_units` are in service now; a RUNNING model without any has lost them to a hang. It
    may have `least_units` to `most_units` of them, and `desired_units` at present. `engine`: what
    computes and where, "tensorrt on GPU Orin", empty unless RUNNING. `build`: of the engine that is
    being built for it; None: none is.
    """

    name: str
    state: ModelState
    message: str = ""
    arn: str = ""
    inference_units: int = 0
    desired_units: int = 0
    least_units: int = 0
    most_units: int = 0
    engine: str = ""
    build: Optional[BuildState] = None


class SharedMemoryHandle(NamedTuple):
    """`size` bytes from `offset` on of the POSIX shared memory object `name`."""

    name: str
    size: int
    offset: int = 0


class Bitmap(NamedTuple):
    """A frame as the caller sent it, unchecked: packed RGB, 8 bits a channel, rows top to bottom.

    Exactly one of `data` and `handle` should be set; `vision.frame` checks it.
    """

    width: int
    height: int
    data: Optional[Union[bytes, memoryview]] = None
    handle: Optional[SharedMemoryHandle] = None


class Priority(enum.Enum):
    """What is computed first; the values are those of the request metadata `lane`."""

    INSPECTION = "inspection"  # a line waits for the verdict
    RESCORING = "rescoring"  # kept frames judged again, whenever there is time


Lane = Priority  # its name up to version 1.3, for client programs


class Caller(NamedTuple):
    """Who waits for an answer, and how long.

    `name` distinguishes callers who take turns: a camera, a connection; `camera_id` is set when the
    caller gave one. `deadline` is the monotonic time in seconds after which nobody waits; None: for
    ever. `on_cancel` takes what is to be called, on any thread, once nobody waits any more; it
    returns False when that is so already. `is_local`: the call came through a Unix socket.
    """

    name: str = ""
    priority: Priority = Priority.INSPECTION
    deadline: Optional[float] = None
    on_cancel: Callable[[Callable[[], object]], bool] = lambda _action: True
    camera_id: str = ""
    is_local: bool = False


@dataclass
class StageTimes:
    """How long each stage of a call took, in seconds; filled in by those who do the work.

    A frame computed in a batch has the batch's compute time.
    """

    receive: float = 0.0  # from the call's headers to its message
    queue: float = 0.0
    preprocess: float = 0.0
    compute: float = 0.0
    postprocess: float = 0.0
    publish: float = 0.0  # until the result is handed over; it is sent later
    send: float = 0.0  # until the answer is handed to gRPC


class FrameRequest(NamedTuple):
    """What a call asks for: which model, which frame, where the mask goes (None: in the reply)."""

    model: str
    bitmap: Optional[Bitmap]
    mask: Optional[SharedMemoryHandle] = None


@dataclass(frozen=True)
class DetectRequest:
    """One call: what it asks for, who waits for the answer, how long each stage took."""

    model: str
    bitmap: Optional[Bitmap]
    mask: Optional[SharedMemoryHandle] = None
    caller: Caller = field(default_factory=Caller)
    times: StageTimes = field(default_factory=StageTimes)


@dataclass(frozen=True)
class Frame:
    """A checked image: uint8 RGB of shape (height, width, 3), perhaps a view of shared memory."""

    pixels: Pixels

    @property
    def width(self) -> int:
        """Pixels a row."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True)
class Anomaly:
    """One anomaly type found; `area` is the share of all pixels, 0 to 1; `color` is #RRGGBB."""

    name: str
    area: float
    color: str


@dataclass(frozen=True)
class Region:
    """One connected anomalous area: box in pixels of the frame, area as a share, peak 0 to 1."""

    name: str
    left: int
    top: int
    width: int
    height: int
    area: float
    peak: float


class CameraProblem(enum.Enum):
    """What is wrong with a picture, whatever it shows; the values stand in results."""

    BLACK = "black"  # every pixel is 0: no picture at all, or an old client's warm-up
    DARK = "dark"  # beyond what training saw, or nearly black
    BRIGHT = "bright"
    BLANK = "blank"  # no structure
    BLURRED = "blurred"
    FROZEN = "frozen"  # the same picture again and again from one camera


@dataclass(frozen=True)
class Prediction:
    """The verdict on one frame.

    `score` and `threshold` are 0 to 1; `confidence` is that of the verdict given. `anomalies`,
    `regions` and `mask` (uint8 RGB, shape of the frame) stay empty for classification models; the
    first anomaly is the background. `mask` is None as well when the caller named a place for it,
    where it then lies; `mask_size` (width, height) is set in both cases. `camera_problems` name
    what is wrong with the picture itself; such a verdict says little about the part. One that the
    settings call anomalous for it has score and confidence 1 and one anomaly, named after the
    problem, over the whole picture. `result_id` is that of the result event, empty when none is
    published. `is_unsure`: the score lies in the model's grey band, where a setting of the agent
    says which verdict is given.
    """

    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    anomalies: Tuple[Anomaly, ...] = ()
    regions: Tuple[Region, ...] = ()
    mask: Optional[Pixels] = None
    mask_size: Tuple[int, int] = (0, 0)
    model_version: str = ""
    camera_problems: Tuple[CameraProblem, ...] = ()
    result_id: str = ""
    is_unsure: bool = False
