"""The folder of TensorRT engines that the settings name, else the default one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import List

from edge_agent.config import EngineSettings
from edge_agent.doctor.findings import MIB, MISSING, OK, PROBLEM, Finding
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

WHAT = "engines"


def found(settings: EngineSettings) -> List[Finding]:
    """Tell each engine, and how many are refused or damaged; nothing without a default folder."""
    folder = settings.cache or default_cache()
    missing = Finding(WHAT, MISSING, f"{folder} isn't there yet; it is made with the first one")
    try:
        if not folder.is_dir():
            return [missing] if settings.cache else []
        each = [_engine(path) for path in sorted(folder.glob(f"*{ENGINE}"))]
        return [*each, _sum(folder, settings.cache_mib)]
    except OSError as error:
        return [Finding(WHAT, PROBLEM, f"{folder} can't be read: {error.strerror}")]


def _engine(path: Path) -> Finding:
    what = f"engine {path.stem}"
    try:
        kept = read_json(CachedEngine, path.with_suffix(ABOUT).read_bytes())
    except (OSError, ValueError):
        return Finding(what, PROBLEM, f"{path.with_suffix(ABOUT)} can't be read; it isn't used")
    facts = kept.fingerprint
    unit = "GPU" if facts.dla_core is None else f"DLA core {facts.dla_core} of"
    batches = "/".join(str(profile.maximum[0]) for profile in facts.profiles)
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.built))
    took = f" in {kept.seconds:.0f} s" if kept.seconds else " elsewhere"
    return Finding(
        what,
        OK,
        f"{unit} {facts.gpu}, TensorRT {facts.tensorrt}, {facts.precision}, batches of {batches}, "
        f"{kept.bytes / MIB:.1f} MiB, built {built}{took}",
    )


def _sum(folder: Path, limit_mib: int) -> Finding:
    sizes = [path.stat().st_size for path in folder.glob(f"*{ENGINE}")]
    others = {"refused": f"*{REFUSED}", "damaged": f"*{BAD}", "timing caches": f"{TIMING}*"}
    counts = {words: len(list(folder.glob(pattern))) for words, pattern in others.items()}
    told = "".join(f", {count} {words}" for words, count in counts.items() if count)
    detail = f"{folder}: {len(sizes)} of {sum(sizes) / MIB:.1f} MiB (at most {limit_mib}){told}"
    return Finding(WHAT, OK, detail)
