"""The client's own shared memory: room for one frame and its mask, under one unguessable name."""

from __future__ import annotations

import contextlib
import grp
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Tuple

import numpy as np

from edge_agent.errors import EdgeAgentError, InvalidFrame
from edge_agent.protocol import CHANNELS, SOCKET_GROUP
from edge_agent.runtime.system import segment_owner
from edge_agent.wire import edge_agent_pb2 as wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = segment_owner.FOLDER
MADE_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
UNIX = "unix:"


class FrameSegment:
    """`frame_bytes` for a frame, and as many behind it for the mask; removed by `close`.

    Open to the group of the agent's socket at `address` (mode 0660), or to ggc_group, where the
    user may give it to them; else to the user's own group.
    """

    def __init__(self, frame_bytes: int, address: str = "") -> None:
        self._room = frame_bytes
        segment_owner.sweep()
        self._owner = os.getpid()
        self._path = FOLDER / segment_owner.new_name()
        try:
            descriptor = os.open(self._path, MADE_NEW, 0o660)
        except OSError as error:
            raise EdgeAgentError(
                f"No shared memory can be made in {FOLDER}: {error.strerror}. Correct that, or use "
                "transport='bytes'."
            ) from None
        try:
            os.fchmod(descriptor, 0o660)
            group = _socket_group(address)
            if group is not None:
                with contextlib.suppress(PermissionError):  # the user isn't in it
                    os.fchown(descriptor, -1, group)
            # Claims the pages now: a full /dev/shm is an error here instead of SIGBUS on writing.
            os.posix_fallocate(descriptor, 0, 2 * frame_bytes)
            self._bytes: NDArray[np.uint8] = np.frombuffer(
                mmap.mmap(descriptor, 2 * frame_bytes), np.uint8
            )
        except OSError as error:
            self.close()
            raise EdgeAgentError(
                f"{FOLDER} has no room for {2 * frame_bytes} bytes: {error.strerror}. "
                "Make it larger, or use transport='bytes'."
            ) from None
        finally:
            os.close(descriptor)

    def fits(self, frame_bytes: int) -> bool:
        """Whether a frame of `frame_bytes` has room; never in a parent's, after a fork."""
        return frame_bytes <= self._room and self._owner == os.getpid()

    def frame(self, width: int, height: int) -> NDArray[np.uint8]:
        """Return the frame's pixels, uint8 RGB (height, width, 3); writing them sends them."""
        return self._view(0, width, height)

    def mask(self, width: int, height: int) -> NDArray[np.uint8]:
        """Return the mask's pixels, uint8 RGB (height, width, 3), overwritten by the next call."""
        return self._view(self._room, width, height)

    def handles(self, frame_bytes: int) -> Tuple[wire.SharedMemoryHandle, wire.SharedMemoryHandle]:
        """Return the handles of the frame and of its mask, both of `frame_bytes`."""
        name = self._path.name
        return (
            wire.SharedMemoryHandle(name=name, size=frame_bytes, offset=0),
            wire.SharedMemoryHandle(name=name, size=frame_bytes, offset=self._room),
        )

    def close(self) -> None:
        """Remove the segment; that of a parent, and one that is gone already, is left alone."""
        if self._owner == os.getpid():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _view(self, start: int, width: int, height: int) -> NDArray[np.uint8]:
        size = width * height * CHANNELS
        return self._bytes[start : start + size].reshape(height, width, 3)


def _socket_group(address: str) -> Optional[int]:
    """Return the id of the socket's group; of ggc_group, if there is one, for other addresses."""
    with contextlib.suppress(OSError):
        if address.startswith(UNIX):
            return Path(address[len(UNIX) :]).stat().st_gid
    with contextlib.suppress(KeyError):
        return grp.getgrnam(SOCKET_GROUP).gr_gid
    return None


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise InvalidFrame unless `image` is uint8 RGB of shape (height, width, 3)."""
    if not isinstance(image, np.ndarray):
        raise InvalidFrame(f"The image is a {type(image).__name__}; expected a numpy array.")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InvalidFrame(
            f"The image is {image.dtype} of shape {image.shape}; expected uint8 RGB "
            "(height, width, 3)."
        )
