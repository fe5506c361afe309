"""The journey that the README shows, run as it is written."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edge_agent.packaging.aws.folder import ComponentFolder
from tests import ROOT
from tests.conftest import alone
from tests.service import aws
from tests.training.pictures import draw

PORT = 8600
WITHIN_S = 500.0
# What follows the page's lines: wait for the component, and end the service, whatever happened.
END = """
recipe=service/buckets/plant/plant.Bolts-1.0.0/recipes/plant.Bolts-1.0.0.json
for _ in $(seq 300); do [ -e $recipe ] && break; sleep 0.2; done
"""

pytestmark = [aws.needs_aws, pytest.mark.timeout(600)]


def journey() -> str:
    """The block of the README, whose lines are twelve."""
    section = (ROOT / "README.md").read_text().split("## Your scripts against the service API")[1]
    (block,) = re.findall(r"```\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert len(block.splitlines()) == 12
    return str(block)


def fill_bucket(folder: Path) -> None:
    """A copy of a bucket: a manifest, and the images where it says they are."""
    (folder / "plant").mkdir()
    lines = []
    for number in range(30):
        label = "anomaly" if number >= 20 else "normal"
        name = f"{number}.png"
        assert cv2.imwrite(str(folder / "plant" / name), draw(number, label == "anomaly"))
        metadata = {"class-name": label, "human-annotated": "yes"}
        line = {"source-ref": f"s3://plant/{name}", "anomaly-label-metadata": metadata}
        lines.append(json.dumps(line))
    (folder / "plant" / "train.manifest").write_text("\n".join(lines) + "\n")
    assert cv2.imwrite(str(folder / "part.png"), draw(100, stained=True))


def test_the_readmes_journey_works_as_it_is_written(tmp_path: Path) -> None:
    fill_bucket(tmp_path)
    environment = {
        **aws.Aws("", "", "").environment,
        "PATH": f"{Path(sys.executable).parent}:{aws.FOLDER}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AWS_MAX_ATTEMPTS": "10",  # until the service listens, on a machine with much to do
    }
    script = f"trap 'kill %1; wait' EXIT\n{journey()}{END}"
    with alone(f"port-{PORT}"):
        if is_taken(PORT):
            pytest.skip(f"another program listens on port {PORT}")
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=WITHIN_S, check=False,
        )  # fmt: skip
    said = done.stdout + done.stderr
    assert re.search(r"^DETECTANOMALYRESULT\t.*\tTrue$", done.stdout, re.MULTILINE), said
    component = ComponentFolder.read(tmp_path / "service/buckets/plant/plant.Bolts-1.0.0")
    assert (component.name, component.version) == ("plant.Bolts", "1.0.0")


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
