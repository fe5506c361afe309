"""The Python client that programs use to talk to a running agent."""

from __future__ import annotations

from edge_agent.client.client import Client

__all__ = ["Client"]
