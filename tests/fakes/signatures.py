"""Ed25519 keys made with the openssl command, and packages signed by them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from edge_agent.packaging.signing import Signer
from edge_agent.runtime.packages.signature import Identity, key_id, library
from tests.fakes.certificates import openssl


def key(folder: Path, name: str, algorithm: str = "ed25519") -> Path:
    """Make the private key NAME.key and return it; NAME.pem is its public key."""
    openssl(folder, "genpkey", "-algorithm", algorithm, "-out", f"{name}.key")
    openssl(folder, "pkey", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pem")
    return folder / f"{name}.key"


def sign(content: bytes, private: Path, component: str = "bolts", version: str = "1.0.0") -> bytes:
    """The content of manifest.sig for a manifest."""
    return Signer(private, Identity(component, version)).sign(content)


def signed(package: Path, private: Path, component: str = "", version: str = "") -> Path:
    """Sign the folder's manifest as it is, and return the folder.

    As the component that the folder is named after, in the model's version, if not named.
    """
    content = (package / "manifest.json").read_bytes()
    version = version or f"{json.loads(content)['version']}.0.0"
    put(package, sign(content, private, component or package.name, version))
    return package


def signed_unbound(package: Path, private: Path) -> Path:
    """Sign in format 1, which says neither of which component nor of which version it is."""
    content = (package / "manifest.json").read_bytes()
    library()  # whose import warns of CPython 3.8
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(private.read_bytes(), password=None)
    values = {
        "algorithm": "Ed25519",
        "key": key_id(key.public_key()),
        "signature": base64.b64encode(key.sign(content)).decode(),  # type: ignore[union-attr, call-arg]
    }
    put(package, json.dumps(values).encode())
    return package


def put(package: Path, content: bytes) -> None:
    """Replace the folder's manifest.sig as a whole."""
    fresh = package / ".manifest.sig.new"
    fresh.write_bytes(content)
    fresh.rename(package / "manifest.sig")
