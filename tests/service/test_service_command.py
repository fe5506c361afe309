"""`edge-agent service` as a user types it: keys, start, stop, and what is in its way."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.cli import main
from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import ACCESS_KEYS
from tests import ROOT
from tests.service.auth.signing import signed
from tests.service.running import COMMAND, RunningService, free_port


def keys(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["service", "keys", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["service", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_key_is_printed_with_its_secret_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "root"
    added: Dict[str, str] = json.loads(keys(capsys, "add", "--root", str(root), "--json"))
    assert set(added) == {"AccessKeyId", "SecretAccessKey", "Account", "CreateDate"}
    assert added["Account"] == "123456789012"
    plain = keys(capsys, "add", "--root", str(root), "--account", "210987654321")
    assert re.search(r"^AccessKeyId: AKIA[A-Z2-7]{16}$", plain, re.MULTILINE)
    assert re.search(r"^SecretAccessKey: \S{40}$", plain, re.MULTILINE)
    listed: List[Dict[str, str]] = json.loads(keys(capsys, "list", "--root", str(root), "--json"))
    assert [key["Account"] for key in listed] == ["123456789012", "210987654321"]
    assert all(set(key) == {"AccessKeyId", "Account", "CreateDate"} for key in listed)
    other = keys(capsys, "list", "--root", str(root), "--account", "210987654321")
    assert other.startswith(f"AccessKeyId: {listed[1]['AccessKeyId']}  Account: 210987654321")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "records.db").stat().st_mode) == 0o600


def test_the_key_of_another_account_comes_with_a_warning_about_buckets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warning(*words: str) -> str:
        assert main(["service", "keys", *words, "--root", str(tmp_path), "--json"]) == 0
        captured = capsys.readouterr()
        json.loads(captured.out)
        return captured.err

    assert warning("add") == warning("add") == ""
    said = warning("add", "--account", "210987654321")
    assert said.startswith("Warning: There are 2 accounts: 123456789012, 210987654321. A bucket is")
    assert '{"buckets": {"accounts": {"BUCKET": ["123456789012"]}}}' in said
    assert warning("add", "--account", "210987654321") == warning("list") == ""


def test_a_removed_key_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--root", str(tmp_path))
    key = json.loads(keys(capsys, "add", *root, "--json"))["AccessKeyId"]
    of_another = ("keys", "remove", *root, key, "--account", "210987654321")
    assert f"There is no access key {key}." in refused(capsys, *of_another)
    assert json.loads(keys(capsys, "remove", *root, key, "--json"))["AccessKeyId"] == key
    assert json.loads(keys(capsys, "list", *root, "--json")) == []
    assert f"There is no access key {key}." in refused(capsys, "keys", "remove", *root, key)


@pytest.mark.parametrize("account", ["", "12345678901", "1234567890123", "12345678901a", "१" * 12])
def test_an_account_has_twelve_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], account: str
) -> None:
    words = ("keys", "add", "--root", str(tmp_path / "root"), "--account", account)
    assert "12 digits are expected, such as 123456789012." in refused(capsys, *words)


def test_files_that_were_open_to_others_are_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    (root / "buckets" / "plant").mkdir(parents=True)
    (root / "records.db").touch()
    root.chmod(0o755)
    (root / "records.db").chmod(0o644)
    keys(capsys, "add", "--root", str(root))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "records.db").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chown(tmp_path, 12345, 12345)
    assert "belongs to user 12345" in refused(capsys, "keys", "list", "--root", str(tmp_path))


def test_help_names_both_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["service", "--help"])
    shown = capsys.readouterr().out
    assert "serve" in shown
    assert "keys" in shown


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "sqlalchemy"])
def test_a_missing_extra_is_named(tmp_path: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; "
        f"from edge_agent.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "service", "serve", "--root", str(tmp_path / "root")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"'{missing}' isn't installed" in done.stderr
    assert "pip install 'edge-agent[service]'" in done.stderr


OLD_PYTHON = ROOT / ".venv-3.8" / "bin" / "python"


@pytest.mark.skipif(not OLD_PYTHON.exists(), reason="no CPython 3.8 in .venv-3.8")
@pytest.mark.parametrize("action", ["serve", "keys list"])
def test_an_older_python_gets_a_sentence(tmp_path: Path, action: str) -> None:
    words = [str(OLD_PYTHON), "-m", "edge_agent", "service", *action.split(), "--root"]
    done = subprocess.run(
        [*words, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "edge-agent service needs CPython 3.10 or newer; this is 3.8." in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_service_says_where_it_listens_and_stops_when_it_is_asked(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with RunningService(tmp_path) as running:
            assert running.process is not None
            running.process.send_signal(number)
            assert running.process.wait(60) == 0
    log = running.log()
    assert f"listens on {running.endpoint}\n" in log
    assert f"export AWS_ENDPOINT_URL_LOOKOUTVISION={running.endpoint}\n" in log
    assert f"edge-agent service keys add --root {running.root}\n" in log
    assert "Traceback" not in log


def test_a_call_in_progress_is_answered_before_the_service_stops(tmp_path: Path) -> None:
    with RunningService(tmp_path) as running:
        assert running.process is not None
        user = running.user()
        key = AccessKey(user.access_key, "123456789012", user.secret_key, 0.0)
        request = signed(body=b"{}", key=key, endpoint=user.endpoint)
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
        head = f"POST {request.raw_path} HTTP/1.1\r\n{lines}Content-Length: 2\r\n"
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as caller:
            caller.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert b" 100 " in caller.recv(1000)  # the service waits for the body
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                running.process.wait(0.3)
            caller.sendall(b"{}")
            assert b" 400 " in caller.recv(1000)
        assert running.process.wait(60) == 0


def serve(root: Path, *words: str) -> Any:
    command = [*COMMAND, "serve", "--root", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_folder_has_one_service_and_a_port_one_server(tmp_path: Path) -> None:
    with RunningService(tmp_path) as running:
        second = serve(running.root, "--listen", f"127.0.0.1:{free_port()}")
        assert (second.returncode, "in use by another service" in second.stderr) == (2, True)
        other = serve(tmp_path / "other", "--listen", f"127.0.0.1:{running.port}")
        assert other.returncode == 2
        assert "can't listen on 127.0.0.1" in other.stderr
        assert "Stop what listens there" in other.stderr


@pytest.mark.parametrize("content", ["no certificate", None])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, content: str) -> None:
    for name in ("server.pem", "server.key"):
        if content:
            (tmp_path / name).write_text(content)
    config = tmp_path / "service.json"
    config.write_text(
        json.dumps(
            {
                "tls_certificate": str(tmp_path / "server.pem"),
                "tls_key": str(tmp_path / "server.key"),
            }
        )
    )
    done = serve(tmp_path / "root", "--config", str(config), "--listen", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "server.pem" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_idle_service_loads_nothing_heavy() -> None:
    code = (
        "import sys, edge_agent.service.app\n"
        "heavy = {'numpy', 'cv2', 'onnx', 'onnxruntime', 'grpc', 'boto3', 'edge_agent.training'}\n"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_keys_lie_in_the_records_where_only_their_user_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added = json.loads(keys(capsys, "add", "--root", str(tmp_path), "--json"))
    records = Records(tmp_path / "records.db")
    with records.read() as transaction:
        row = transaction.connection.execute(ACCESS_KEYS.select()).one()
    records.close()
    assert (row.id, row.secret) == (added["AccessKeyId"], added["SecretAccessKey"])
