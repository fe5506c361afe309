from __future__ import annotations

import json
import logging
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Type

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.runtime.packages.package import Package
from edge_agent.service.buckets import s3
from edge_agent.service.buckets.names import anyone
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.buckets.s3 import S3Buckets
from edge_agent.service.faults import ServiceFault, ValidationFailed
from edge_agent.service.settings import BucketSettings, ServiceSettings
from edge_agent.service.work.packaging import ComponentPlace, Packaging, store
from tests.fakes import micro
from tests.service.buckets.conftest import ALICE, SECRET, s3_client, s3_settings
from tests.service.dataset_site import DatasetSite, line, manifest


def test_a_service_that_does_not_answer_is_a_sentence_and_no_secret_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "TRIES", 1)
    caplog.set_level(logging.DEBUG)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        buckets = open_buckets(tmp_path, s3_settings(tmp_path, endpoint, {}))
        with pytest.raises(ServiceFault, match=r"s3://plant/key can't be reached"):
            buckets.read(ALICE, "plant", "key", 100)
    assert SECRET not in caplog.text
    assert SECRET not in repr(vars(buckets))


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "can't be read: .*No such file"), (" \n", "is empty"), (b"\xff\xfe", "isn't text")],
)
def test_a_secret_that_cannot_be_read_is_refused_at_the_start(
    tmp_path: Path, content: object, problem: str
) -> None:
    file = tmp_path / "secret"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, str):
        file.write_text(content)
    settings = BucketSettings(
        endpoint="http://127.0.0.1:9", access_key="AKIDEXAMPLE", secret_key_file=file
    )
    with pytest.raises(InvalidConfiguration, match=problem):
        open_buckets(tmp_path, settings)


def test_a_key_without_its_secret_is_refused(tmp_path: Path) -> None:
    settings = BucketSettings(endpoint="http://127.0.0.1:9", access_key="AKIDEXAMPLE")
    with pytest.raises(InvalidConfiguration, match="belong together"):
        open_buckets(tmp_path, settings)


def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="settings of buckets"):
        open_buckets(tmp_path, BucketSettings(endpoint="localhost"))


def test_a_dataset_is_imported_from_a_bucket_of_the_service(tmp_path: Path, endpoint: str) -> None:
    client = s3_client(endpoint)
    client.create_bucket(Bucket="factory")
    text = "".join(f"{json.dumps(line(str(number), 'normal'))}\n" for number in range(20))
    client.put_object(Bucket="factory", Key="train.manifest", Body=text.encode())
    site = DatasetSite(tmp_path, open_buckets(tmp_path, s3_settings(tmp_path, endpoint, {})))
    with site.started():
        site("CreateProject")
        for bucket, key, status, message in (
            ("nowhere", "m", "CREATE_FAILED", "The bucket nowhere was not found"),
            ("factory", "m", "CREATE_FAILED", "s3://factory/m was not found"),
            ("factory", "train.manifest", "CREATE_COMPLETE", "The dataset was created."),
        ):
            site("CreateDataset", DatasetType="train", DatasetSource=manifest(bucket, key))
            description = site.wait()
            assert description["Status"] == status
            assert description["StatusMessage"].startswith(message)
            lines = site.lines()
            site("DeleteDataset", DatasetType="train")
        assert lines == text.splitlines()


# components

WANTED = {
    "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
    "S3OutputLocation": {"Bucket": "components", "Prefix": "line-4"},
    "ComponentName": "plant.Bolts",
    "ComponentVersion": "3.0.0",
    "ComponentDescription": "Bolts",
}
PARAMETERS: Dict[str, Any] = {
    "account": ALICE, "project": "bolts", "version": "3", "configuration": WANTED, "part": "1",
}  # fmt: skip


class Failing(S3Buckets):
    """Ends after some objects, as when the power goes."""

    left = 0

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        if not self.left:
            raise ServiceFault("The power went.")
        self.left -= 1
        super().write(account, bucket, key, source)


def keys_of(client: Any) -> List[str]:
    found = client.list_objects_v2(Bucket="components").get("Contents", [])
    return [entry["Key"] for entry in found]


@pytest.fixture(name="client")
def _client(endpoint: str) -> Any:
    """Of a service that has an empty bucket `components`."""
    client = s3_client(endpoint)
    client.create_bucket(Bucket="components")
    for key in keys_of(client):
        client.delete_object(Bucket="components", Key=key)
    return client


@pytest.fixture(name="package")
def _package(tmp_path: Path) -> Path:
    """A trained model."""
    folder = tmp_path / "models" / ALICE / "bolts" / "3"
    micro.write(folder, "classification", name="bolts", version="3")
    return folder


@pytest.mark.usefixtures("package")
def test_a_component_in_a_bucket_of_the_service_is_one_to_deploy(
    tmp_path: Path, endpoint: str, client: Any
) -> None:
    settings = ServiceSettings(buckets=s3_settings(tmp_path, endpoint, {}))
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        made = Packaging(tmp_path, settings).run(PARAMETERS, tmp_path / folder)
        assert made == {"warnings": []}

    for key in keys_of(client):
        file = tmp_path / "copy" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        client.download_file("components", key, str(file))
    component = ComponentFolder.read(tmp_path / "copy" / "line-4" / "plant.Bolts-3.0.0")
    (model,) = component.artifacts().values()
    assert (component.name, component.version) == ("plant.Bolts", "3.0.0")
    assert Package(model).manifest.version == "3"


def test_half_a_component_has_no_recipe_and_is_replaced(
    tmp_path: Path, endpoint: str, client: Any, package: Path
) -> None:
    place = ComponentPlace(WANTED)
    buckets = Failing(s3_settings(tmp_path, endpoint, {}), anyone)
    folder = tmp_path / "work"
    folder.mkdir()
    settings = ServiceSettings(buckets=s3_settings(tmp_path, endpoint, {}))
    Packaging(tmp_path, settings).run(PARAMETERS, folder)
    whole = keys_of(client)
    for key in whole:
        client.delete_object(Bucket="components", Key=key)

    for left in range(len(whole)):
        buckets.left = left
        with pytest.raises(ServiceFault, match="The power went"):
            store(folder / "component", place, buckets, ALICE, "1")
        assert not [key for key in keys_of(client) if "/recipes/" in key]
    buckets.left = len(whole)
    store(folder / "component", place, buckets, ALICE, "1")

    assert keys_of(client) == whole


@pytest.mark.usefixtures("package")
def test_a_bucket_that_the_service_doesnt_have_is_named(tmp_path: Path, endpoint: str) -> None:
    settings = ServiceSettings(buckets=s3_settings(tmp_path, endpoint, {}))
    location = {"S3OutputLocation": {"Bucket": "nowhere"}}
    parameters = {**PARAMETERS, "configuration": {**WANTED, **location}}
    with pytest.raises(ValidationFailed, match="The bucket nowhere was not found"):
        Packaging(tmp_path, settings).run(parameters, tmp_path)


class Unreadable(BaseHTTPRequestHandler):
    """An S3 service whose objects may be written, and not read."""

    written: ClassVar[List[str]] = []

    def do_GET(self) -> None:
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        self.written.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(handler: Type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_component_that_may_not_be_read_is_not_overwritten(tmp_path: Path) -> None:
    made = tmp_path / "component"
    made.mkdir()
    (made / "recipe.yaml").write_text("ComponentName: plant.Bolts")
    with served(Unreadable) as endpoint:
        buckets = S3Buckets(s3_settings(tmp_path, endpoint, {}), anyone)
        with pytest.raises(ValidationFailed, match=r"refused \(AccessDenied\)"):
            store(made, ComponentPlace(WANTED), buckets, ALICE, "1")
    assert Unreadable.written == []


class Endless(BaseHTTPRequestHandler):
    """An S3 service that doesn't say how large an object is; it is without end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        except OSError:
            self.close_connection = True  # the client has gone

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_object_without_an_end_is_refused(tmp_path: Path) -> None:
    with served(Endless) as endpoint:
        buckets = open_buckets(tmp_path, s3_settings(tmp_path, endpoint, {}))
        for use in (
            lambda: buckets.read(ALICE, "plant", "key", 2**21),
            lambda: list(buckets.lines(ALICE, "plant", "key", 2**21)),
            lambda: buckets.fetch(ALICE, "plant", "key", tmp_path, 2**21),
        ):
            with pytest.raises(ValidationFailed, match=r"s3://plant/key is too large"):
                use()
