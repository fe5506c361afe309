"""The agent's container: not root, and no namespace of the host that it can do without."""

from __future__ import annotations

from pathlib import Path

import edge_agent
from edge_agent.packaging.agent.component import ComponentPlan, recipe

DOCKERFILE = Path(edge_agent.__file__).parent.parent / "Dockerfile.jetson"


def test_the_image_runs_as_a_user_without_roots_rights() -> None:
    last_stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2].splitlines()
    (user,) = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert user.partition(":")[0] not in ("root", "0")
    assert last_stage.index(f"USER {user}") < last_stage.index('CMD ["serve"]')


def test_its_run_lines_leave_the_hosts_ipc_namespace_alone() -> None:
    lines = DOCKERFILE.read_text().splitlines()
    commands = [line for line in lines if "docker run" in line or line.startswith("#     ")]
    assert any("docker run" in line for line in commands)
    assert not any("ipc" in line for line in commands)
    assert any("/dev/shm" in line for line in commands)


def test_nor_does_greengrass_give_it_more_than_the_shared_memory() -> None:
    manifests = recipe(
        ComponentPlan("plant.Agent", ("aarch64",), ("3.8",), True, image="agent")
    ).to_json()
    assert b"--ipc" not in manifests
    assert b"--volume /dev/shm:/dev/shm" in manifests
    assert b"--user" in manifests
