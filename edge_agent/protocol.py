"""What clients and the agent agree on beside the messages; needs no library."""

from __future__ import annotations

DEFAULT_SOCKET = "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
