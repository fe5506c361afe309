"""DetectAnomalies: pictures in, verdicts out, and every way in which it can't be done."""

from __future__ import annotations

import base64
import os
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, Type

import cv2
import numpy as np
import pytest

from edge_agent import errors
from edge_agent.client import segment
from edge_agent.manifest import FILE_NAME, parse
from edge_agent.runtime.vision.picture_files import encode, jpeg, png
from edge_agent.service.faults import Conflict, ServiceFault, Throttled, ValidationFailed
from edge_agent.service.hosting import hosted_model, hosted_models, runtime_process
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.hosting.pictures import pixels_of
from edge_agent.service.operations import detection
from edge_agent.service.operations.detection import Detection
from edge_agent.types import Prediction
from tests.fakes import golden
from tests.service.aws import needs_aws
from tests.service.hosted import HostingService, picture, runtimes
from tests.service.running import RunningService

CLASSIFICATION, SEGMENTATION = 1, 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostingService]:
    """Hosts a classification model, and a segmentation model with two to three units."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
        with HostingService(tmp_path_factory.mktemp("service")) as running:
            for version, task in (
                (CLASSIFICATION, "classification"),
                (SEGMENTATION, "segmentation"),
            ):
                running.add_model(task, version)
            running.call("start_model", CLASSIFICATION, MinInferenceUnits=1)
            running.call("start_model", SEGMENTATION, MinInferenceUnits=2, MaxInferenceUnits=3)
            for version in (CLASSIFICATION, SEGMENTATION):
                running.wait_for("HOSTED", version)
            yield running


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_of = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_of)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def test_a_classification_model_answers_without_areas(service: HostingService) -> None:
    found = service.detect(picture(200), CLASSIFICATION)
    assert found.keys() == {"Source", "IsAnomalous", "Confidence"}
    assert found["Source"] == {"Type": "direct"}
    assert found["IsAnomalous"]
    assert found["Confidence"] == pytest.approx(200 / 255, abs=1e-3)
    normal = service.detect(picture(100), CLASSIFICATION)
    assert not normal["IsAnomalous"]
    assert normal["Confidence"] == pytest.approx(1 - 100 / 255, abs=1e-3)


def test_a_segmentation_model_answers_with_areas_and_a_mask(service: HostingService) -> None:
    found = service.detect(png(golden.BAD), SEGMENTATION)
    areas = {each["Name"]: each["PixelAnomaly"] for each in found["Anomalies"]}
    assert next(iter(areas)) == "background"
    assert areas.keys() == {"background", "scratch"}
    assert sum(area["TotalPercentageArea"] for area in areas.values()) == pytest.approx(1.0)
    assert found["AnomalyMask"].startswith(b"\x89PNG")
    mask = cv2.imdecode(np.frombuffer(found["AnomalyMask"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert mask.shape == golden.BAD.shape
    for area in areas.values():
        color = tuple(bytes.fromhex(area["Color"][1:]))
        share = (mask == color).all(axis=2).mean()
        assert share == pytest.approx(area["TotalPercentageArea"], abs=1e-6)


def test_a_picture_without_anomalies_has_the_background_alone(service: HostingService) -> None:
    found = service.detect(png(golden.draw(70, 50)), SEGMENTATION)
    assert [each["Name"] for each in found["Anomalies"]] == ["background"]
    assert not found["IsAnomalous"]


def test_a_jpeg_is_judged_as_its_png_and_whatever_its_type_says(service: HostingService) -> None:
    for kind in ("image/jpeg", "image/png", "IMAGE/JPEG; q=1"):
        found = service.detect(jpeg(golden.draw_even(200), 95), CLASSIFICATION, kind)
        assert found["Confidence"] == pytest.approx(200 / 255, abs=0.02)


@pytest.mark.parametrize("kind", ["image/gif", "application/octet-stream", "png", ""])
def test_another_content_type_is_refused(service: HostingService, kind: str) -> None:
    with pytest.raises(ValidationFailed, match="image/jpeg or image/png"):
        service.detect(picture(200), CLASSIFICATION, kind)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 4096), (4096, 64)])
def test_sizes_at_the_limits_are_judged(service: HostingService, width: int, height: int) -> None:
    found = service.detect(png(noise(width, height)), SEGMENTATION)
    mask = cv2.imdecode(np.frombuffer(found["AnomalyMask"], np.uint8), cv2.IMREAD_COLOR)
    assert mask.shape == (height, width, 3)


BROKEN: Dict[str, bytes] = {
    "it is empty": b"",
    "isn't PNG": b"no picture",
    "it is a BMP file; expected JPEG or PNG": encode(".bmp", noise(64, 64)),
    "it is 63x64 pixels": png(noise(63, 64)),
    "it is 64x63 pixels": png(noise(64, 63)),
    "it is 4097x64 pixels": png(noise(4097, 64)),
    "it is 64x4097 pixels": jpeg(noise(64, 4097), 50),
    "it is 60000x60000 pixels": png_header(60000, 60000),
    "it can't be read as an image": png_header(64, 64),
    "a part of the PNG is missing": png(noise(64, 64))[:-20],
    "a part of the JPEG is missing": jpeg(noise(200, 200), 90)[:-1000],
    "the end of the JPEG's data is missing": jpeg(noise(200, 200), 90)[:-1000] + b"\xff\xd9",
    "expected at most 8 MiB": png(noise(64, 64)) + bytes(8 << 20),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_picture_that_cannot_be_used_is_refused_with_a_sentence(
    service: HostingService, sentence: str
) -> None:
    with pytest.raises(ValidationFailed, match="The image in Body can't be used: ") as raised:
        service.detect(BROKEN[sentence], CLASSIFICATION)
    assert sentence in str(raised.value)


def test_the_largest_file_is_taken(service: HostingService) -> None:
    whole = png(noise(64, 64))
    assert service.detect(whole + bytes((8 << 20) - len(whole)), CLASSIFICATION)["Source"]


def test_a_camera_problem_is_the_verdict_that_the_runtime_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", raising=False)
    with HostingService(tmp_path) as service:
        service.add_model("segmentation")
        service.host()
        found = service.detect(png(np.zeros((80, 90, 3), np.uint8)))
    assert (found["IsAnomalous"], found["Confidence"]) == (True, 1.0)
    assert [each["Name"] for each in found["Anomalies"]] == ["background", "black"]


def test_concurrent_calls_get_the_verdicts_of_their_own_pictures(service: HostingService) -> None:
    reds = [value % 256 for value in range(0, 4096, 17)]
    with ThreadPoolExecutor(hosted_model.MOST_CALLS) as pool:
        found = list(pool.map(lambda red: service.detect(picture(red), CLASSIFICATION), reds))
    for red, each in zip(reds, found):
        score = each["Confidence"] if each["IsAnomalous"] else 1 - each["Confidence"]
        assert score == pytest.approx(red / 255, abs=1e-3)


def test_pictures_are_judged_where_shared_memory_has_no_room(
    service: HostingService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(segment, "FOLDER", tmp_path / "missing")
    found = service.detect(png(noise(900, 800)), SEGMENTATION)
    mask = cv2.imdecode(np.frombuffer(found["AnomalyMask"], np.uint8), cv2.IMREAD_COLOR)
    assert mask.shape == (800, 900, 3)


@pytest.mark.parametrize(("bits", "expected"), [(None, 255), (10, 255), (12, 64), (16, 4)])
def test_a_deep_png_is_read_as_the_training_read_its_images(
    tmp_path: Path, bits: Any, expected: int
) -> None:
    service = HostingService(tmp_path)
    package = service.add_model("classification")
    service.records.close()
    manifest = parse((package / FILE_NAME).read_bytes())
    statistics = manifest.statistics.model_copy(update={"image_bits": bits})
    changed = manifest.model_copy(update={"statistics": statistics})
    (package / FILE_NAME).write_bytes(changed.to_json())
    _, deep = cv2.imencode(".png", np.full((64, 64, 3), 1023, np.uint16))
    assert np.abs(pixels_of(bytes(deep), package).astype(int) - expected).max() <= 1


class Refusing(HostedModels):
    """Hosts nothing, and answers with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def detect(self, model: int, picture: bytes) -> Prediction:
        raise self._error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (errors.InvalidFrame("Wrong."), ValidationFailed),
        (errors.FaultyPicture.showing(["black"]), ValidationFailed),
        (errors.Overloaded.behind(3, 2.5), Throttled),
        (errors.CallsTakeTooMuch("Full."), Throttled),
        (errors.WrongModelState("The model isn't hosted any more."), Conflict),
        (errors.AgentUnavailable("Gone."), ServiceFault),
        (errors.DeadlineExceeded("No answer from unix:///tmp/a.sock."), ServiceFault),
        (errors.InferenceFailed("Broken."), ServiceFault),
    ],
)
def test_errors_of_the_runtime_are_those_that_sdks_understand(
    tmp_path: Path, error: errors.EdgeAgentError, fault: Type[ServiceFault]
) -> None:
    service = HostingService(tmp_path, detection=Detection(Refusing(error)))
    service.add_model("classification", status="HOSTED")
    with pytest.raises(ServiceFault) as raised:
        service.detect(picture(200))
    service.records.close()
    assert type(raised.value) is fault
    own = {
        errors.AgentUnavailable: detection.REPLACED,
        errors.DeadlineExceeded: detection.LATE,
        errors.InferenceFailed: detection.BROKEN,
    }
    assert str(raised.value) == own.get(type(error), str(error))
    waits = raised.value.members.get("RetryAfterSeconds")
    assert waits == {Throttled: 3 if "frames" in str(error) else 1, ServiceFault: 1}.get(fault)


@pytest.mark.parametrize(
    ("module", "places"),
    [
        (detection, "MOST_CALLS"),
        (hosted_model, "MOST_CALLS"),
        (hosted_models, "MOST_PICTURES"),
    ],
)
def test_a_call_for_which_there_is_no_place_is_throttled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, places: str
) -> None:
    monkeypatch.setattr(module, places, 0)
    monkeypatch.setattr(hosted_models, "WAIT_S", 0.01)
    with HostingService(tmp_path) as crowded:
        crowded.add_model("classification")
        crowded.host()
        with pytest.raises(Throttled, match="Too many images") as raised:
            crowded.detect(picture(200))
        assert raised.value.members["RetryAfterSeconds"] == 1


def test_a_hung_runtime_holds_no_places_of_other_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_DECISION__CAMERA_PROBLEM", "report")
    monkeypatch.setattr(runtime_process, "ANSWERS_WITHIN_S", 5.0)
    monkeypatch.setattr(hosted_model, "MOST_CALLS", 3)
    monkeypatch.setattr(hosted_models, "MOST_PICTURES", 1)
    monkeypatch.setattr(detection, "MOST_CALLS", 4)
    others = runtimes()
    with HostingService(tmp_path) as service:
        service.add_model("classification", 1)
        service.add_model("classification", 2)
        service.host(1)
        (hung,) = runtimes() - others
        service.host(2)

        def judge(_: int) -> str:
            try:
                return str(service.detect(picture(200), 1)["IsAnomalous"])
            except ServiceFault as fault:
                return fault.code

        with ThreadPoolExecutor(8) as pool:
            os.kill(hung, signal.SIGSTOP)
            calls = [pool.submit(judge, number) for number in range(8)]
            while sum(call.done() for call in calls) < 5:  # the other three wait
                time.sleep(0.01)
            assert service.detect(picture(200), 2)["IsAnomalous"]
            found = [call.result() for call in calls]
    assert found.count("ThrottlingException") == 5
    assert set(found) <= {"ThrottlingException", "InternalServerException", "True"}


MASK = """
import base64, time

names = {"ProjectName": "cookies", "ModelVersion": "1"}
client.start_model(MinInferenceUnits=1, **names)
while client.describe_model(**names)["ModelDescription"]["Status"] != "HOSTED":
    time.sleep(0.1)
with open(picture, "rb") as body:
    answer = client.detect_anomalies(Body=body, ContentType="image/png", **names)
found = answer["DetectAnomalyResult"]
result = {**found, "AnomalyMask": base64.b64encode(found["AnomalyMask"]).decode()}
"""


@needs_aws
def test_a_client_gets_the_mask_of_a_segmentation_model_as_png(tmp_path: Path) -> None:
    shown = tmp_path / "shown.png"
    shown.write_bytes(png(golden.BAD))
    with RunningService(tmp_path) as service:
        seeded = HostingService(service.root)
        seeded.add_model("segmentation")
        seeded.records.close()
        found = service.user().boto3(MASK, picture=str(shown))
    mask = cv2.imdecode(
        np.frombuffer(base64.b64decode(found["AnomalyMask"]), np.uint8), cv2.IMREAD_COLOR
    )[..., ::-1]
    assert mask.shape == golden.BAD.shape
    areas = {each["Name"]: each["PixelAnomaly"] for each in found["Anomalies"]}
    assert areas.keys() == {"background", "scratch"}
    for area in areas.values():
        color = tuple(bytes.fromhex(area["Color"][1:]))
        share = (mask == color).all(axis=2).mean()
        assert share == pytest.approx(area["TotalPercentageArea"], abs=1e-6)
