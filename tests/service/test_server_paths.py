"""What a caller of the API reads of sentences that name files of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.service.server_paths import without_paths

FOLDERS = {
    Path("/srv/my models/1234/cookies/1"): "the model's package",
    Path("/srv/my models"): "the service's folder",
}


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("/tmp/a-b/models/model.onnx has 3 bytes.", "model.onnx has 3 bytes."),
        ("No answer at unix:///tmp/x/agent.sock: gone", "No answer at agent.sock: gone"),
        ("'/etc/agent.json': engine.queue is 0", "'agent.json': engine.queue is 0"),
        ("/srv/my models/1234/cookies/1/model.onnx is short", "model.onnx is short"),
        ("/srv/my models/1234/cookies/1 is empty", "the model's package is empty"),
        ("/srv/my models/jobs/12/a.png is no picture", "a.png is no picture"),
        ("'/srv/my models': no space", "'the service's folder': no space"),
        ("/srv/my models-2 is full", "my models-2 is full"),
        ("File /tmp is full", "File tmp is full"),
        ("2/3 and/or http://host/page", "2/3 and/or http://host/page"),
        ("x" * 3000, "x" * 2000),
    ],
)  # fmt: skip
def test_files_are_named_without_their_folders(sentence: str, shown: str) -> None:
    assert without_paths(sentence, FOLDERS) == shown
