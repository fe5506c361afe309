"""A caller's bitmap → a checked view of its pixels, without a copy. Owns every bound check.

Limits and padding: contract of the original agent, 64x64 to 4096x4096 packed RGB; rows may be
padded to 4 bytes as GStreamer does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidFrame
from edge_agent.protocol import CHANNELS, LARGEST_SIDE_PX, SMALLEST_SIDE_PX
from edge_agent.runtime.vision.segment_access import SegmentAccess
from edge_agent.runtime.vision.segments import Segment, Segments
from edge_agent.types import Bitmap, Frame, SharedMemoryHandle

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OpenFrame:
    """A frame in use and, when the caller asked for one, the place for its mask.

    Valid until the reply is sent; `check` afterwards makes sure that the memory stayed whole.
    """

    def __init__(
        self,
        frame: Frame,
        segments: Tuple[Segment, ...] = (),
        mask_target: Optional[NDArray[np.uint8]] = None,
        held_bytes: int = 0,
    ) -> None:
        self.frame = frame
        self.mask_target = mask_target  # (height, width, 3), writable
        self.held_bytes = held_bytes  # of our own memory
        self._segments = segments

    def check(self) -> None:
        """Raise InvalidFrame when a segment was cut short while it was read or written."""
        for segment in self._segments:
            segment.check()


class FrameReader:
    """Opens bitmaps; keeps the mappings of segments that callers use again."""

    def __init__(self, access: Optional[SegmentAccess] = None) -> None:
        self._access = access or SegmentAccess()
        self._segments = Segments(self._access)

    def open(
        self, bitmap: Bitmap, mask: Optional[SharedMemoryHandle] = None, is_local: bool = False
    ) -> OpenFrame:
        """Check `bitmap` and return its pixels; `mask` names where to write the mask.

        is_local: the call came through a Unix socket. Raises InvalidFrame: what came, what
        was expected; OutOfDescriptors, OutOfMemory.
        """
        width, height = bitmap.width, bitmap.height
        if not all(SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX for side in (width, height)):
            raise InvalidFrame(
                f"The bitmap is {width}x{height} pixels; width and height must be "
                f"{SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX}."
            )
        handle = bitmap.handle
        if handle is not None or mask is not None:
            self._access.check_caller(is_local)
        used: Tuple[Segment, ...] = ()
        if handle is not None:
            used = self._source(handle, mask)
            buffer, size, held_bytes = used[0].part(handle), handle.size, 0
            buffer.flags.writeable = False
        elif bitmap.data:
            buffer = np.frombuffer(bitmap.data, np.uint8)
            size = held_bytes = buffer.nbytes
        else:
            raise InvalidFrame(
                "The bitmap has no data: set byte_data or shared_memory_handle "
                f"to {width * height * CHANNELS} bytes of RGB pixels."
            )
        frame = Frame(_view(buffer, size, width, height))
        if mask is None:
            return OpenFrame(frame, used, None, held_bytes)
        if len(used) < 2:
            used = (*used, self._segments.open(mask, writable=True))
        return OpenFrame(frame, used, _mask_view(used[-1].part(mask), width, height), held_bytes)

    def sweep(self) -> None:
        """Unmap what no caller used lately."""
        self._segments.sweep()

    def _source(
        self, handle: SharedMemoryHandle, mask: Optional[SharedMemoryHandle]
    ) -> Tuple[Segment, ...]:
        """Return where the frame lies and, when it is the same object, the mask's place."""
        if mask is not None and mask.name == handle.name:
            return self._segments.open_parts((handle, mask), writable=True)
        return self._segments.open_parts((handle,), writable=False)


def _view(buffer: NDArray[np.uint8], size: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return the pixels in `buffer`, which holds the first of the `size` bytes that came."""
    row = width * CHANNELS
    padded = (row + 3) // 4 * 4
    if size == row * height:
        return buffer.reshape(height, width, CHANNELS)
    if size == padded * height:
        return buffer.reshape(height, padded)[:, :row].reshape(height, width, CHANNELS)
    raise InvalidFrame(
        f"The bitmap holds {size} bytes; {width}x{height} pixels of packed RGB need "
        f"{width}*{height}*3 = {row * height} (an encoded JPEG or PNG must be decoded first)."
    )


def _mask_view(buffer: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    needed = width * height * CHANNELS
    if buffer.size < needed:
        raise InvalidFrame(
            f"The shared memory for the mask has {buffer.size} bytes; "
            f"a mask of {width}x{height} pixels needs {needed}."
        )
    return buffer[:needed].reshape(height, width, CHANNELS)
