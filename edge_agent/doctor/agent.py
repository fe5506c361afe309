"""What an agent's settings name: its models, its engines, its broker, what it last reported."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import List, Mapping

from edge_agent.config import EngineSettings, ModelsSettings, ResultsSettings
from edge_agent.doctor import MIB, MISSING, OK, PROBLEM, CheckResult
from edge_agent.errors import EdgeAgentError, InvalidConfiguration
from edge_agent.fields import read_json
from edge_agent.runtime.engines.cache import (
    ABOUT,
    BAD,
    ENGINE,
    REFUSED,
    TIMING,
    CachedEngine,
    default_cache,
)
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.results import sinks
from edge_agent.runtime.results.broker import probe, trial
from edge_agent.runtime.system.machine_clock import clock_error

LEAST_FREE_MIB = 16  # what the outbox needs besides its rows
ENGINES = "engines"


def models(settings: ModelsSettings) -> List[CheckResult]:
    """List what is served, and what in the folders of models isn't, and why."""
    logging.disable()  # all of it is returned
    try:
        store = Store(settings)
        found = [_model(each) for _, each in sorted(store.scan().items())]
    finally:
        logging.disable(logging.NOTSET)
    for finding in store.findings:
        state = PROBLEM if finding.is_fault or finding.model else MISSING
        found.append(CheckResult(f"models: {finding.path.name}", state, finding.sentence))
    return found


def _model(registration: Registration) -> CheckResult:
    what = f"model {registration.name}"
    try:
        registration.open().check_sizes()
    except EdgeAgentError as error:
        return CheckResult(what, PROBLEM, str(error))
    return CheckResult(what, OK, f"served from {registration.package}")


def engines(settings: EngineSettings) -> List[CheckResult]:
    """List the engines and count refused and damaged ones; nothing without a default folder."""
    folder = settings.cache or default_cache()
    missing = CheckResult(
        ENGINES, MISSING, f"{folder} doesn't exist yet; the first engine creates it"
    )
    try:
        if not folder.is_dir():
            return [missing] if settings.cache else []
        each = [_engine(path) for path in sorted(folder.glob(f"*{ENGINE}"))]
        return [*each, _sum(folder, settings.cache_mib)]
    except OSError as error:
        return [CheckResult(ENGINES, PROBLEM, f"{folder} can't be read: {error.strerror}")]


def _engine(path: Path) -> CheckResult:
    what = f"engine {path.stem}"
    try:
        kept = read_json(CachedEngine, path.with_suffix(ABOUT).read_bytes())
    except (OSError, ValueError):
        return CheckResult(
            what, PROBLEM, f"{path.with_suffix(ABOUT)} can't be read; the engine isn't used"
        )
    facts = kept.fingerprint
    unit = "GPU" if facts.dla_core is None else f"DLA core {facts.dla_core} of"
    batches = "/".join(str(profile.maximum[0]) for profile in facts.profiles)
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.built))
    took = f" in {kept.seconds:.0f} s" if kept.seconds else " elsewhere"
    return CheckResult(
        what,
        OK,
        f"{unit} {facts.gpu}, TensorRT {facts.tensorrt}, {facts.precision}, batches of {batches}, "
        f"{kept.bytes / MIB:.1f} MiB, built {built}{took}",
    )


def _sum(folder: Path, limit_mib: int) -> CheckResult:
    sizes = [path.stat().st_size for path in folder.glob(f"*{ENGINE}")]
    others = {"refused": f"*{REFUSED}", "damaged": f"*{BAD}", "timing caches": f"{TIMING}*"}
    counts = {words: len(list(folder.glob(pattern))) for words, pattern in others.items()}
    others_found = "".join(f", {count} {words}" for words, count in counts.items() if count)
    detail = (
        f"{folder}: {len(sizes)} of {sum(sizes) / MIB:.1f} MiB (at most {limit_mib}){others_found}"
    )
    return CheckResult(ENGINES, OK, detail)


def results(settings: ResultsSettings) -> List[CheckResult]:
    """Try the broker and the folders, and read what the agent last reported of its results."""
    wrong = clock_error(time.time())
    found = [CheckResult("clock", PROBLEM, wrong)] if wrong else []
    found += _mqtt(settings) if settings.mqtt.endpoint else _names(settings)
    lines = Path(settings.lines).parent if settings.lines not in ("", "-") else None
    folders = {"results": settings.folder, "lines": lines, "captures": settings.capture.folder}
    found += [_folder(name, path) for name, path in folders.items() if path is not None]
    if settings.folder is None:
        return found
    status = settings.folder / "status.json"
    try:
        report = json.loads(status.read_bytes())
        sinks, failure = dict(report["sinks"]), str(report.get("outbox", {}).get("trouble", ""))
        reported_at = report.get("time", "an unknown time")
        found += [_delivery(name, dict(sink)) for name, sink in sorted(sinks.items())]
        parts = dict(report.get("agent", {}))
        found += [_part(name, dict(part)) for name, part in sorted(parts.items())]
    except (FileNotFoundError, NotADirectoryError):
        return found  # no agent has run yet
    except OSError as error:
        sentence = f"{status} can't be read: {error.strerror}."
    except (ValueError, TypeError, KeyError):
        sentence = f"{status} isn't in the agent's format; a running agent replaces it."
    else:
        sentence = f"{failure or 'stored without errors'} (reported at {reported_at})"
        return [*found, CheckResult("results", PROBLEM if failure else OK, sentence)]
    return [*found, CheckResult("results", PROBLEM, sentence)]


def _names(settings: ResultsSettings) -> List[CheckResult]:
    """Check the names in topics, which `_mqtt` does as well."""
    try:
        sinks.thing_name(settings)
    except InvalidConfiguration as error:
        return [CheckResult("topics", PROBLEM, str(error))]
    return []


def _folder(name: str, folder: Path) -> CheckResult:
    """Check that this user can write there; the agent creates a folder that doesn't exist."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        detail = f"this user has no right to write to {existing}"
        return CheckResult(f"folder of {name}", PROBLEM, detail)
    free = shutil.disk_usage(existing).free // MIB
    detail = f"{folder} has {free} MiB free"
    return CheckResult(f"folder of {name}", OK if free >= LEAST_FREE_MIB else PROBLEM, detail)


def _delivery(name: str, sink: Mapping[str, object]) -> CheckResult:
    """Read what a running agent last reported of one of its sinks."""
    failure, waiting = str(sink.get("trouble", "")), sink.get("waiting", 0)
    detail = f"{failure} {waiting} results wait" if failure else f"delivered; {waiting} wait"
    since = f" since {sink['since']}" if failure and sink.get("since") else ""
    return CheckResult(f"results to {name}", PROBLEM if failure else OK, f"{detail}{since}")


def _part(name: str, part: Mapping[str, object]) -> CheckResult:
    """Read what a running agent last reported of another part of it."""
    failure = str(part.get("trouble", ""))
    detail = f"{failure} (since {part.get('since')})" if failure else "as it should be"
    return CheckResult(f"agent's {name}", PROBLEM if failure else OK, detail)


def _mqtt(settings: ResultsSettings) -> List[CheckResult]:
    mqtt = settings.mqtt
    try:
        encrypted = probe.is_encrypted(mqtt)
        name = sinks.client_id(mqtt, sinks.thing_name(settings))
        outcome = trial.connect(mqtt, name)
    except InvalidConfiguration as error:
        return [CheckResult("MQTT broker", PROBLEM, str(error))]
    connected = f"connected to {probe.address(mqtt)} {'with TLS' if encrypted else 'without TLS'}"
    remark = f"; {outcome.remark}" if outcome.remark else ""
    state = PROBLEM if outcome.problem else OK
    broker = CheckResult("MQTT broker", state, outcome.problem or f"{connected}{remark}")
    secrets = {"MQTT key": mqtt.key, "MQTT PIN": mqtt.pkcs11_pin_file}
    return [
        broker,
        *[_permissions(name, file) for name, file in secrets.items() if file and file.exists()],
    ]


def _permissions(name: str, file: Path) -> CheckResult:
    if file.stat().st_mode & 0o007:
        detail = f"every user of this device can read or change {file}: chmod o= {file}"
        return CheckResult(name, PROBLEM, detail)
    return CheckResult(name, OK, f"other users can't read {file}")
