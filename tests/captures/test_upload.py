"""Captures on their way to S3, which is a fake one on loopback here; boto3 is the real one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from edge_agent.captures.upload import merged
from edge_agent.cli import main
from edge_agent.evaluation.label_manifest import LabelManifest, ManifestOptions
from edge_agent.runtime.results.captures.captured_frame import SAMPLE
from edge_agent.runtime.results.captures.manifest import CaptureManifest
from tests.captures.bucket import PAGE, Bucket
from tests.runtime.results.shots import capturing, mask, shot

TO = "s3://plant/line 3/captures"
KEY = "line 3/captures/"
SECRET = "dummy-secret"


@pytest.fixture(name="bucket")
def _bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "dummy"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none")),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_PROXY", "127.0.0.1"),
    ):
        monkeypatch.setenv(name, value)
    with Bucket("plant") as bucket:
        yield bucket


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "captures"
    with capturing(folder) as capture:
        capture.enqueue(shot(1, mask=mask()))
        capture.enqueue(shot(2, SAMPLE))
    return folder


def upload(folder: Path, bucket: Bucket, *options: str, to: str = TO) -> int:
    words = ["captures", "upload", str(folder), "--to", to, "--endpoint-url", bucket.url]
    return main([*words, *options])


def manifest(bucket: Bucket) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in bucket.objects[KEY + "manifest.jsonl"].splitlines()]


def test_everything_arrives_under_its_own_name(folder: Path, bucket: Bucket) -> None:
    assert upload(folder, bucket) == 0
    files = sorted(path for path in folder.glob("*/*"))
    assert len(files) == 5
    for path in files:
        assert bucket.objects[KEY + path.relative_to(folder).as_posix()] == path.read_bytes()
    assert len(bucket.objects) == 6
    assert bucket.types[KEY + "2026-11-21/bolts-0001.png"] == "image/png"
    first, second = manifest(bucket)
    assert first["source-ref"] == f"{TO}/2026-11-21/bolts-0001.png"
    assert first["anomaly-mask-ref"] == f"{TO}/2026-11-21/bolts-0001.mask.png"
    assert first["edge-agent"]["overlay"] == f"{TO}/2026-11-21/bolts-0001.overlay.jpg"
    assert "anomaly-mask-ref" not in second
    assert bucket.calls[-1] == ("PUT", KEY + "manifest.jsonl")  # names only what is there


def test_the_uploaded_manifest_is_read_beside_a_download(
    folder: Path, bucket: Bucket, tmp_path: Path
) -> None:
    assert upload(folder, bucket) == 0
    download = tmp_path / "download"
    for key, content in bucket.objects.items():
        (download / key).parent.mkdir(parents=True, exist_ok=True)
        (download / key).write_bytes(content)
    read = LabelManifest.read(
        download / KEY / "manifest.jsonl", ManifestOptions(images=download, model="bolts")
    )
    assert read.paths("anomaly") == (download / KEY / "2026-11-21/bolts-0001.png",)
    assert read.paths("normal") == (download / KEY / "2026-11-21/bolts-0002.png",)


def test_an_upload_that_was_cut_short_goes_on_where_it_ended(
    folder: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.breaks_after = 3
    assert upload(folder, bucket, "--delete") == 2
    assert len(list(folder.glob("*/*"))) == 5  # nothing is deleted yet
    bucket.breaks_after = None
    assert upload(folder, bucket) == 0
    sent = [key for key in bucket.puts() if not key.endswith("manifest.jsonl")]
    assert len(sent) == len(set(sent)) == 5
    assert upload(folder, bucket) == 0
    assert len(bucket.puts()) == 5 + 2  # and the manifests
    assert "0 files sent, 5 were there already" in capsys.readouterr().out


def test_more_files_than_a_page_of_the_list_are_all_found(folder: Path, bucket: Bucket) -> None:
    assert upload(folder, bucket) == 0
    assert len(bucket.objects) > PAGE
    before = len(bucket.puts())
    assert upload(folder, bucket) == 0
    assert bucket.puts()[before:] == [KEY + "manifest.jsonl"]


def test_deleted_here_they_stay_in_the_manifest_there(folder: Path, bucket: Bucket) -> None:
    assert upload(folder, bucket, "--delete") == 0
    assert not list(folder.glob("*/*"))
    assert CaptureManifest(folder).captures() == []
    with capturing(folder) as capture:
        capture.enqueue(shot(3))
    assert upload(folder, bucket, "--delete") == 0
    assert [line["edge-agent"]["id"] for line in manifest(bucket)] == ["0001", "0002", "0003"]


def test_a_folder_that_may_not_be_changed_is_a_sentence(
    folder: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    assert upload(folder, bucket, "--delete") == 2
    assert ".lock: Is a directory. Run the command as the agent's user" in capsys.readouterr().err
    assert len(list(folder.glob("*/*"))) == 5


def test_a_label_that_a_person_gave_there_is_not_taken_back() -> None:
    def line(label: str, human: str) -> Dict[str, Any]:
        return {
            "source-ref": "s3://plant/a.png",
            "anomaly-label-metadata": {"class-name": label, "human-annotated": human},
        }

    def encoded(value: Dict[str, Any]) -> bytes:
        return json.dumps(value).encode() + b"\n"

    mine, theirs = line("anomaly", "no"), line("normal", "yes")
    assert merged(encoded(theirs), [mine]) == encoded(theirs)
    assert merged(encoded(mine), [theirs]) == encoded(theirs)
    assert merged(b"torn", [mine]) == b"torn\n" + encoded(mine)


def test_a_bucket_that_is_not_there_is_named(
    folder: Path, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload(folder, bucket, to="s3://plants/x") == 2
    assert "There is no bucket 'plants'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDenied", "need s3:ListBucket, s3:GetObject and s3:PutObject"),
        ("InvalidAccessKeyId", "refused (InvalidAccessKeyId): no"),
    ],
)
def test_a_refusal_says_what_to_do_and_no_secret(
    folder: Path, bucket: Bucket, code: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.refuses = code
    assert upload(folder, bucket) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert SECRET not in told


def test_without_credentials_the_command_says_which_to_set(
    folder: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert upload(folder, bucket) == 2
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense"])
def test_a_store_that_does_not_answer_is_a_sentence(
    folder: Path, bucket: Bucket, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload(folder, bucket, "--endpoint-url", url) == 2
    assert "s3://plant can't be reached" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["plant/x", "s3://", "https://plant.s3.amazonaws.com"])
def test_a_place_that_is_not_in_s3_is_refused(
    folder: Path, bucket: Bucket, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload(folder, bucket, to=to) == 2
    assert "expected s3://BUCKET/PREFIX" in capsys.readouterr().err


def test_without_boto3_the_command_says_what_to_install(
    folder: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setitem(sys.modules, "botocore", None)
    assert upload(folder, bucket) == 2
    assert "pip install 'edge-agent[publish]'" in capsys.readouterr().err
