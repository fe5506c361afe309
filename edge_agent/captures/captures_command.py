"""`edge-agent captures`: list the frames that an agent captured, or upload them to S3."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import List

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.errors import InvalidRequest
from edge_agent.runtime.results.captures.captured_frame import IMAGE_KEY, OWN_KEY, Line
from edge_agent.runtime.results.captures.manifest import FILE_NAME, CaptureManifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `captures`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = actions.add_parser("list", help="what was captured, oldest first")
    list_.add_argument("--json", action="store_true", help="the lines of the manifest as they are")
    upload = actions.add_parser("upload", help="copy images, masks, overlays and the manifest")
    for action in (list_, upload):
        action.add_argument("folder", type=Path, help="results.capture.folder of the agent")
    upload.add_argument("--to", required=True, metavar="s3://BUCKET/PREFIX")
    upload.add_argument("--endpoint-url", metavar="URL", help="of a store other than Amazon S3")
    upload.add_argument("--delete", action="store_true", help="here, once all of it is there")


def run(arguments: argparse.Namespace) -> int:
    """List or upload."""
    if not (arguments.folder / FILE_NAME).is_file():
        raise InvalidRequest(
            f"{arguments.folder} has no {FILE_NAME}; name the agent's results.capture.folder."
        )
    try:
        return _upload(arguments) if arguments.action == "upload" else _list(arguments)
    except OSError as error:
        raise InvalidRequest(
            f"{error.filename}: {error.strerror}. Run the command as the agent's user."
        ) from None


def _list(arguments: argparse.Namespace) -> int:
    captures = CaptureManifest(arguments.folder).captures()
    lines = [line for line in captures if (arguments.folder / line[IMAGE_KEY]).is_file()]
    if arguments.json:
        sys.stdout.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        Console().print(_table(lines))
    return 0


def _table(lines: List[Line]) -> Table:
    table = Table("time, UTC", "model", "reason", "verdict", "score")
    table.add_column("file", overflow="fold")  # whole, so that it can be copied
    for line in lines:
        own = line[OWN_KEY]
        time = datetime.fromtimestamp(own.get("time", 0), timezone.utc)
        table.add_row(
            f"{time:%H:%M:%S}",
            escape(f"{own.get('model')} {own.get('version')}"),
            escape(str(own.get("reason"))),
            escape(str(own.get("verdict"))),
            f"{own.get('score', 0):.3f}",
            escape(line[IMAGE_KEY]),
        )
    return table


def _upload(arguments: argparse.Namespace) -> int:
    from edge_agent.captures.upload import S3Location, upload

    console = Console(soft_wrap=True, markup=False, highlight=False)
    location = S3Location.parse(arguments.to)
    done = upload(arguments.folder, location, arguments.endpoint_url, arguments.delete)
    console.print(
        f"{done.captures} captures are in {arguments.to}: {done.sent} files sent, "
        f"{done.there} were there already."
    )
    return 0
