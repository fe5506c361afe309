"""A process that creates projects as long as it can, and writes the number of each that is kept."""

from __future__ import annotations

import itertools
import resource
import sys
from pathlib import Path

from edge_agent.service.faults import ServiceFault
from edge_agent.service.operations.projects import Projects
from edge_agent.service.records import client_tokens
from edge_agent.service.records.database import Records
from edge_agent.service.settings import ServiceSettings
from tests.service.calls import call

PADDING = "x" * 200


def main(file: Path, most_bytes: int) -> None:
    records = Records(file)
    projects = Projects(settings=ServiceSettings.model_validate({"quotas": {"projects": 10**9}}))
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    for number in itertools.count():
        asked = call("CreateProject", ProjectName=f"p{number}-{PADDING}", ClientToken=str(number))
        try:
            with records.write() as transaction:
                client_tokens.once(asked, transaction, projects.create_project)
        except ServiceFault as fault:
            sys.stdout.write(f"{fault}\n")
            return
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
