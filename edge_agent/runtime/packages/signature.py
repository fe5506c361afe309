"""Whose packages this device accepts, and as what: `manifest.sig` against models.trusted_keys.

manifest.sig is JSON: {"format": 2, "algorithm": "Ed25519", "component": name of the model component
that the package is, "version": of that component, "key": first 16 hex digits of the sha-256 of the
raw public key, "signature": base64 of the 64 bytes of RFC 8032 over `Identity.document`}.

Format 1 has no format, component and version; its signature is over manifest.json as it is. So it
proves who signed a package, but neither what it is nor how old.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, List, Mapping, Optional, Tuple

from pydantic import Field, model_validator
from typing_extensions import Annotated, Literal

from edge_agent import manifest
from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN, VERSION_PATTERN

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FILE_NAME = "manifest.sig"
LIMIT_BYTES = 4096
SETTING = "models.trusted_keys"
UNBOUND_SETTING = "models.allow_unbound_signatures"
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class Identity:
    """What a package was signed as: a model component and its version, such as 1.2.0."""

    component: str
    version: str

    def __str__(self) -> str:
        return f"{self.component} {self.version}"

    @property
    def order(self) -> Tuple[int, ...]:
        """The numbers that versions are compared by."""
        return tuple(int(part) for part in self.version.split("."))

    def document(self, content: bytes) -> bytes:
        """Return what is signed for `content`, manifest.json as it is: four lines of ASCII."""
        digest = hashlib.sha256(content).hexdigest()
        return f"edge-agent package 2\n{self.component}\n{self.version}\n{digest}\n".encode()


class Signature(Strict):
    """The content of manifest.sig."""

    format: Literal[1, 2] = 1
    algorithm: Literal["Ed25519"] = "Ed25519"
    component: Optional[Annotated[str, Field(pattern=NAME_PATTERN)]] = None
    version: Optional[Annotated[str, Field(pattern=VERSION_PATTERN)]] = None
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]

    @model_validator(mode="after")
    def _whole(self) -> Signature:
        given = [value is not None for value in (self.component, self.version)]
        if given != [self.format == 2] * 2:
            raise ValueError("component and version belong to format 2, and only to it")
        return self

    @property
    def identity(self) -> Optional[Identity]:
        """What the package was signed as; None for format 1."""
        if self.component is None or self.version is None:
            return None
        return Identity(self.component, self.version)

    def to_json(self) -> bytes:
        """Serialise; reading it back gives an equal signature."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True)
class TrustedKeys:
    """Ed25519 public keys by their id; one of them must have signed a package.

    allow_unbound: signatures of format 1 are accepted as well.
    """

    keys: Mapping[str, Ed25519PublicKey]
    allow_unbound: bool = False

    @classmethod
    def read(cls, path: Path, allow_unbound: bool = False) -> TrustedKeys:
        """Read a PEM file, or all *.pem of a folder. Raises InvalidConfiguration."""
        try:
            files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
            keys = [key for file in files for key in _public_keys(file, file.read_bytes())]
        except OSError as error:
            raise InvalidConfiguration(f"{SETTING}: {error.filename}: {error.strerror}.") from None
        if not keys:
            raise InvalidConfiguration(f"{SETTING}: the folder {path} holds no *.pem file.")
        return cls({key_id(key): key for key in keys}, allow_unbound)

    def check(
        self, package: Path, content: bytes, signature_file: Optional[bytes]
    ) -> Optional[Identity]:
        """Return what a trusted key signed `content`, manifest.json as it is, as.

        None for an allowed signature of format 1. Raises InvalidPackage when none signed it.
        """
        trusted = f"Trusted by {SETTING}: {', '.join(sorted(self.keys))}."
        if signature_file is None:
            raise InvalidPackage(
                f"{package} isn't signed: it has no {FILE_NAME}. Package it again with a signing "
                f"key. {trusted}"
            )
        try:
            signature = read_json(Signature, signature_file)
        except ValueError as error:
            raise InvalidPackage(f"{package}: {FILE_NAME} isn't a signature: {error}") from None
        key = self.keys.get(signature.key)
        if key is None:
            raise InvalidPackage(
                f"{package} is signed by key {signature.key}, which isn't trusted here. {trusted} "
                "Sign it with one of these, or add that key and restart the agent."
            )
        _verify(package, key, signature, content)
        if signature.identity is None and not self.allow_unbound:
            raise InvalidPackage(
                f"{package}: {FILE_NAME} has format 1, which names neither the component nor "
                "the version of the package. Package and sign it again with this release of "
                f"edge-agent, or set {UNBOUND_SETTING}."
            )
        return signature.identity


def key_id(public_key: Ed25519PublicKey) -> str:
    """Return the id of an Ed25519 public key: 16 hex digits."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def _verify(package: Path, key: Ed25519PublicKey, signature: Signature, content: bytes) -> None:
    from cryptography.exceptions import InvalidSignature

    identity = signature.identity
    document = identity.document(content) if identity else content
    try:
        key.verify(base64.b64decode(signature.signature), document)
    except InvalidSignature:
        raise InvalidPackage(
            f"{package}: {manifest.FILE_NAME} was altered after key {signature.key} signed "
            f"it, or {FILE_NAME} belongs to another package. Deploy the original again."
        ) from None


def library() -> ModuleType:
    """Return cryptography's module of Ed25519 keys. Raises InvalidConfiguration without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of CPython 3.8
            from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InvalidConfiguration(
            f"Signatures need the package cryptography ({error}); install it with: "
            "pip install 'edge-agent[signing]'"
        ) from None
    found: ModuleType = ed25519
    return found


def _public_keys(file: Path, content: bytes) -> List[Ed25519PublicKey]:
    blocks = [(match[0], match[1].decode()) for match in _PEM.finditer(content)]
    if not blocks:
        raise InvalidConfiguration(f"{SETTING}: {file} holds no key in PEM.")
    return [_public_key(file, block, label) for block, label in blocks]


def _public_key(file: Path, block: bytes, label: str) -> Ed25519PublicKey:
    if "PRIVATE" in label:
        raise InvalidConfiguration(
            f"{SETTING}: {file} holds a private key, which must not be on a device. Put its public "
            "key there instead: openssl pkey -in PRIVATE -pubout -out PUBLIC"
        )
    kind = library().Ed25519PublicKey
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidConfiguration(
            f"{SETTING}: {file} holds a {label} that can't be read; "
            "write public keys with: openssl pkey -in PRIVATE -pubout -out PUBLIC"
        ) from None
    if not isinstance(key, kind):
        raise InvalidConfiguration(
            f"{SETTING}: {file} holds an {type(key).__name__}; only Ed25519 keys are taken."
        )
    return key
