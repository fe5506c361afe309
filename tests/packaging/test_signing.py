"""Signatures: made by the packager, verified by the agent and by plain openssl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.errors import InvalidConfiguration, InvalidPackage
from edge_agent.runtime.packages.signature import TrustedKeys
from tests.fakes.certificates import authority, openssl
from tests.fakes.signatures import key, sign

CONTENT = b'{"format": 1}\n'
WHERE = Path("model.zip")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a.key, a.pem, b.key, b.pem (Ed25519), rsa.key, rsa.pem and locked.key."""
    folder = tmp_path_factory.mktemp("keys")
    key(folder, "a")
    key(folder, "b")
    key(folder, "rsa", "rsa")
    openssl(
        folder, "pkey", "-in", "a.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key"
    )  # fmt: skip
    return folder


def test_a_signature_holds_for_its_key_and_content_only(keys: Path) -> None:
    signature = sign(CONTENT, keys / "a.key")
    trusted = TrustedKeys.read(keys / "a.pem")
    trusted.check(WHERE, CONTENT, signature)
    with pytest.raises(InvalidPackage, match=r"manifest\.json was altered after key"):
        trusted.check(WHERE, CONTENT + b" ", signature)
    with pytest.raises(InvalidPackage, match=r"model\.zip isn't signed"):
        trusted.check(WHERE, CONTENT, None)


def test_an_untrusted_key_is_named_beside_those_that_are(keys: Path) -> None:
    trusted = TrustedKeys.read(keys / "a.pem")
    mine, other = sign(CONTENT, keys / "a.key"), sign(CONTENT, keys / "b.key")
    with pytest.raises(InvalidPackage) as error:
        trusted.check(WHERE, CONTENT, other)
    assert f"signed by key {json.loads(other)['key']}, which isn't trusted" in str(error.value)
    assert f"models.trusted_keys: {json.loads(mine)['key']}." in str(error.value)


def test_a_signature_that_claims_a_trusted_key_is_refused(keys: Path) -> None:
    mine, other = sign(CONTENT, keys / "a.key"), json.loads(sign(CONTENT, keys / "b.key"))
    claimed = json.dumps({**other, "key": json.loads(mine)["key"]}).encode()
    with pytest.raises(InvalidPackage, match="was altered after key"):
        TrustedKeys.read(keys / "a.pem").check(WHERE, CONTENT, claimed)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"algorithm": "none", "key": "", "signature": ""}']
)
def test_what_isnt_a_signature_is_refused(keys: Path, content: bytes) -> None:
    with pytest.raises(InvalidPackage, match=r"model\.zip: manifest\.sig isn't a signature"):
        TrustedKeys.read(keys / "a.pem").check(WHERE, CONTENT, content)


def test_the_same_key_and_content_give_the_same_bytes(keys: Path) -> None:
    assert sign(CONTENT, keys / "a.key") == sign(CONTENT, keys / "a.key")


def test_several_keys_are_trusted_from_one_file_or_a_folder(keys: Path, tmp_path: Path) -> None:
    """To change keys, trust both for a while."""
    one = tmp_path / "both"
    one.write_bytes((keys / "a.pem").read_bytes() + (keys / "b.pem").read_bytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.pem", "b.pem"):
        (folder / name).write_bytes((keys / name).read_bytes())
    (folder / "README").write_text("not a key")
    for place in (one, folder):
        trusted = TrustedKeys.read(place)
        for name in ("a.key", "b.key"):
            trusted.check(WHERE, CONTENT, sign(CONTENT, keys / name))


def refusal(path: Path) -> str:
    with pytest.raises(InvalidConfiguration) as error:
        TrustedKeys.read(path)
    return str(error.value)


def test_trusted_keys_that_cant_be_used_are_refused_with_their_file(
    keys: Path, tmp_path: Path
) -> None:
    authority(tmp_path, "ca")
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "broken.pem").write_text(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    )
    (tmp_path / "empty").mkdir()
    for path, words in (
        (keys / "a.key", "a.key holds a private key, which must not be on a device"),
        (keys / "locked.key", "locked.key holds a private key"),
        (keys / "rsa.pem", "rsa.pem holds an RSAPublicKey; only Ed25519"),
        (tmp_path / "ca.pem", "ca.pem holds a CERTIFICATE that can't be read"),
        (tmp_path / "broken.pem", "broken.pem holds a PUBLIC KEY that can't be read"),
        (tmp_path / "text.pem", "text.pem holds no key in PEM"),
        (tmp_path / "empty", "holds no *.pem file"),
        (tmp_path / "gone.pem", "gone.pem: No such file or directory"),
    ):
        assert words in refusal(path)


def test_signing_keys_that_cant_be_used_are_refused_without_showing_them(
    keys: Path, tmp_path: Path
) -> None:
    for path, words in (
        (keys / "a.pem", "isn't a private key in PEM"),
        (keys / "rsa.key", "is an RSAPrivateKey; only Ed25519"),
        (keys / "locked.key", "is encrypted"),
        (tmp_path / "gone.key", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(InvalidConfiguration) as error:
            sign(CONTENT, path)
        assert words in str(error.value)
        assert str(path) in str(error.value)
        assert "-----" not in str(error.value)


def test_an_encrypted_key_signs_through_a_pipe(keys: Path) -> None:
    """The way that its refusal names."""
    code = (
        "import pathlib, sys; from tests.fakes.signatures import sign; "
        f"sys.stdout.buffer.write(sign({CONTENT!r}, pathlib.Path('/dev/stdin')))"
    )
    unlock = ["openssl", "pkey", "-in", str(keys / "locked.key"), "-passin", "pass:secret"]
    plain = subprocess.run(unlock, capture_output=True, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=plain.stdout, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == sign(CONTENT, keys / "a.key")


def test_plain_openssl_verifies_what_was_signed(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(CONTENT)
    (tmp_path / "manifest.sig").write_bytes(sign(CONTENT, keys / "a.key"))
    verify = (
        """said() {{ sed -n 's/.*"'$1'": *"\\([^"]*\\)".*/\\1/p' manifest.sig; }}; """
        """said signature | base64 -d > raw.sig; """
        """printf 'edge-agent package 2\\n%s\\n%s\\n%s\\n' "$(said component)" "$(said version)" """
        """"$(sha256sum < manifest.json | cut -c -64)" > signed.txt; """
        "openssl pkeyutl -verify -pubin -inkey {} -rawin -in signed.txt -sigfile raw.sig"
    )
    good = subprocess.run(
        ["sh", "-c", verify.format(keys / "a.pem")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (good.returncode, "Verified Successfully" in good.stdout) == (0, True), good.stderr
    other = subprocess.run(
        ["sh", "-c", verify.format(keys / "b.pem")],
        cwd=tmp_path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode != 0


def test_the_name_of_a_key_can_be_worked_out_by_hand(keys: Path) -> None:
    """The raw public key is the last 32 bytes of its DER."""
    line = (
        f"openssl pkey -pubin -in {keys / 'a.pem'} -outform DER | tail -c 32 | sha256sum | "
        "cut -c -16"
    )
    found = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == json.loads(sign(CONTENT, keys / "a.key"))["key"]


def test_without_cryptography_the_sentence_says_what_to_install(keys: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from edge_agent.config import ModelsSettings\n"
        "from edge_agent.runtime.packages.deployments import Store\n"
        "Store(ModelsSettings())\n"
        f"Store(ModelsSettings(trusted_keys=Path({str(keys / 'a.pem')!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "InvalidConfiguration: Signatures need the package cryptography" in done.stderr
    assert "pip install 'edge-agent[signing]'" in done.stderr


def test_cryptography_is_loaded_only_where_keys_are_trusted() -> None:
    code = (
        "import sys; import edge_agent.runtime.app, edge_agent.packaging.signing\n"
        "assert not [name for name in sys.modules if name.startswith('cryptography')]"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
