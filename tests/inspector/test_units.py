"""Inference units of a running agent: they come with queueing, go with idleness, end when hung."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.calls import Caller, plain, until
from tests.contract.generations import RUNNING
from tests.fakes import micro
from tests.fakes.agent import Agent

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def units(caller: Caller, model: str) -> int:
    found = re.search(r"(\d+) inference unit", caller.describe(model).status_message)
    return int(found[1]) if found else 0


def test_units_come_with_queueing_and_go_with_idleness_without_a_failed_call(
    tmp_path: Path,
) -> None:
    agent = Agent(
        tmp_path, "--set", "engine.threads=1", "--set", "engine.max_inference_units=2",
        "--set", "engine.scale_up_after_s=0.3", "--set", "engine.scale_down_after_s=0.5",
    )  # fmt: skip
    once = {"batch_sizes": [1]}
    micro.write(agent.models / "slow", "classification", micro.slow(8), runtime=once)
    stop, failures = threading.Event(), []  # type: threading.Event, List[grpc.RpcError]

    def camera() -> None:
        with agent.channel() as channel:
            caller = Caller(channel)
            while not stop.is_set():
                try:
                    caller.detect("slow", plain(255))
                except grpc.RpcError as error:
                    failures.append(error)

    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("slow")
        assert units(caller, "slow") == 1
        cameras = [threading.Thread(target=camera) for _ in range(4)]
        for thread in cameras:
            thread.start()
        try:
            until(lambda: units(caller, "slow") == 2)
        finally:
            stop.set()
            for thread in cameras:
                thread.join(20)
        until(lambda: units(caller, "slow") == 1)
        assert caller.detect("slow", plain(255)).is_anomalous
    assert failures == []


def test_a_unit_that_hangs_is_replaced_and_its_callers_may_try_again(tmp_path: Path) -> None:
    """The engine computes an endless loop of a real graph; the agent ends it and goes on."""
    agent = Agent(tmp_path, "--set", "engine.hang_after_s=0.5", "--set", "engine.threads=1")
    micro.write(agent.models / "trap", "classification", micro.hanging())
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("trap")
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="trap"), timeout=30
        )
        assert next(watch).status == SERVING
        assert caller.detect("trap", plain(255)).is_anomalous
        stuck = caller.detect_later("trap", plain(255, blue=255))
        waiting = caller.detect_later("trap", plain(255))
        assert stuck.code() is grpc.StatusCode.UNAVAILABLE
        assert "didn't answer for 0.5 s and is being replaced; call again" in stuck.details()
        assert next(watch).status == NOT_SERVING
        assert next(watch).status == SERVING
        watch.cancel()
        assert waiting.result().detect_anomaly_result.is_anomalous
        assert caller.describe("trap").status == RUNNING
        assert units(caller, "trap") == 1
        assert caller.detect("trap", plain(255)).is_anomalous


def test_all_threads_together_are_no_more_than_the_cores(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "engine.min_inference_units=64")
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("cls")
        message = caller.describe("cls").status_message
        found = re.search(r"(\d+) inference units? of (\d+) thread", message)
        assert found is not None, message
        assert int(found[1]) * int(found[2]) <= (os.cpu_count() or 1)
