"""A STAND-IN for the worker process of an engine, to test how the agent supervises one.

It speaks the protocol of `gpu_worker.py`, with neither CUDA nor TensorRT. What it does when asked
to run stands in the slot itself, see `Do`; what it does when it starts stands in the engine file:
{} or {"error": {...}}, {"dies": true}, {"hangs": true}, {"chatters": true}, {"stays": true} (a
process that no signal to the worker reaches keeps the channel open), {"refuses_slots": true}.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, Dict

from edge_agent.runtime.processes.channel import Channel
from edge_agent.runtime.processes.parent import connect

SLOT_BYTES = 4096
CONTENT = struct.Struct("<iii")  # what to do; answer: process id, number of open descriptors


class Do:
    ADD = 0  # answer
    FAIL = 1  # answer with an error
    LOSE = 2  # answer with a sticky error, and end
    CRASH = 3  # SIGSEGV
    LEAVE = 4  # print something and end
    HANG = 5
    HOLD = 6  # answer together with the next run


def main() -> None:
    channel = connect(sys.argv)
    opening = channel.receive()
    assert opening is not None
    with os.fdopen(opening.descriptors[0]) as file:
        file.seek(0)
        how: Dict[str, Any] = json.loads(file.read())
    if how.get("dies"):
        sys.exit("no GPU today")
    if how.get("hangs"):
        time.sleep(1000)
    while how.get("chatters"):
        os.write(1, b"still loading\n")
        time.sleep(0.01)
    if how.get("stays"):
        how["stays"] = stay()
    if "error" in how:
        channel.send({"id": opening.content["id"], "error": how["error"]})
        sys.exit(1)
    channel.send({"id": opening.content["id"], "engine": how})
    serve(channel, how)


def serve(channel: Channel, how: Dict[str, Any]) -> None:
    slots: Dict[int, mmap.mmap] = {}
    held = []
    for received in iter(channel.receive, None):
        message = received.content
        answer = {"id": message.get("id")}
        if message["do"] == "drop":
            del slots[message["slot"]]
            continue
        if message["do"] == "slot":
            slots[message["slot"]] = mmap.mmap(received.descriptors[0], SLOT_BYTES)
            os.close(received.descriptors[0])
            if how.get("refuses_slots"):
                answer["error"] = error("no room", is_sticky=False)
            channel.send(answer)
            continue
        memory = slots[message["slot"]]
        wanted = CONTENT.unpack_from(memory)[0]
        CONTENT.pack_into(
            memory, 0, wanted, os.getpid(), len(list(Path("/proc/self/fd").iterdir()))
        )
        if wanted == Do.HOLD:
            held.append(answer)
            continue
        obey(wanted, channel, answer)
        for each in [answer, *held]:
            channel.send(each)
        held.clear()


def stay() -> int:
    """Start a process that has all that this one has open, until it is killed; return its id."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(1000)
    return pid


def obey(wanted: int, channel: Channel, answer: Dict[str, Any]) -> None:
    if wanted == Do.FAIL:
        answer["error"] = error("a kernel failed", is_sticky=False)
    elif wanted == Do.LOSE:
        channel.send({**answer, "error": error("the device is lost.", is_sticky=True)})
        os._exit(70)
    elif wanted == Do.CRASH:
        os.write(2, b"about to crash\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    elif wanted == Do.LEAVE:
        line = {"level": "ERROR", "message": "out of ideas", "error": "Traceback ...\nOops"}
        os.write(1, json.dumps(line).encode() + b"\nbye")
        os._exit(3)
    elif wanted == Do.HANG:
        time.sleep(1000)


def error(text: str, is_sticky: bool) -> Dict[str, Any]:
    return {"kind": "GpuFailed", "text": text, "code": 700, "is_sticky": is_sticky}


if __name__ == "__main__":
    main()
