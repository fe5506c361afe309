"""What a run that publishes leaves behind, besides its figures."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

from edge_agent.benchmark import feature_costs
from edge_agent.errors import AgentUnavailable
from edge_agent.runtime.results.spool.journal import Journal, journal_locations


def test_results_that_were_not_stored_in_time_leave_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = tmp_path / "outbox"

    @contextmanager
    def agent(*_: Any) -> Iterator[str]:
        outbox.mkdir()
        for place in journal_locations(outbox):
            Journal(place).close(remove=False)
            assert place.path.exists()
        raise AgentUnavailable("gone")
        yield ""

    monkeypatch.setattr(feature_costs, "agent", agent)
    with pytest.raises(AgentUnavailable):
        feature_costs.publishing(tmp_path, tmp_path / "frame.npy", 1, 1, 1)
    assert not any(place.path.exists() for place in journal_locations(outbox))
