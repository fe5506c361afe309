"""Judge live video through shared memory: the fastest way on the agent's own machine.

Frames come on standard input as raw RGB, for example from a USB camera:

    ffmpeg -f v4l2 -i /dev/video0 -f rawvideo -pix_fmt rgb24 -s 1280x720 - |
        python camera_shared_memory.py --model bolts --width 1280 --height 720

All frames go on one call. When the agent is slower than the camera, the newest frame wins and the
older ones are skipped, so that verdicts are never late.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from edge_agent.client import Client


def frames(width: int, height: int):
    """Yield arrays, uint8 RGB of shape (height, width, 3), until the camera ends."""
    size = width * height * 3
    while len(data := sys.stdin.buffer.read(size)) == size:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock")
    parser.add_argument("--model", required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    options = parser.parse_args()

    with Client(options.address, camera_id="camera-1") as agent:
        camera = frames(options.width, options.height)
        for answer in agent.stream(options.model, camera, newest_frame_wins=True):
            verdict = answer.prediction
            if answer.error is not None:  # this frame failed, the stream goes on
                print(f"frame {answer.frame_id}: {answer.error}", file=sys.stderr, flush=True)
            elif verdict is None:
                print(f"frame {answer.frame_id}: skipped", flush=True)
            else:
                word = "ANOMALY" if verdict.is_anomalous else "normal"
                print(f"frame {answer.frame_id}: {word}, score {verdict.score:.3f}", flush=True)


if __name__ == "__main__":
    main()
