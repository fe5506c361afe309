"""Ed25519 keys made with the openssl command, and packages signed by them."""

from __future__ import annotations

from pathlib import Path

from edge_agent.packaging.signing import sign
from tests.certificates import openssl


def key(folder: Path, name: str, algorithm: str = "ed25519") -> Path:
    """Make the private key NAME.key and return it; NAME.pem is its public key."""
    openssl(folder, "genpkey", "-algorithm", algorithm, "-out", f"{name}.key")
    openssl(folder, "pkey", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pem")
    return folder / f"{name}.key"


def signed(package: Path, private: Path) -> Path:
    """Sign the folder's manifest as it is, and return the folder."""
    fresh = package / ".manifest.sig.new"
    fresh.write_bytes(sign((package / "manifest.json").read_bytes(), private))
    fresh.rename(package / "manifest.sig")
    return package
