"""The standard side services: health per model and reflection."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.contract import generations
from tests.contract.calls import Caller, until
from tests.fakes import micro
from tests.fakes.agent import Agent

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("health"))
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "bad", "classification", b"no graph at all")
    with agent:
        yield agent


@pytest.fixture
def channel(agent: Agent) -> Iterator[grpc.Channel]:
    with agent.channel() as channel:
        yield channel


def health(channel: grpc.Channel, service: str) -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def gone(channel: grpc.Channel, service: str) -> bool:
    return health(channel, service) in ("NOT_FOUND", "SERVICE_UNKNOWN")


def test_the_agent_as_a_whole_is_healthy(channel: grpc.Channel) -> None:
    assert health(channel, "") == "SERVING"


@pytest.mark.parametrize("service", ["AWS.LookoutVision.EdgeAgent", "edge_agent.v1.Inspector"])
def test_a_service_is_asked_for_by_its_full_name(
    agent: Agent, channel: grpc.Channel, service: str
) -> None:
    assert health(channel, service) == "SERVING"
    micro.write(agent.models / service, "classification")  # a model that isn't started
    with agent.client() as client:
        until(lambda: service in [info.name for info in client.models()])
    assert health(channel, service) == "SERVING"
    shutil.rmtree(agent.models / service)


def test_a_model_is_healthy_while_it_runs(channel: grpc.Channel) -> None:
    caller = Caller(channel)
    until(lambda: health(channel, "cls") == "NOT_SERVING")
    caller.run("cls")
    until(lambda: health(channel, "cls") == "SERVING")
    caller.stop("cls")
    until(lambda: health(channel, "cls") == "NOT_SERVING")


def test_a_model_that_failed_is_not_healthy(channel: grpc.Channel) -> None:
    caller = Caller(channel)
    caller.start("bad")
    caller.wait("bad", generations.FAILED)
    assert health(channel, "bad") == "NOT_SERVING"
    assert health(channel, "") == "SERVING"


def test_an_unknown_model_has_no_health(channel: grpc.Channel) -> None:
    assert gone(channel, "nope")


@pytest.mark.parametrize("running", [False, True])
def test_a_model_that_was_removed_has_no_health(
    agent: Agent, channel: grpc.Channel, running: bool
) -> None:
    name = f"leaving-{running}"
    package = micro.write(agent.models / name, "classification")
    until(lambda: health(channel, name) == "NOT_SERVING")
    if running:
        Caller(channel).run(name)
        until(lambda: health(channel, name) == "SERVING")
    shutil.rmtree(package.rename(agent.folder / name))
    until(lambda: gone(channel, name), within_s=5)


def test_a_watcher_hears_of_every_change(channel: grpc.Channel) -> None:
    caller = Caller(channel)
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service="cls"), timeout=20
    )
    assert next(watch).status == NOT_SERVING
    caller.run("cls")
    assert next(watch).status == SERVING
    caller.stop("cls")
    assert next(watch).status == NOT_SERVING
    watch.cancel()


def test_reflection_shows_the_services_and_the_contracts_field_numbers(
    channel: grpc.Channel,
) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"AWS.LookoutVision.EdgeAgent", "edge_agent.v1.Inspector", "grpc.health.v1.Health"} <= (
        set(database.get_services())
    )
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("AWS.LookoutVision.EdgeAgent")
    assert {method.name for method in service.methods} == set(generations.CALLS)
    for name, expected in vars(generations.LAST).items():
        found = pool.FindMessageTypeByName(f"AWS.LookoutVision.{name}")
        wanted = {field.name: field.number for field in expected.DESCRIPTOR.fields}
        numbers = {field.name: field.number for field in found.fields}
        assert wanted.items() <= numbers.items(), name
    statuses = pool.FindEnumTypeByName("AWS.LookoutVision.ModelStatus")
    assert [value.name for value in statuses.values] == list(generations.STATUSES)


def test_an_agent_that_stops_tells_watchers_first(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        agent.run("cls")
        request = health_pb2.HealthCheckRequest(service="cls")
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=20)
        assert next(watch).status == SERVING
        assert agent.stop() == 0
        assert next(watch).status == NOT_SERVING
        watch.cancel()
