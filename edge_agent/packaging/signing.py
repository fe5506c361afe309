"""Signs packages; see `runtime/signature.py` for the format and for whom it is checked."""

from __future__ import annotations

import base64
from pathlib import Path

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.signature import Signature, key_id, library


def sign(manifest: bytes, key_file: Path) -> bytes:
    """Return the content of manifest.sig for manifest.json as it is; the same for the same key.

    `key_file`: a private key as `openssl genpkey -algorithm ed25519` writes it, without passphrase.
    Raises InvalidConfiguration when it can't be used.
    """
    kind = library().Ed25519PrivateKey
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise InvalidConfiguration(f"Signing key {key_file}: {error.strerror}.") from None
    except TypeError:  # says cryptography when there is a passphrase
        raise InvalidConfiguration(
            f"Signing key {key_file} is encrypted. Name /dev/stdin instead and pipe it in: "
            f"openssl pkey -in {key_file} | edge-agent ..."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidConfiguration(
            f"Signing key {key_file} isn't a private key in PEM. "
            "Make one with: openssl genpkey -algorithm ed25519 -out KEY"
        ) from None
    if not isinstance(key, kind):
        raise InvalidConfiguration(
            f"Signing key {key_file} is an {type(key).__name__}; only Ed25519 keys sign packages."
        )
    signature = base64.b64encode(key.sign(manifest)).decode()
    return Signature(key=key_id(key.public_key()), signature=signature).to_json()
