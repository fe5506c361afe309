"""Certificates for tests, made with the openssl command; NAME.key and NAME.pem in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

LOCAL = "DNS:localhost,IP:127.0.0.1"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """Make a certificate authority."""
    openssl(
        folder, "req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip


def certificate(folder: Path, issuer: str, name: str, names: str = LOCAL, days: int = 1) -> None:
    """Make a key and a certificate of `issuer` for hosts `names`; `days` below 0: expired."""
    openssl(
        folder, "req", *_KEY, "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.csr",
    )  # fmt: skip
    (folder / "names").write_text(f"subjectAltName={names}")
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.pem",
        "-CAkey", f"{issuer}.key", "-set_serial", "7", "-days", str(days), "-extfile", "names",
        "-out", f"{name}.pem",
    )  # fmt: skip


def every(folder: Path) -> Path:
    """Make all that a broker, its clients and their mistakes need: two authorities and theirs."""
    authority(folder, "ca")
    authority(folder, "stranger")
    certificate(folder, "ca", "server")
    certificate(folder, "ca", "elsewhere", names="DNS:broker.example.com")
    certificate(folder, "ca", "client")
    certificate(folder, "ca", "expired", days=-1)
    certificate(folder, "stranger", "intruder")
    return folder
