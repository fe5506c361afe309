"""The words of the wire are those that existing clients use."""

from __future__ import annotations

from edge_agent import protocol
from edge_agent.types import Lane, Priority
from edge_agent.wire import edge_agent_pb2, edge_agent_v1_pb2


def test_the_methods_are_those_of_the_contract() -> None:
    service = "/AWS.LookoutVision.EdgeAgent/"
    assert service + "DetectAnomalies" == protocol.DETECT_ANOMALIES
    assert service + "StartModel" == protocol.START_MODEL
    assert service + "StopModel" == protocol.STOP_MODEL
    assert service + "ListModels" == protocol.LIST_MODELS
    assert service + "DescribeModel" == protocol.DESCRIBE_MODEL
    assert protocol.INSPECT == "/edge_agent.v1.Inspector/Inspect"
    assert protocol.STREAM_DETECT == "/edge_agent.v1.Inspector/StreamDetect"


def test_every_method_of_the_protos_has_its_path() -> None:
    files = (edge_agent_pb2.DESCRIPTOR, edge_agent_v1_pb2.DESCRIPTOR)
    services = [each for file in files for each in file.services_by_name.values()]
    paths = {f"/{each.full_name}/{method}" for each in services for method in each.methods_by_name}
    words = {value for name, value in vars(protocol).items() if name.isupper()}
    assert paths == {word for word in words if str(word).startswith("/")}


def test_metadata_and_limits_are_those_of_earlier_versions() -> None:
    assert protocol.DEFAULT_SOCKET == "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
    assert protocol.CAMERA_ID == "camera-id"
    assert protocol.PRIORITY == "lane"
    assert [priority.value for priority in Priority] == ["inspection", "rescoring"]
    assert Lane is Priority
    assert protocol.SERVER_TIMING == "server-timing"
    assert protocol.CAMERA_PROBLEMS == "camera-problems"
    assert protocol.RESULT_ID == "result-id"
    assert protocol.QUEUE_LENGTH == "queue-length"
    assert protocol.RETRY_AFTER_MS == "grpc-retry-pushback-ms"
    assert protocol.METADATA_LIMIT_CHARACTERS == 128
    assert protocol.MESSAGE_LIMIT_BYTES == 64 * 1024 * 1024
    assert protocol.LARGEST_FRAME_BYTES == 50_331_648
