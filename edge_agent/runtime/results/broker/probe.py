"""Why an MQTT client can't reach its broker: a diagnosis with Python's own sockets.

The MQTT client reports a certificate it can't verify late (after 10 to 30 s) or not at all, and
never the reason; here the same connection is tried up to the TLS handshake.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from edge_agent.config import MqttSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.broker import pem
from edge_agent.runtime.system.machine_clock import clock_error

log = logging.getLogger(__name__)

WITHIN_S = 5.0  # for each of: the connection, the handshake
MOST_PIN_BYTES = 256
ALERT_WITHIN_S = 1.0  # TLS 1.3 refuses a client certificate only after the handshake
AWS_ALPN = "x-amzn-mqtt-ca"  # how AWS IoT Core knows MQTT on port 443
_LOCAL = ("localhost", "127.0.0.1", "::1")

# Words of OpenSSL's name of an alert → what the broker says about the client's certificate.
_ALERTS = {
    "CERTIFICATE_EXPIRED": "has expired (or the broker's clock is wrong); renew it",
    "CERTIFICATE_REVOKED": "was revoked; get a new one",
    "UNKNOWN_CA": "isn't of an authority that the broker trusts",
    "CERTIFICATE_REQUIRED": "is missing: the broker asks for one (certificate and key)",
    "CERTIFICATE": "isn't accepted by the broker",
    "HANDSHAKE_FAILURE": "is missing, or broker and client have no cipher in common",
}
_PARTIAL_CHAIN = ssl.VerifyFlags(0x80000)  # X509_V_FLAG_PARTIAL_CHAIN; CPython 3.10 names it
# X509_V_ERR_... of openssl/x509_vfy.h
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def is_encrypted(settings: MqttSettings) -> bool:
    """Whether the connection uses TLS: always, but to a broker on this machine without files.

    Raises InvalidConfiguration for a broker elsewhere with neither certificate nor CA.
    """
    if settings.certificate or settings.ca:
        return True
    if settings.endpoint in _LOCAL:
        return False
    raise InvalidConfiguration(
        f"results.mqtt.endpoint {settings.endpoint!r} needs results.mqtt.certificate and key, or "
        "at least ca; MQTT without TLS is only for a broker on localhost."
    )


def host(settings: MqttSettings) -> str:
    """Return where to connect: without TLS to this machine, whatever "localhost" is resolved to."""
    endpoint = str(settings.endpoint)
    is_plain = not (settings.certificate or settings.ca)
    return "127.0.0.1" if is_plain and endpoint == "localhost" else endpoint


def address(settings: MqttSettings) -> str:
    """Return endpoint and port for sentences."""
    shown = f"[{settings.endpoint}]" if ":" in str(settings.endpoint) else settings.endpoint
    return f"{shown}:{settings.port}"


def files(settings: MqttSettings) -> Dict[str, Path]:
    """Return the files of the connection by the name of their setting."""
    named = {
        "certificate": settings.certificate,
        "key": settings.key,
        "ca": settings.ca,
        "pkcs11_pin_file": settings.pkcs11_pin_file,
    }
    return {name: path for name, path in named.items() if path}


def stamps(settings: MqttSettings) -> List[Tuple[str, int]]:
    """Return the files' modification times."""
    found = []
    for name, path in files(settings).items():
        with suppress(OSError):
            found.append((name, path.stat().st_mtime_ns))
    return found


def pin(settings: MqttSettings) -> str:
    """Return the token's PIN, of the file if one is set. Raises OSError."""
    if settings.pkcs11_pin_file is None:
        return settings.pkcs11_pin.get_secret_value()
    with settings.pkcs11_pin_file.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o007:
            name = settings.pkcs11_pin_file
            log.warning("%s holds a PIN and can be read by others: chmod o= %s", name, name)
        return file.read(MOST_PIN_BYTES).decode("utf-8", "replace").partition("\n")[0].rstrip("\r")


class TlsTexts(NamedTuple):
    """What the files hold, as PEM; empty: there is no such file."""

    certificates: bytes = b""
    key: bytes = b""
    authorities: bytes = b""


def tls_texts(settings: MqttSettings) -> TlsTexts:
    """Read the files of the connection. Raises ValueError, a sentence: one can't be used."""
    own = pem.certificates("certificate", settings.certificate) if settings.certificate else []
    key = pem.private_key("key", settings.key) if settings.key else b""
    authorities = pem.certificates("ca", settings.ca) if settings.ca else []
    if settings.pkcs11_pin_file:
        try:
            settings.pkcs11_pin_file.open("rb").close()
        except OSError as error:
            raise ValueError(
                f"results.mqtt.pkcs11_pin_file: {settings.pkcs11_pin_file} can't be read: "
                f"{error.strerror}."
            ) from None
    try:
        _context(settings)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(_misfit(settings, own, str(error))) from None
    return TlsTexts(b"".join(own), key, b"".join(authorities))


def unusable_files(settings: MqttSettings) -> str:
    """Say what is wrong with the certificate files; "" when they can be used."""
    try:
        tls_texts(settings)
    except ValueError as error:
        return str(error)
    return ""


def key_remark(settings: MqttSettings) -> str:
    """Say that the key is of a kind that can't be used, a sentence; "": nothing is known of it."""
    kind = ""
    if settings.key:
        with suppress(ValueError):
            kind = pem.unusable_kind(pem.private_key("key", settings.key))
    if not kind:
        return ""
    return (
        f"results.mqtt.key: {settings.key} is an {kind} key, which the AWS IoT SDK can't use. Get "
        "a key and certificate with RSA, or with the elliptic curve P-256, P-384 or P-521."
    )


def _misfit(settings: MqttSettings, certificates: List[bytes], error: str) -> str:
    """Say why files that have what they need can't be used together."""
    order = (
        f" If they belong together, put the client's own certificate first in "
        f"{settings.certificate}, before those of its authorities."
    )
    if "MISMATCH" in error:
        sentence = f"The key {settings.key} doesn't belong to the certificate of results.mqtt."
        return sentence + (order if len(certificates) > 1 else "")
    every = (settings.certificate, settings.key, settings.ca)
    listed = ", ".join(str(path) for path in every if path)
    return (
        f"{listed}: one of these is damaged, or the key doesn't belong to the certificate of "
        "results.mqtt."
    )


def diagnose(settings: MqttSettings) -> str:
    """Try to reach the broker; say what is wrong, "": TCP and TLS work. Takes up to 10 s.

    With a key in a token the client's own certificate isn't tried.
    """
    where = address(settings)
    unusable = unusable_files(settings)
    if unusable:
        return unusable
    try:
        with socket.create_connection((host(settings), settings.port), WITHIN_S) as plain:
            return _greet(plain, settings) if is_encrypted(settings) else ""
    except (socket.gaierror, UnicodeError):
        return (
            f"The name of the MQTT broker, {settings.endpoint!r}, can't be resolved. "
            "Check results.mqtt.endpoint and the name service (DNS) of this device."
        )
    except ConnectionRefusedError:
        return (
            f"Nothing listens on {where} (connection refused). "
            "Is the MQTT broker running, and results.mqtt.port right?"
        )
    except socket.timeout:
        return (
            f"No answer from {where} within {WITHIN_S:.0f} s. "
            "Is there a firewall between them, or is the network down?"
        )
    except OSError as error:
        return f"The MQTT broker {where} can't be reached: {error.strerror or error}."


def _context(settings: MqttSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    # No stricter than the MQTT client: CPython 3.13 asks for extensions that private authorities
    # leave out, older ones for the whole chain up to a self-signed authority.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= _PARTIAL_CHAIN
    if settings.certificate and settings.key:
        # An empty passphrase: an encrypted key is an error, not a question on the terminal.
        context.load_cert_chain(str(settings.certificate), str(settings.key), password="")
    if settings.port == 443:
        context.set_alpn_protocols([AWS_ALPN])
    return context


def _greet(plain: socket.socket, settings: MqttSettings) -> str:
    where = address(settings)
    context = _context(settings)
    try:
        with context.wrap_socket(plain, server_hostname=settings.endpoint) as encrypted:
            encrypted.settimeout(ALERT_WITHIN_S)
            return "" if settings.pkcs11_library else _verdict(encrypted, where)
    except ssl.SSLCertVerificationError as error:
        return _distrust(error, settings)
    except socket.timeout:
        return (
            f"{where} accepts connections but doesn't answer within {WITHIN_S:.0f} s. "
            "Is it an MQTT broker with TLS, and results.mqtt.port right?"
        )
    except (ssl.SSLEOFError, ConnectionError):
        return f"{where} closes the connection at once. Does it speak TLS on this port?"
    except ssl.SSLError as error:
        return "" if settings.pkcs11_library else _refusal(error, settings, where)


def _verdict(encrypted: ssl.SSLSocket, where: str) -> str:
    """Wait for the broker to refuse the certificate; one that accepts waits for our CONNECT."""
    try:
        encrypted.recv(1)
    except socket.timeout:
        return ""
    return f"{where} closes the connection after the TLS handshake: it may refuse the certificate."


def _distrust(error: ssl.SSLCertVerificationError, settings: MqttSettings) -> str:
    where = address(settings)
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        return (
            f"The certificate of {where} is for another host name. Set results.mqtt.endpoint to "
            "a name in the certificate, or give the broker a certificate for this one."
        )
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        if wrong_clock := clock_error(time.time()):
            return f"{wrong_clock} Until then the certificate of {where} isn't valid."
        return (
            f"The certificate of {where} isn't valid today ({error.verify_message}). "
            "Is the clock of this device right?"
        )
    source = str(settings.ca) if settings.ca else "the system's authorities (results.mqtt.ca)"
    return (
        f"The certificate of {where} can't be verified with {source}: {error.verify_message}. "
        "results.mqtt.ca must hold the authority that signed the broker's certificate."
    )


def _refusal(error: ssl.SSLError, settings: MqttSettings, where: str) -> str:
    reason = error.reason or str(error)
    if "WRONG_VERSION_NUMBER" in reason:
        return f"{where} answers, but not with TLS. Is results.mqtt.port right?"
    remark = key_remark(settings)
    if remark and "ALERT" in reason:
        return remark
    for words, sentence in _ALERTS.items():
        if "ALERT" in reason and words in reason:
            mine = f"The client certificate {settings.certificate or ''}".rstrip()
            return f"{mine} {sentence} (answer of {where})."
    return f"TLS with {where} fails: {reason}."
