"""TensorRT's log: its errors and warnings, collected and turned into reasons for people."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Callable, List

from edge_agent.errors import BackendUnavailable
from edge_agent.runtime.backends.trt_api import TrtEnum, TrtModule, TrtObject

log = logging.getLogger(__name__)

UNKNOWN = "it doesn't say why"
MOST_REASONS = 3  # of one failure

_NODE = re.compile(r"While parsing node number (\d+) \[(\w+)")
_CODE = re.compile(r"Error Code \d+: [^(]*\((.*)\)\s*$", re.DOTALL)
_PLACE = re.compile(r"(^|\s+)In \S+ at \S+:\d+")


class TrtMessages:
    """Errors and warnings since `forget`; `on_verbose` may take the other messages."""

    def __init__(self) -> None:
        self.on_verbose: Callable[[str], None] = _ignore
        self.forget()

    def forget(self) -> None:
        """Drop what was logged before."""
        self.errors: List[str] = []
        self.warnings: List[str] = []

    def reason(self) -> str:
        """Return what was wrong, without the places in TensorRT's own source."""
        messages = self.errors[:MOST_REASONS] or self.warnings[-1:]
        return "; ".join(dict.fromkeys(map(_plain, messages))) or UNKNOWN

    def node(self) -> str:
        """Return which node the parser refused: ", node 3, NonZero"."""
        for message in self.errors:
            found = _NODE.search(message)
            if found:
                return ", node {}, {}".format(*found.groups())
        return ""


@lru_cache(maxsize=None)
def logger(trt: TrtModule) -> TrtMessages:
    """Return the logger of the module `trt`.

    Always the same: TensorRT logs everything of a process to the logger that came first.
    """
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger, TrtMessages):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            TrtMessages.__init__(self)

        def log(self, level: TrtEnum, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                self.errors.append(message)
            elif level == severity.WARNING:
                self.warnings.append(message)
                log.info("TensorRT warns: %s", message)
            elif level == severity.VERBOSE:
                self.on_verbose(message)

    return Logger()


def create(trt: TrtModule, kind: str) -> TrtObject:
    """Return an object of the class `kind`, which needs the GPU. Raises BackendUnavailable."""
    messages = logger(trt)
    trt.init_libnvinfer_plugins(messages, "")
    try:
        return getattr(trt, kind)(messages)
    except TypeError:  # pybind11 got no object from the factory
        raise BackendUnavailable(
            f"{release(trt)} can't work on this machine: {messages.reason()}. It needs an NVIDIA "
            "GPU and a driver that is new enough for it."
        ) from None


def release(trt: TrtModule) -> str:
    """Return "TensorRT 8.5.2.2"."""
    return f"TensorRT {trt.__version__}"


def first_line(text: str) -> str:
    """Return the first line of what TensorRT says, without its full stop."""
    return text.strip().splitlines()[0][:300].rstrip(". ") if text.strip() else ""


def _ignore(message: str) -> None:
    """Take no notice."""


def _plain(message: str) -> str:
    found = _CODE.search(message)
    text = _PLACE.sub("", found.group(1) if found else message)
    return first_line(text).split(". ")[0].strip(" ().")
