"""The engines built on this device, found by their fingerprint.

Files of the folder, ID being the fingerprint's:
    ID.engine       an engine; the time of its change is that of its last use
    ID.json         `CachedEngine`: the facts; stays when the engine goes, to say what changed
    ID.engine.bad   a damaged one, to be looked at
    timing-NAME     what builders measured, for the next build
    build-*         builds under way
    ID-JUDGED.refused  why an engine gave other results than its model, by what it was judged by
Processes may share the folder: each holds its lock while it reads or changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.errors import BuildFailed
from edge_agent.fields import Strict, read_json
from edge_agent.runtime.backends.fingerprint import Digest, Fingerprint
from edge_agent.runtime.engines.disk_errors import storing
from edge_agent.runtime.system import files
from edge_agent.runtime.system.data_files import make_folder, modes_in

log = logging.getLogger(__name__)

ENGINE, ABOUT, BAD, REFUSED = ".engine", ".json", ".engine.bad", ".refused"
TIMING, WORKPLACE = "timing-", "build-"
MOST_RECORDS = 200  # of engines that are gone


class CachedEngine(Strict):
    """Stands in ID.json.

    sha256, bytes: of the engine. built: seconds since 1970. seconds: how long building took, 0.0
    when it wasn't built here. made: what it was built for, if that is known to be another.
    """

    fingerprint: Fingerprint
    made: Optional[Fingerprint] = None
    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]
    built: float
    seconds: Annotated[float, Field(ge=0.0)]


class EngineCache:
    """Owns `folder`, at most `limit_bytes` of engines, the last one apart; any thread may use it.

    It needn't exist. Nothing can be stored where it can't be written, and nothing is found then.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def find(self, wanted: Fingerprint) -> Optional[Path]:
        """Return the engine's file; None when there is none, or only a damaged one.

        A compatible one is used further after an upgrade; from then on it's the one wanted.
        """
        try:
            with self._locked():
                return self._find(wanted) or self._take_over(wanted)
        except OSError as error:
            log.warning("The engine %s can't be read: %s", wanted.id, error)
            return None

    def why_not(self, wanted: Fingerprint) -> str:
        """Say how the nearest engine of the same model differs; empty: there is none."""
        nearest = self._nearest(self._of_model(wanted), wanted)
        return nearest.fingerprint.differences(wanted) if nearest else ""

    def expected_s(self, wanted: Fingerprint) -> Optional[float]:
        """Return how long building the most similar engine for this model and GPU took."""
        built = [
            entry
            for entry in self._of_model(wanted)
            if entry.seconds and entry.fingerprint.gpu == wanted.gpu
        ]
        nearest = self._nearest(built, wanted)
        return nearest.seconds if nearest else None

    def store(
        self,
        wanted: Fingerprint,
        engine: Path,
        seconds: float,
        made: Optional[Fingerprint] = None,
    ) -> Path:
        """Take the file `engine` over; others that were used longest ago make room.

        seconds: how long building took. made: see `CachedEngine`. Raises BuildFailed when it
        can't be stored.
        """
        with storing(self._folder), self._locked(create=True):
            entry = CachedEngine(
                fingerprint=wanted,
                made=made,
                sha256=_sha256(engine),
                bytes=engine.stat().st_size,
                built=time.time(),
                seconds=seconds,
            )
            path = self._store_entry(entry, engine)
            self._make_room(path)
        return path

    def quarantine(self, wanted: Fingerprint, why: str) -> None:
        """Put a damaged engine aside; it isn't found any more."""
        with self._locked():
            self._put_aside(wanted, why)

    def drop(self, wanted: Fingerprint) -> None:
        """Delete the engine."""
        with suppress(OSError), self._locked():
            self._path(wanted, ENGINE).unlink()

    def is_taken_over(self, wanted: Fingerprint) -> bool:
        """Whether the engine was built for another machine or release."""
        entry = self._read(self._path(wanted, ABOUT))
        return entry is not None and entry.made not in (None, wanted)

    def timing(self, name: str) -> Path:
        """Return the path of the timing cache `name`; there needn't be a file."""
        return self._folder / f"{TIMING}{name}"

    def store_timing(self, name: str, file: Path) -> None:
        """Take the file over as the timing cache `name`. Raises BuildFailed."""
        with storing(self._folder), self._locked(create=True):
            _store(file, self.timing(name))

    def forget_timing(self, name: str) -> None:
        """Delete a timing cache that may be damaged."""
        with suppress(OSError):
            self.timing(name).unlink()

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """Lend a folder for one build, on the same disk; it's gone afterwards.

        What builds left behind that nobody ended goes now. Raises BuildFailed.
        """
        with storing(self._folder), self._locked(create=True):
            for left in self._folder.glob(f"{WORKPLACE}*"):
                _remove_unused(left)
            folder = Path(tempfile.mkdtemp(prefix=WORKPLACE, dir=self._folder))
            lock = _open_folder(folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    @contextmanager
    def _locked(self, create: bool = False) -> Iterator[None]:
        if create:
            make_folder(self._folder)
        try:
            folder = _open_folder(self._folder)
        except FileNotFoundError:
            yield  # nothing to be found
            return
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _find(self, wanted: Fingerprint) -> Optional[Path]:
        path = self._path(wanted, ENGINE)
        entry = self._read(self._path(wanted, ABOUT))
        if entry is None or not path.exists():
            return None
        damage = _damage(path, entry)
        if damage:
            self._put_aside(wanted, damage)
            return None
        with suppress(OSError):
            os.utime(path)
        return path

    def _take_over(self, wanted: Fingerprint) -> Optional[Path]:
        """Make another engine that serves as well the one that is wanted."""
        for entry in self._of_model(wanted):
            old, made = entry.fingerprint, entry.made or entry.fingerprint
            engine = self._find(old) if made.serves(wanted) else None
            if engine is not None:
                log.info("Engine %s is used further: %s", engine.name, old.differences(wanted))
                changes = {"fingerprint": wanted, "made": made, "seconds": 0.0}
                return self._store_entry(entry.model_copy(update=changes), engine)
        return None

    def _store_entry(self, entry: CachedEngine, engine: Path) -> Path:
        path = self._path(entry.fingerprint, ENGINE)
        _store(engine, path)
        content = (entry.model_dump_json(indent=2) + "\n").encode()
        mode = modes_in(self._folder).file
        files.write_atomically(path.with_suffix(ABOUT), content, mode=mode)
        return path

    def _path(self, wanted: Fingerprint, suffix: str) -> Path:
        return self._folder / f"{wanted.id}{suffix}"

    def _read(self, path: Path) -> Optional[CachedEngine]:
        try:
            return read_json(CachedEngine, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s can't be read and is ignored: %s", path, error)
            return None

    def _of_model(self, wanted: Fingerprint) -> List[CachedEngine]:
        found = map(self._read, self._folder.glob(f"*{ABOUT}"))
        return [entry for entry in found if entry and entry.fingerprint.model == wanted.model]

    def _nearest(self, among: List[CachedEngine], wanted: Fingerprint) -> Optional[CachedEngine]:
        return min(
            among,
            key=lambda entry: (len(entry.fingerprint.changed(wanted)), -entry.built),
            default=None,
        )

    def _put_aside(self, wanted: Fingerprint, why: str) -> None:
        bad = self._path(wanted, BAD)
        log.warning("Engine %s isn't used any more (now %s): %s", wanted.id, bad.name, why)
        try:
            self._path(wanted, ENGINE).replace(bad)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s can't be renamed: %s", self._path(wanted, ENGINE), error)

    def _make_room(self, newest: Path) -> None:
        """Delete what was used longest ago until the limit holds; damaged ones go first."""
        large = [*self._folder.glob(f"*{ENGINE}"), *self._folder.glob(f"*{BAD}")]
        large.sort(key=lambda path: (path.name.endswith(ENGINE), path.stat().st_mtime))
        sizes = {path: path.stat().st_size for path in large if path != newest}
        over = sum(sizes.values()) + newest.stat().st_size - self._limit_bytes
        for path, size in sizes.items():
            if over <= 0:
                break
            log.info("%s is deleted to make room for newer engines", path.name)
            path.unlink()
            over -= size
        records = [
            path for path in self._folder.glob(f"*{ABOUT}") if not path.with_suffix(ENGINE).exists()
        ]
        records.sort(key=lambda path: path.stat().st_mtime)
        for path in records[:-MOST_RECORDS]:
            path.unlink()


class RefusedEngines:
    """Engines that gave other results than their model, remembered after restarts.

    Lies in the cache's `folder`; any thread may use it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: Dict[str, str] = {}  # also where the disk doesn't take it

    def add(self, wanted: Fingerprint, judged: str, why: str) -> None:
        """Never use this engine again."""
        path = self._path(wanted, judged)
        self._known[path.name] = why
        try:
            with storing(self._folder):
                make_folder(self._folder)
                mode = modes_in(self._folder).file
                files.write_atomically(path, why.encode(), mode=mode)
        except BuildFailed as error:
            log.warning("The engine %s is refused until the agent restarts: %s", wanted.id, error)

    def find(self, wanted: Fingerprint, judged: str) -> str:
        """Return why it's never to be used; empty when it may be."""
        path = self._path(wanted, judged)
        if path.name in self._known:
            return self._known[path.name]
        with suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace")
        return ""

    def _path(self, wanted: Fingerprint, judged: str) -> Path:
        return self._folder / f"{wanted.id}-{judged}{REFUSED}"


def default_cache() -> Path:
    """Return the folder for agents whose settings name none."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if base.startswith("~"):  # a user without a home, or without a name
        base = "/var/cache"
    return Path(base) / "edge-agent" / "engines"


def _store(file: Path, path: Path) -> None:
    """Move `file` to `path`, replacing it as a whole; from another disk it's copied."""
    mode = modes_in(path.parent).file
    if file.stat().st_dev == path.parent.stat().st_dev:
        files.move(file, path, mode=mode)
    else:
        with file.open("rb") as content, files.replacing(path, mode=mode) as copy:
            shutil.copyfileobj(content, copy)


def _open_folder(folder: Path) -> int:
    """Return a file descriptor, for locks."""
    return os.open(folder, files.FOLDER_FLAGS)


def _damage(path: Path, entry: CachedEngine) -> str:
    size = path.stat().st_size
    if size != entry.bytes:
        return f"it has {size} bytes, and had {entry.bytes} when it was stored."
    return "" if _sha256(path) == entry.sha256 else "its bytes have changed since it was stored."


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _remove_unused(folder: Path) -> None:
    """Remove a folder of a build unless its process holds it."""
    try:
        lock = _open_folder(folder)
    except FileNotFoundError:  # its process was quicker
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
