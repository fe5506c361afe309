"""Messages between the agent and a child process."""

from __future__ import annotations

from edge_agent.runtime.processes.channel import Channel


def test_last_messages_arrive_from_who_went_without_reading() -> None:
    ours, end = Channel.pair()
    theirs = Channel(end)
    ours.send({"do": "run"})
    theirs.send({"error": "lost"})
    theirs.close()
    received = ours.receive()
    assert received is not None
    assert received.content == {"error": "lost"}
    assert ours.receive() is None
    ours.close()
