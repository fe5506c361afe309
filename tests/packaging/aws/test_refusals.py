"""AWS that says no, or nothing: boto3 over real sockets, a scripted service at the other end."""

from __future__ import annotations

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from edge_agent.cli import main
from edge_agent.packaging.aws import session
from edge_agent.packaging.aws.session import BAD_CREDENTIALS, refusal
from tests.packaging.aws.cloud import SECRET, THING, TOKEN, folder

DEPLOY = ["deploy", "--target-arn", THING, "--component", "plant.Bolts=1.0.0", "--wait-s", "0"]
Answer = Tuple[int, str, Dict[str, Any]]
OK: Answer = (200, "", {"deployments": [], "deploymentId": "new"})


class Service(ThreadingHTTPServer):
    """Gives its answers in turn, the last one for ever; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: List[Answer] = [OK]
        self.asked: List[Tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, body))
        answers = self.server.answers
        status, code, fields = answers.pop(0) if len(answers) > 1 else answers[0]
        content = json.dumps(fields).encode() if self.command != "HEAD" else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("x-amzn-ErrorType", code)
        if status == 301:
            self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(name="service")
def _service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
        monkeypatch.setattr(session, "TRIES", 2)
        yield service
        service.shutdown()
        thread.join()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that AWS refuses; its sentence, free of secrets."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    for secret in (SECRET, TOKEN):
        assert secret not in captured.out + captured.err
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDeniedException", "need greengrass:ListDeployments. AWS: why"),
        (400, "ValidationException", "refused ListDeployments (ValidationException): why"),
        (402, "ServiceQuotaExceededException", "(ServiceQuotaExceededException): why"),
        (403, "ExpiredTokenException", "AWS rejects these credentials (ExpiredTokenExc"),
        (403, "UnrecognizedClientException", "renew them, or use others"),
    ],
)
def test_a_refusal_is_a_sentence(
    service: Service, capsys: pytest.CaptureFixture[str], status: int, code: str, sentence: str
) -> None:
    service.answers = [(status, code, {"message": "why"})]
    assert sentence in refused(capsys, *DEPLOY)


def test_fields_that_failed_are_named(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    fields = [{"name": "components", "message": "plant.Bolts isn't deployable"}]
    answer = {"message": "Invalid.", "reason": "FIELD_VALIDATION_FAILED", "fields": fields}
    service.answers = [OK, (400, "ValidationException", answer)]
    assert refused(capsys, *DEPLOY).endswith(
        "refused CreateDeployment (ValidationException): Invalid. components: plant.Bolts isn't "
        "deployable.\n"
    )


def test_a_throttled_call_is_tried_again_with_the_same_token(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers = [OK, (429, "ThrottlingException", {"message": "slower"}), OK]
    assert main(DEPLOY) == 0
    first, second = (json.loads(body) for method, _, body in service.asked if method == "POST")
    assert first == second
    assert first["clientToken"]


def test_throttled_for_good_is_a_sentence(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers = [(429, "ThrottlingException", {"message": "slower"})]
    assert "gets too many calls (ThrottlingException)" in refused(capsys, *DEPLOY)
    assert len(service.asked) == 2


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "s3://plant denies access: these credentials need s3:ListBucket."),
        (404, "There is no s3://plant; create the bucket"),
        (301, "s3://plant is in another region"),
    ],
)
def test_a_bucket_that_refuses_is_a_sentence(
    service: Service,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    sentence: str,
) -> None:
    service.answers = [(status, "", {})]
    words = ["publish", str(folder(tmp_path / "c")), "--bucket", "plant"]
    assert sentence in refused(capsys, *words)


def test_no_endpoint_is_a_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = refused(capsys, *DEPLOY)
    assert "AWS IoT Greengrass can't be reached: Could not connect to the endpoint" in error
    assert "Check the network and --region" in error


def test_an_endpoint_that_never_answers_is_a_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "ANSWER_WITHIN_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "Read timeout on endpoint URL" in refused(capsys, *DEPLOY)


def test_no_credentials_are_a_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert "There are no AWS credentials" in refused(capsys, *DEPLOY)
    assert service.asked == []


def test_no_region_is_a_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "There is no AWS region: name it with --region" in refused(capsys, *DEPLOY)
    assert main([*DEPLOY, "--region", "eu-west-1"]) == 0


def test_an_unknown_profile_or_region_is_a_sentence(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "profile (absent) could not be found" in refused(capsys, *DEPLOY, "--profile", "absent")
    assert "Correct --region" in refused(capsys, *DEPLOY, "--region", "no region")


def test_without_boto3_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("boto3", "botocore"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "need boto3: pip install 'edge-agent[publish]'" in refused(capsys, *DEPLOY)


@pytest.mark.parametrize("code", BAD_CREDENTIALS)
def test_what_aws_quotes_of_a_signed_request_is_not_passed_on(code: str) -> None:
    answer = {"Error": {"Code": code, "Message": f"x-amz-security-token:{TOKEN}"}}
    assert TOKEN not in refusal("AWS STS", "GetCallerIdentity", answer)
