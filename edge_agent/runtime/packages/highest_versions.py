"""The highest signed version that this device has served of each component, kept over restarts.

An older package, which was signed once and may be known as faulty since, is refused.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Dict, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.errors import InvalidPackage
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN, VERSION_PATTERN
from edge_agent.runtime.packages.signature import Identity
from edge_agent.runtime.system import private_files
from edge_agent.runtime.system.files import write_atomically

log = logging.getLogger(__name__)

VERSIONS_FILE = "versions.json"  # in results.folder
MOST_BYTES = 4 * 1024 * 1024


class _Served(Strict):
    component: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]


class _File(Strict):
    components: Tuple[_Served, ...]


class ServedVersions:
    """The highest versions by component; with a `path` of None they end with the process."""

    def __init__(self, path: Optional[Path] = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._highest: Dict[str, Identity] = _read(path) if path else {}

    def check(self, package: Path, identity: Identity) -> None:
        """Raise InvalidPackage when a higher version of the component was served before."""
        highest = self._highest.get(identity.component)
        if highest is None or identity.order >= highest.order:
            return
        raise InvalidPackage(
            f"{package} is {identity}, older than version {highest.version}, which this device has "
            f"served. Deploy {highest.version} or newer. To go back on purpose set "
            'models.allow_downgrade, or "allow_downgrade": true in the model\'s record.'
        )

    def served(self, identity: Identity) -> None:
        """Store the version if it is the highest; if that fails, remember it until the end."""
        with self._lock:
            highest = self._highest.get(identity.component)
            if highest is not None and identity.order <= highest.order:
                return
            self._highest = {**self._highest, identity.component: identity}
            try:
                self._write()
            except OSError as error:
                log.error(  # noqa: TRY400 - the disk's fault, no traceback needed
                    "%s can't be written (%s). After a restart the agent won't know that %s was "
                    "served.",
                    self._path, error.strerror, identity,
                )  # fmt: skip

    def _write(self) -> None:
        """Replace the file as a whole; a power cut leaves the old or the new one."""
        if self._path is None:
            return
        served = tuple(
            _Served(component=each.component, version=each.version)
            for each in self._highest.values()
        )
        content = _File(components=served).model_dump_json(indent=2) + "\n"
        self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
        write_atomically(self._path, content.encode())


def _read(path: Path) -> Dict[str, Identity]:
    try:
        served = read_json(_File, private_files.read(path, MOST_BYTES)).components
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 - the file's fault, no traceback needed
            "%s can't be read (%s): older versions of signed models are accepted again. Restore "
            "the file, or remove it.", path, error,
        )  # fmt: skip
        return {}
    return {each.component: Identity(each.component, each.version) for each in served}
