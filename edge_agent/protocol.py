"""The words of the wire: address, services, methods, metadata keys and limits, each spelled once.

The server, the client and the tools use these names; the contract's tests spell them out again.
Request metadata: CAMERA_ID (callers of the same id take turns with others; default: the connection
and the shared memory it uses) and PRIORITY (a value of `types.Priority`), both of printable ASCII.
Trailing metadata of an answer: SERVER_TIMING in the syntax of https://www.w3.org/TR/server-timing/,
milliseconds; CAMERA_PROBLEMS, such as "dark, frozen" (values of `types.CameraProblem`), when there
are any; RESULT_ID of the result event, when one is published. Trailing metadata of an error:
ERROR_NAME, the class in `errors.py`; when a queue is full also QUEUE_LENGTH and RETRY_AFTER_MS, in
gRPC's own words (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
"""

from __future__ import annotations

DEFAULT_SOCKET = "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
UNIX_SCHEME = "unix://"
SOCKET_GROUP = "ggc_group"  # Greengrass components run in it

CONTRACT_SERVICE = "AWS.LookoutVision.EdgeAgent"
DETECT_ANOMALIES = f"/{CONTRACT_SERVICE}/DetectAnomalies"
START_MODEL = f"/{CONTRACT_SERVICE}/StartModel"
STOP_MODEL = f"/{CONTRACT_SERVICE}/StopModel"
LIST_MODELS = f"/{CONTRACT_SERVICE}/ListModels"
DESCRIBE_MODEL = f"/{CONTRACT_SERVICE}/DescribeModel"

INSPECTOR_SERVICE = "edge_agent.v1.Inspector"
INSPECT = f"/{INSPECTOR_SERVICE}/Inspect"
STREAM_DETECT = f"/{INSPECTOR_SERVICE}/StreamDetect"

CAMERA_ID = "camera-id"
PRIORITY = "lane"
METADATA_LIMIT_CHARACTERS = 128  # of a value that the agent reads

SERVER_TIMING = "server-timing"
CAMERA_PROBLEMS = "camera-problems"
RESULT_ID = "result-id"
ERROR_NAME = "error-name"
QUEUE_LENGTH = "queue-length"
RETRY_AFTER_MS = "grpc-retry-pushback-ms"

CHANNELS = 3  # of a frame and of a mask: packed RGB, 8 bits each
SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 64, 4096
LARGEST_FRAME_BYTES = LARGEST_SIDE_PX * LARGEST_SIDE_PX * CHANNELS
# Above the largest frame, so that RESOURCE_EXHAUSTED only ever means load; gRPC's default is 4 MiB.
MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
MESSAGE_LIMITS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)

FRAMES_IN_FLIGHT = 4  # of a stream that names no number of its own
MOST_FRAMES_IN_FLIGHT = 64
