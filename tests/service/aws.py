"""The original clients, unmodified: boto3 and the AWS CLI of the last release with lookoutvision.

They run in processes of `.venv-aws`, which `scripts/setup --tests` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict

import pytest

from tests import ROOT

FOLDER = ROOT / ".venv-aws" / "bin"
PYTHON, CLI = FOLDER / "python", FOLDER / "aws"
MISSING = not (PYTHON.exists() and CLI.exists())
needs_aws = pytest.mark.skipif(
    MISSING, reason="boto3 1.40.60 and its AWS CLI aren't in .venv-aws (scripts/setup --tests)"
)

# Runs with `client`, `session` and what is given as variables; leaves its answer in `result`.
PRELUDE = """
import json, sys, boto3
code, given = json.load(sys.stdin)
session = boto3.session.Session()
values = {"session": session, "client": session.client("lookoutvision"), **given}
exec(compile(code, "the script", "exec"), values)
json.dump(values.get("result"), sys.stdout, default=str)
"""


class ClientFailed(AssertionError):
    """The client ended with an error; the message is what it wrote."""


@dataclass(frozen=True)
class Aws:
    """One user of the service: where it is, and the keys."""

    endpoint: str  # URL
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def environment(self) -> Dict[str, str]:
        """All that the clients know: nothing of whoever runs the tests."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_LOOKOUTVISION": self.endpoint,
        }

    def boto3(self, script: str, within_s: float = 120.0, **given: object) -> Any:
        """Run a script with `client` and the values `given`; return its `result`, as JSON.

        Raises ClientFailed.
        """
        words = [str(PYTHON), "-c", PRELUDE]
        return _answer(words, self.environment, json.dumps([script, given]), within_s)

    def cli(self, *words: str, within_s: float = 120.0, folder: Path = ROOT) -> Any:
        """Run `aws lookoutvision WORDS` in `folder`; return its answer. Raises ClientFailed."""
        command = [str(CLI), "lookoutvision", *words, "--output", "json"]
        return _answer(command, self.environment, "", within_s, folder)


def _answer(
    words: list[str], environment: Dict[str, str], given: str, within_s: float, folder: Path = ROOT
) -> Any:
    done = subprocess.run(
        words, env=environment, input=given, cwd=folder, capture_output=True, text=True,
        timeout=within_s, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ClientFailed(done.stderr)
    return json.loads(done.stdout) if done.stdout.strip() else None
