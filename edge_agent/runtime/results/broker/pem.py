"""Certificates and keys as people store them, and as the MQTT client takes them.

The client's TLS library wants nothing but certificates in one text and nothing but a key in the
other. In files both may stand together, behind remarks or a byte order mark, or be something else.
"""

from __future__ import annotations

import base64
import getpass
import re
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, NamedTuple

MOST_BYTES = 4 * 1024 * 1024  # a system's bundle of authorities has a quarter of a MiB
CERTIFICATE = b"CERTIFICATE"
KEYS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_ENCRYPTED = (b"ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")
_DER = 0x30  # the first byte of a binary certificate or key

# Object identifiers of keys that the client can't use (RFC 8410, SEC 2) → their names.
_UNUSABLE = {
    bytes.fromhex("06032b6570"): "Ed25519",
    bytes.fromhex("06032b6571"): "Ed448",
    bytes.fromhex("06052b8104000a"): "secp256k1",
}


class Block(NamedTuple):
    """A part of a PEM file with its first and last line."""

    label: bytes
    text: bytes


def certificates(name: str, path: Path) -> List[bytes]:
    """Return the certificates of the setting `name`. Raises ValueError, a sentence."""
    blocks = _blocks(name, path)
    found = [block.text for block in blocks if block.label == CERTIFICATE]
    if found:
        return found
    if any(block.label in KEYS for block in blocks):
        raise ValueError(_unfit(name, path, "it has a key and no certificate"))
    raise ValueError(_unfit(name, path, f"it has no certificate{_others(blocks)}"))


def private_key(name: str, path: Path) -> bytes:
    """Return the key of the setting `name`. Raises ValueError, a sentence."""
    blocks = _blocks(name, path)
    for block in blocks:
        if any(each in block.text for each in _ENCRYPTED):
            why = f"the key is encrypted. Remove the passphrase: openssl pkey -in {path} -out NEW"
            raise ValueError(_unfit(name, path, why))
    found = [block.text for block in blocks if block.label in KEYS]
    if found:
        return found[0]
    if any(block.label == CERTIFICATE for block in blocks):
        raise ValueError(_unfit(name, path, "it has a certificate and no key"))
    raise ValueError(_unfit(name, path, f"it has no private key{_others(blocks)}"))


def unusable_kind(key: bytes) -> str:
    """Return the name of a key's kind if no MQTT client can use it; "": it can, or isn't known."""
    body = b"".join(key.strip().split(b"\n")[1:-1])
    with suppress(ValueError):
        content = base64.b64decode(body)
        return next((kind for mark, kind in _UNUSABLE.items() if mark in content), "")
    return ""


def _blocks(name: str, path: Path) -> List[Block]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
    except PermissionError:
        raise ValueError(
            f"results.mqtt.{name}: {path} can't be read: Permission denied for the user {_user()}. "
            "Give the file to the user that the agent runs as, and let no other read a key."
        ) from None
    except OSError as error:
        raise ValueError(f"results.mqtt.{name}: {path} can't be read: {error.strerror}.") from None
    text = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = text.replace(b" X509 CERTIFICATE-", b" CERTIFICATE-")  # an old spelling
    found = [Block(match[1], match[0] + b"\n") for match in _BLOCK.finditer(text)]
    if found:
        return found
    raise ValueError(_unfit(name, path, _why_empty(content)))


def _why_empty(content: bytes) -> str:
    if not content.strip():
        return "it is empty"
    if content[0] == _DER:
        return "it is binary (DER or PKCS#12); write it as PEM with openssl x509, pkey or pkcs12"
    if b"\0" in content:
        return "it is binary, or text in UTF-16; save it as plain text"
    return "no -----BEGIN ...----- with its -----END ...----- stands in it"


def _unfit(name: str, path: Path, why: str) -> str:
    return f"results.mqtt.{name}: {path} isn't a PEM file without a passphrase: {why}."


def _others(blocks: List[Block]) -> str:
    labels: Dict[str, None] = {block.label.decode(): None for block in blocks}
    return f", but {' and '.join(labels)}"


def _user() -> str:
    with suppress(Exception):  # none has a name: getpass raises several classes
        return getpass.getuser()
    return "unknown"
