"""Signs packages; see `runtime/packages/signature.py` for the format and for whom it is checked."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.packages.signature import Identity, Signature, key_id, library

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Signer:
    """Signs a manifest as `identity`.

    `key_file`: a private key as `openssl genpkey -algorithm ed25519` writes it, without passphrase.
    """

    key_file: Path
    identity: Identity

    def sign(self, manifest: bytes) -> bytes:
        """Return the content of manifest.sig for manifest.json as it is; always the same.

        Raises InvalidConfiguration when the key can't be used.
        """
        key = _private_key(self.key_file)
        signature = base64.b64encode(key.sign(self.identity.document(manifest))).decode()
        return Signature(
            format=2,
            component=self.identity.component,
            version=self.identity.version,
            key=key_id(key.public_key()),
            signature=signature,
        ).to_json()


def _private_key(key_file: Path) -> Ed25519PrivateKey:
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
    return key
