"""What a slot asks of the driver for a batch. TensorRT and the GPU are FAKES: see loop_bench.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Dict

import pytest

from tests.fakes.loop_bench import bench, check, machines, pictures

CALLS = ("cuEventRecord", "cuStreamWaitEvent", "cuEventElapsedTime")


def asked(folder: Path, integrated: int, is_timed: bool) -> Dict[str, int]:
    """How often each of CALLS is called for a batch; its results must be right."""
    with machines(folder) as make:
        gpu, batch = make(integrated=integrated), pictures(2)
        with bench(gpu, is_timed=is_timed) as opened:
            before = {call: gpu.count(call) for call in CALLS}
            opened.submit(batch)
            times = opened.loop.wait(opened.slots[0])
            assert math.isnan(sum(times)) is not is_timed
            check(opened.results(2), batch)
            return {call: gpu.count(call) - before[call] for call in CALLS}


@pytest.mark.parametrize(
    ("integrated", "is_timed", "records", "waits", "times"),
    [(0, True, 6, 2, 3), (0, False, 3, 2, 0), (1, True, 6, 0, 3), (1, False, 1, 0, 0)],
)
def test_times_are_taken_only_when_asked_for_and_one_stream_doesnt_wait_for_itself(
    tmp_path: Path, integrated: int, is_timed: bool, records: int, waits: int, times: int
) -> None:
    found = asked(tmp_path, integrated, is_timed)
    assert found == dict(zip(CALLS, (records, waits, times)))
