"""What one setting may hold: addresses, host names, modes of files, times of day, topics.

Raises ValueError with what came and what was expected; `config` says which setting, and from where.
"""

from __future__ import annotations

import re

from pydantic import AfterValidator, BeforeValidator, Field
from typing_extensions import Annotated

from edge_agent.fields import WrongValue
from edge_agent.protocol import UNIX_SCHEME

LONGEST_SOCKET_PATH = 107  # bytes, on Linux
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ALL_HOSTS = ("0.0.0.0", "::")


def host_and_port(given: object) -> str:
    """Return HOST:PORT unchanged. Raises ValueError for anything else."""
    text = str(given)
    parts = re.fullmatch(r"(\[[^\[\]/\s]+\]|[^\[\]:/\s]+):([0-9]{1,20})", text)
    if not parts:
        raise WrongValue(
            "expected HOST:PORT, such as localhost:8080 or [::1]:8080, or no such setting"
        )
    if not 1 <= int(parts[2]) <= 65535:
        raise WrongValue("the port must be 1 to 65535")
    return text


def host_of(address: str) -> str:
    """Return the host of HOST:PORT."""
    return address.rpartition(":")[0].strip("[]").lower()


def same_port(one: str, other: str) -> bool:
    """Whether two servers can't listen at these addresses, each HOST:PORT."""
    hosts = {"localhost" if host in LOOPBACK else host for host in (host_of(one), host_of(other))}
    is_one = len(hosts) == 1 or not hosts.isdisjoint(ALL_HOSTS)
    return is_one and int(one.rpartition(":")[2]) == int(other.rpartition(":")[2])


def unix_socket(given: object) -> str:
    """Return unix:///PATH unchanged. Raises ValueError for anything else."""
    path = str(given)[len(UNIX_SCHEME) :]
    if not str(given).startswith(UNIX_SCHEME) or not path.startswith("/"):
        raise WrongValue(
            "expected unix:// followed by an absolute path, such as unix:///run/edge-agent.sock"
        )
    size = len(path.encode())
    if size > LONGEST_SOCKET_PATH:
        raise ValueError(f"the path has {size} bytes; Linux allows at most {LONGEST_SOCKET_PATH}")
    return str(given)


def file_mode(given: object) -> str:
    """Return the mode of a file unchanged. Raises ValueError for anything else."""
    if not re.fullmatch("0?[0-7]{3}", str(given)):
        raise WrongValue("expected three digits of 0 to 7, such as 0660")
    return str(given)


def summary_times(given: object) -> str:
    """Return "none", "hour" or times of day unchanged. Raises ValueError for anything else."""
    time = r"([01]\d|2[0-3]):[0-5]\d"
    if not re.fullmatch(f"none|hour|{time}(,{time})*", str(given), re.ASCII):
        raise WrongValue("expected none, hour, or times of day, such as 06:00,14:00,22:00")
    return str(given)


def host_name(text: str, port_setting: str) -> str:
    """Return a host's name or address alone, in lower case, of what people write for it.

    Raises ValueError for more than that; the sentence shows no user and password that came with it.
    """
    scheme, found, rest = text.strip().lower().rpartition("://")
    rest = rest.rstrip("/")
    if not rest or set("/@?# ") & set(rest) or not rest.isprintable():
        raise ValueError("a host name is expected, without mqtt://, user, password or path")
    alone = _without_port(rest)
    if found:
        raise ValueError(
            f"a host name is expected, without {scheme}://: write {alone!r}; with certificate or "
            f"ca the agent speaks MQTT with TLS, on the port of {port_setting}"
        )
    if alone != rest.strip("[]"):
        raise ValueError(
            f"a host name is expected, without a port: write {alone!r}, and the port into "
            f"{port_setting}"
        )
    return alone


def topic_template(text: str) -> str:
    """Return a template of MQTT topics unchanged. Raises ValueError: it can't become a topic."""
    rest = text
    for name in ("{thing}", "{model}", "{kind}", "{verdict}"):  # result...; normal, anomaly
        rest = rest.replace(name, "")
    bad = next((each for each in rest if each in "+#{}" or not each.isprintable()), "")
    if bad or not text:
        came = f"it has the character {bad!r}" if bad else "it is empty"
        raise ValueError(
            f"{came}; a topic has no wildcards + and #, no control characters, and braces only "
            "around thing, model, kind and verdict, which are filled in"
        )
    return text


def _without_port(address: str) -> str:
    """Return the host of HOST, HOST:PORT, [IPv6], [IPv6]:PORT or IPv6."""
    host, colon, _ = address.rpartition(":")
    has_port = colon and (host.endswith("]") or ":" not in host)
    return (host if has_port else address).strip("[]")


Port = Annotated[str, BeforeValidator(host_and_port)]  # of one network interface, or of all
UnixSocket = Annotated[str, BeforeValidator(unix_socket)]
FileMode = Annotated[str, BeforeValidator(file_mode)]
SummaryTimes = Annotated[str, BeforeValidator(summary_times)]
Topic = Annotated[str, Field(max_length=256), AfterValidator(topic_template)]
