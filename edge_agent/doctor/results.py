"""The ways out of the results: broker, folders, and what a running agent last said of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List

from edge_agent.config import MqttSettings, ResultsSettings
from edge_agent.doctor.findings import MIB, OK, PROBLEM, Finding
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.broker import probe

LEAST_FREE_MIB = 16  # what the outbox needs besides its rows


def found(settings: ResultsSettings) -> List[Finding]:
    """Try the broker, and tell what the agent last said of its results."""
    findings = _mqtt(settings.mqtt) if settings.mqtt.endpoint else []
    lines = Path(settings.lines).parent if settings.lines not in ("", "-") else None
    folders = {"results": settings.folder, "lines": lines, "captures": settings.capture.folder}
    findings += [_folder(name, path) for name, path in folders.items() if path is not None]
    if settings.folder is None:
        return findings
    status = settings.folder / "status.json"
    try:
        told = json.loads(status.read_bytes())
        sinks, disk = dict(told["sinks"]), str(told.get("outbox", {}).get("trouble", ""))
        told_at = told.get("time", "an unknown time")
        findings += [_delivery(name, dict(sink)) for name, sink in sorted(sinks.items())]
    except (FileNotFoundError, NotADirectoryError):
        return findings  # no agent has run
    except OSError as error:
        sentence = f"{status} can't be read: {error.strerror}."
    except (ValueError, TypeError, KeyError):
        sentence = f"{status} isn't what an agent writes; it is replaced when the agent runs."
    else:
        said = disk or "they could be stored"
        sentence = f"{said} (as of {told_at})"
        return [*findings, Finding("results", PROBLEM if disk else OK, sentence)]
    return [*findings, Finding("results", PROBLEM, sentence)]


def _folder(name: str, folder: Path) -> Finding:
    """Look whether this user can write there; a folder that isn't there yet is made."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK):
        return Finding(f"folder of {name}", PROBLEM, f"{there} can't be written by this user")
    free = shutil.disk_usage(there).free // MIB
    detail = f"{folder} has {free} MiB free"
    return Finding(f"folder of {name}", OK if free >= LEAST_FREE_MIB else PROBLEM, detail)


def _delivery(name: str, sink: Dict[str, Any]) -> Finding:
    """Read what a running agent last wrote of one of its sinks."""
    trouble, waiting = str(sink.get("trouble", "")), int(sink.get("waiting", 0))
    detail = f"{trouble} {waiting} results wait" if trouble else f"delivered; {waiting} wait"
    since = f" since {sink['since']}" if trouble and sink.get("since") else ""
    return Finding(f"results to {name}", PROBLEM if trouble else OK, f"{detail}{since}")


def _mqtt(settings: MqttSettings) -> List[Finding]:
    try:
        encrypted = probe.is_encrypted(settings)
    except InvalidConfiguration as error:
        return [Finding("MQTT broker", PROBLEM, str(error))]
    trouble = probe.diagnose(settings)
    where = f"{settings.endpoint}:{settings.port}"
    reached = f"{where} is reached, {'with TLS' if encrypted else 'without TLS'}"
    findings = [Finding("MQTT broker", PROBLEM if trouble else OK, trouble or reached)]
    secrets = {"MQTT key": settings.key, "MQTT PIN": settings.pkcs11_pin_file}
    return findings + [
        _closed(name, file) for name, file in secrets.items() if file and file.exists()
    ]


def _closed(name: str, file: Path) -> Finding:
    if file.stat().st_mode & 0o007:
        detail = f"{file} can be used by every user of this device: chmod o= {file}"
        return Finding(name, PROBLEM, detail)
    return Finding(name, OK, f"{file} is closed to other users")
