"""Judge frames of a camera; pixels travel in the messages, so the agent may run on another machine.

Frames come on standard input as raw RGB, for example from ffmpeg or GStreamer:

    ffmpeg -i rtsp://camera/stream -f rawvideo -pix_fmt rgb24 -s 1280x720 - |
        python camera_bytes.py --model bolts --width 1280 --height 720
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from edge_agent.client import Client
from edge_agent.errors import Overloaded


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
        for number, frame in enumerate(frames(options.width, options.height)):
            try:
                verdict = agent.detect(options.model, frame, transport="bytes")
            except Overloaded as error:  # the queue is full: this frame is lost, the line goes on
                time.sleep(error.retry_after_s)
                continue
            word = "ANOMALY" if verdict.is_anomalous else "normal"
            print(f"frame {number}: {word}, score {verdict.score:.3f}", flush=True)


if __name__ == "__main__":
    main()
