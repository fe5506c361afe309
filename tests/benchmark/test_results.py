from __future__ import annotations

import json
from dataclasses import asdict
from typing import List

import pytest

from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import (
    ClientLoad,
    Latency,
    ProcessUsage,
    jain,
    measurement,
    single_calls,
    stage_means,
)

LOAD = ClientLoad("shared_memory", 2)


def test_percentiles_are_those_of_the_values() -> None:
    latency = Latency.of([float(value) for value in range(1, 102)])
    assert latency is not None
    assert (latency.mean, latency.p50, latency.p90, latency.p99) == (51.0, 51.0, 91.0, 100.0)
    assert latency.max == 101.0
    assert latency.curve[0] == 1.0


def test_nothing_has_no_percentiles() -> None:
    assert Latency.of([]) is None


def test_a_measurement_is_set_beside_the_raw_engine() -> None:
    served = Tally(2.0, 40.0, [10.0] * 40, {"compute": [6.0] * 40}, {}, 0, 0.08)
    raw = Tally(2.0, 50.0, [8.0] * 50, {}, {}, 0, 0.4)
    one = measurement(LOAD, served, raw, ProcessUsage(0.48, 120.0), {})
    assert (one.throughput_fps, one.throughput_of_raw) == (20.0, 0.8)
    assert (one.agent_cpu_ms_per_frame, one.clients_cpu_ms_per_frame) == (12.0, 2.0)
    assert one.cpu_of_raw == 1.5
    assert one.stages_ms == {"compute": 6.0, "elsewhere": 4.0}
    assert one.kept_up
    json.dumps(asdict(one))


def test_a_load_without_an_answer_has_no_ratios() -> None:
    one = measurement(LOAD, Tally(2.0, failures={"INTERNAL": 3}), None, None, {})
    assert (one.latency_ms, one.throughput_of_raw, one.cpu_of_raw) == (None, None, None)
    assert (one.frames, one.failures, one.kept_up) == (0, {"INTERNAL": 3}, False)


def test_a_rate_is_kept_up_with_only_when_its_frames_are_answered_in_time() -> None:
    load = ClientLoad("bytes", 2, 20.0)
    behind, in_time = Tally(2.0, 30.0, [9.0] * 40), Tally(2.0, 39.5, [9.0] * 40)
    assert not measurement(load, behind, None, None, {}).kept_up
    assert measurement(load, in_time, None, None, {}).kept_up


def test_an_agent_without_server_timing_has_no_stages() -> None:
    assert stage_means({}, Latency.of([1.0])) == {}


def test_single_calls_show_what_serving_adds_to_the_raw_median() -> None:
    fast = {
        "raw": [0.01, 0.01, 0.05],
        "shared_memory": [0.0115, 0.03, 0.0115],
        "bytes": [0.02, 0.02, 0.02],
        "bare_server": [0.011, 0.011, 0.011],
        "empty_call": [0.0003, 0.0003, 0.0003],
        "copy": [0.0002, 0.0002, 0.0002],
    }
    slow = {kind: [2 * value for value in values] for kind, values in fast.items()}
    single = single_calls([fast, fast, slow])
    assert single.added_p50_ms == {"shared_memory": 1.5, "bytes": 10.0, "bare_server": 1.0}
    assert single.frame_copy_ms == 0.2
    assert single.p50_p90_p99_ms["empty_call"][0] == 0.3
    assert single.rounds == 9


def test_without_a_raw_engine_nothing_is_called_added() -> None:
    times_s = {"shared_memory": [0.01], "bytes": [0.02], "empty_call": [0.001], "copy": [0.001]}
    assert single_calls([times_s]).added_p50_ms == {}


@pytest.mark.parametrize(
    ("frames", "index"), [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([1, 3], 0.8), ([], 1.0)]
)
def test_jains_index(frames: List[int], index: float) -> None:
    assert jain(frames) == pytest.approx(index)
