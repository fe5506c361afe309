"""What is said of a picture itself: measured as in training, judged by what training saw."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator, List, Optional, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.manifest import InputSpec, Manifest, Statistics
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.models.inference_unit import DecisionInForce, InferenceUnit
from edge_agent.runtime.vision import input_check
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.runtime.vision.input_check import InputCheck
from edge_agent.runtime.vision.light import Light, measure
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Caller, CameraProblem, Frame
from tests import ROOT
from tests.fakes import micro

DATA = ROOT.parent / "shared" / "data"

BLACK, DARK, BRIGHT, BLANK, BLURRED, FROZEN = CameraProblem


def picture(seed: int, height: int = 128, width: int = 160) -> Any:
    """A grey part with a hole and a mark of random places on a lighter belt, and sensor noise."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), 150, np.uint8)
    cv2.rectangle(
        image, (width // 5, height // 5), (4 * width // 5, 4 * height // 5), (90,) * 3, -1
    )
    for level in (30, 200):
        x, y = (int(random.integers(side // 3, 2 * side // 3)) for side in (width, height))
        cv2.circle(image, (x, y), height // 16, (level,) * 3, -1)
    noise = random.normal(random.normal(0, 2), 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def trained() -> Statistics:
    lights = [measure(picture(seed)) for seed in range(10)]
    brightness = [light.brightness for light in lights]
    sharpness = [light.sharpness for light in lights]
    return Statistics(
        brightness=(min(brightness), max(brightness)), sharpness=(min(sharpness), max(sharpness))
    )


def light(
    brightness: float = 120, contrast: float = 40, sharpness: float = 500, digest: int = 1
) -> Light:
    return Light(brightness, contrast, sharpness, digest)


def blurred(image: Any) -> Any:
    return cv2.GaussianBlur(image, (0, 0), 2)


def covered(image: Any) -> Any:
    """What a sensor sees behind its cap."""
    return np.random.default_rng(1).integers(0, 4, image.shape).astype(np.uint8)


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda image: np.clip(image * factor, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (64, 4096), (256, 256), (4096, 4096)])
def test_light_is_what_its_definition_says(shape: Tuple[int, int]) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8)
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found = measure(pixels)
    assert found.brightness == pytest.approx(luma.mean(), rel=1e-9)
    assert found.contrast == pytest.approx(luma.std(), rel=1e-9)
    assert found.sharpness == pytest.approx(cv2.Laplacian(luma, cv2.CV_64F).var(), rel=1e-9)


def test_a_picture_is_told_from_one_that_differs_in_a_single_level() -> None:
    one = picture(1)
    other = one.copy()
    other[64, 64] += 1
    assert measure(one) == measure(one.copy())
    assert measure(one).digest != measure(other).digest


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (scaled(1), ()),
        (scaled(0.9), ()),
        (scaled(1.1), ()),
        (scaled(0.6), (DARK,)),
        (scaled(1.5), (BRIGHT,)),
        (blurred, (BLURRED,)),
        (covered, (DARK, BLANK)),
        (lambda image: np.full_like(image, 255), (BRIGHT, BLANK)),
        (lambda image: np.full_like(image, 120), (BLANK,)),
        (np.zeros_like, (BLACK,)),
    ],
)
def test_pictures_unlike_those_of_training_are_told_why(
    change: Callable[[Any], Any], problems: Tuple[CameraProblem, ...]
) -> None:
    check = InputCheck(trained())
    for seed in range(100, 120):
        assert check.judge(measure(change(picture(seed))), "") == problems


def test_a_defect_is_no_fault_of_the_camera() -> None:
    check = InputCheck(trained())
    scratched, gone = picture(200), picture(201)
    scratched[40:44, 30:130] = 250
    gone[26:60, 32:80] = 150  # a quarter broken off
    assert check.judge(measure(scratched), "") == ()
    assert check.judge(measure(gone), "") == ()


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (scaled(0.3), ()),
        (scaled(1.6), ()),
        (blurred, ()),
        (covered, (DARK, BLANK)),
        (lambda image: np.full_like(image, 255), (BRIGHT, BLANK)),
        (lambda image: np.full_like(image, 120), (BLANK,)),
        (np.zeros_like, (BLACK,)),
    ],
)
def test_of_a_model_that_says_nothing_of_its_training_only_absolute_limits_hold(
    change: Callable[[Any], Any], problems: Tuple[CameraProblem, ...]
) -> None:
    assert InputCheck(Statistics()).judge(measure(change(picture(1))), "") == problems


@pytest.mark.parametrize(
    ("level", "contrast", "usual", "problems"),
    [
        (3, 22, None, ()),  # bright parts on a dark field
        (3, 6, None, (DARK,)),
        (3, 6, (1.0, 3.0), ()),  # as in training
        (3, 22, (100.0, 140.0), (DARK,)),
        (252, 22, None, ()),  # dark parts before a lamp
        (252, 6, None, (BRIGHT,)),
        (252, 6, (240.0, 253.0), ()),
        (252, 22, (100.0, 140.0), (BRIGHT,)),
    ],
)
def test_a_field_near_black_or_white_may_have_parts_in_it_or_be_usual(
    level: float, contrast: float, usual: Optional[Tuple[float, float]], problems: Any
) -> None:
    check = InputCheck(Statistics(brightness=usual))
    assert check.judge(light(brightness=level, contrast=contrast), "") == problems


@pytest.mark.parametrize(
    ("level", "problems"),
    [(67.9, (DARK,)), (68.1, ()), (171.9, ()), (172.1, (BRIGHT,))],
)
def test_the_range_of_training_is_widened_by_half_and_twelve_levels(
    level: float, problems: Tuple[CameraProblem, ...]
) -> None:
    check = InputCheck(Statistics(brightness=(100.0, 140.0), sharpness=(400.0, 600.0)))
    assert check.judge(light(brightness=level), "") == problems


def test_less_than_a_third_of_the_least_sharpness_is_blurred() -> None:
    check = InputCheck(Statistics(brightness=(100.0, 140.0), sharpness=(300.0, 600.0)))
    assert check.judge(light(sharpness=101), "") == ()
    assert check.judge(light(sharpness=99), "") == (BLURRED,)
    assert check.judge(light(sharpness=99, brightness=60), "") == (DARK,)
    assert check.judge(light(sharpness=1, contrast=1), "") == (BLANK,)


def test_a_model_of_smooth_sheets_takes_them_for_pictures() -> None:
    sheet = light(contrast=1.5, sharpness=3.0)
    check = InputCheck(Statistics(brightness=(100.0, 140.0), sharpness=(2.0, 5.0)))
    assert check.judge(sheet, "") == ()
    assert check.judge(light(contrast=0.2, sharpness=0.1), "") == (BLANK,)
    assert InputCheck(Statistics()).judge(sheet, "") == (BLANK,)


def noisy(level: float, deviation: float, sides: Tuple[int, int] = (128, 160)) -> Any:
    """One colour as a sensor with noise sees it."""
    noise = np.random.default_rng(3).normal(level, deviation, (*sides, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def as_jpeg(image: Any, quality: int = 80) -> Any:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def slope(start: float, end: float) -> Any:
    """Light that grows from one side to the other."""
    return cv2.merge([np.tile(np.linspace(start, end, 160), (128, 1)).astype(np.uint8)] * 3)


def lens(level: float) -> Any:
    """A white field, darker towards the corners."""
    y, x = np.mgrid[-1:1:128j, -1:1:160j]
    return cv2.merge([(level * (1 - 0.15 * (x * x + y * y))).astype(np.uint8)] * 3)


def hot_pixel(image: Any) -> Any:
    image[40, 20] = 255
    return image


@pytest.mark.parametrize(
    "image",
    [
        noisy(128, 4),
        noisy(60, 1),
        as_jpeg(noisy(128, 4)),
        as_jpeg(noisy(200, 2)),
        np.full((128, 160, 3), (255, 0, 0), np.uint8),
        np.full((128, 160, 3), (0, 0, 9), np.uint8),
        as_jpeg(noisy(128, 10), 50),
        as_jpeg(noisy(0, 15)),
        *(cv2.merge([noisy(level, 15)[..., 0]] * 3) for level in (0, 128)),
        noisy(128, 4) * np.uint8([1, 0, 0]),
        slope(100, 110),
        hot_pixel(np.full((128, 160, 3), 90, np.uint8)),
    ],
)
def test_one_colour_is_blank_however_noisy_the_sensor(image: Any) -> None:
    golden = [measure(picture(seed)) for seed in range(3)]
    assert BLANK in InputCheck(trained(), golden).judge(measure(image), "")
    assert BLANK in InputCheck(Statistics()).judge(measure(image), "")


@pytest.mark.parametrize("image", [np.zeros((64, 64, 3), np.uint8), noisy(0, 2, (64, 64))])
def test_a_hot_pixel_is_no_picture(image: Any) -> None:
    for statistics in (Statistics(), trained()):
        assert DARK in InputCheck(statistics).judge(measure(hot_pixel(image)), "")


def on_dark_field(seed: int) -> Any:
    """A thin scratch of light and some points of dust on black glass, with sensor noise."""
    image = noisy(0, 2)
    random = np.random.default_rng(seed)
    for _ in range(6):
        image[random.integers(0, 128), random.integers(0, 160)] = 180
    cv2.line(image, (20, int(random.integers(20, 100))), (140, 60), (90, 90, 90), 1)
    return image


def test_pictures_on_a_dark_field_are_pictures() -> None:
    lights = [measure(on_dark_field(seed)) for seed in range(10)]
    levels = [light.brightness for light in lights]
    own = Statistics(brightness=(min(levels), max(levels)))
    for check in (InputCheck(Statistics()), InputCheck(own, lights)):
        for seed in range(100, 110):
            assert check.judge(measure(on_dark_field(seed)), "") == ()


@pytest.mark.parametrize(
    "name", ["aliens", "ballscrew", "cookies", "deeppcb", "piped-btn01", "piped-flr01"]
)
def test_good_parts_of_real_sets_are_never_blank(name: str) -> None:
    paths = sorted((DATA / name).glob("*/normal/*.*"))
    if not paths:
        pytest.skip(f"the set {name} isn't here")
    spec = InputSpec(tensor="image", height=256, width=256)
    slot = np.empty((256, 256, 3), np.uint8)
    checks = (InputCheck(Statistics()), InputCheck(trained(), [measure(picture(1))]))
    for path in paths[:: 1 + len(paths) // 12]:
        pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        found = measure(write_input(Frame(pixels), spec, slot))
        assert not any(BLANK in check.judge(found, path.name) for check in checks), path
        assert checks[0].judge(found, path.name) == ()


@pytest.mark.parametrize("image", [lens(250), as_jpeg(lens(250)), slope(200, 245), slope(60, 200)])
def test_uneven_light_without_a_part_is_blank(image: Any) -> None:
    field = measure(image)
    assert BLANK in InputCheck(trained(), [measure(picture(1))]).judge(field, "")
    assert BLANK in InputCheck(trained()).judge(field, "")


def test_uneven_light_is_a_picture_where_that_is_usual_or_may_be_of_an_enlarged_one() -> None:
    sheet = light(contrast=9, sharpness=1.8)
    assert InputCheck(Statistics()).judge(sheet, "") == ()
    assert InputCheck(Statistics(brightness=(110, 130), sharpness=(1.5, 3))).judge(sheet, "") == ()
    smooth = light(contrast=9, sharpness=0.5)
    assert InputCheck(Statistics()).judge(smooth, "") == (BLANK,)
    assert InputCheck(Statistics(), [smooth]).judge(smooth, "") == ()


def test_a_model_whose_golden_samples_are_blank_takes_blank_for_good() -> None:
    foil = noisy(128, 3)
    assert InputCheck(Statistics(), [measure(noisy(128, 3.5))]).judge(measure(foil), "") == ()
    assert InputCheck(Statistics()).judge(measure(foil), "") == (BLANK,)


def test_a_model_in_memory_knows_the_pictures_of_its_golden_samples() -> None:
    manifest = Manifest.model_validate(micro.manifest("classification", b""))
    sheets = DecisionInForce(manifest, [noisy(128, 3)]).input_check
    parts = DecisionInForce(manifest, [picture(1)]).input_check
    seen = measure(noisy(120, 3))
    assert (sheets.judge(seen, ""), parts.judge(seen, "")) == ((), (BLANK,))


def test_one_line_again_and_again_is_blank_where_golden_samples_show_other_pictures() -> None:
    stuck = measure(np.repeat(picture(1)[40:41], 128, axis=0))
    assert InputCheck(Statistics(), [measure(picture(2))]).judge(stuck, "") == (BLANK,)
    assert InputCheck(Statistics(), [measure(picture(2)), stuck]).judge(stuck, "") == ()
    assert InputCheck(Statistics()).judge(stuck, "") == ()  # it may be one of a drawing


def test_a_camera_is_frozen_from_its_tenth_equal_picture_on_and_until_another() -> None:
    check = InputCheck(Statistics())
    still = [check.judge(light(digest=7), "left") for _ in range(12)]
    assert still == [()] * 9 + [(FROZEN,)] * 3
    assert check.judge(light(digest=8), "left") == ()
    assert check.judge(light(digest=7), "left") == ()


def test_cameras_are_followed_each_on_its_own() -> None:
    check = InputCheck(Statistics())
    for turn in range(9):
        assert check.judge(light(digest=7), "left") == ()
        assert check.judge(light(digest=7 if turn else 6), "right") == ()
    assert check.judge(light(digest=7), "left") == (FROZEN,)
    assert check.judge(light(digest=7), "right") == ()


def test_pictures_that_are_equal_for_lack_of_structure_are_not_frozen() -> None:
    check = InputCheck(Statistics())
    for _ in range(20):
        assert check.judge(light(contrast=0, sharpness=0), "left") == (BLANK,)
        assert check.judge(light(brightness=0, contrast=0, sharpness=0), "left") == (BLACK,)


def test_only_the_cameras_seen_last_are_remembered() -> None:
    check = InputCheck(Statistics())
    for _ in range(9):
        check.judge(light(), "early")
    for number in range(input_check.MOST_CAMERAS - 1):
        check.judge(light(), str(number))
    assert check.judge(light(), "early") == (FROZEN,)
    for number in range(input_check.MOST_CAMERAS):
        check.judge(light(), str(number))
    assert check.judge(light(), "early") == ()


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_pictures_are_counted_right_by_many_threads() -> None:
    check, same = InputCheck(Statistics()), light()
    with ThreadPoolExecutor(8) as pool:
        told = pool.map(lambda _: [check.judge(same, "left") for _ in range(2000)], range(8))
    assert sum(problems == () for each in told for problems in each) == 9


def unit(verdicts: Optional[DecisionInForce] = None) -> InferenceUnit:
    model = micro.graph("classification")
    manifest = Manifest.model_validate(micro.manifest("classification", model))
    options = BackendOptions(threads=1, cpu_batches=True)
    return InferenceUnit(OrtBackend(model, manifest, options), manifest, verdicts)


def items(*frames: Any) -> List[Item]:
    return [Item(OpenFrame(Frame(frame)), 0.0, Caller("left")) for frame in frames]


def test_each_prediction_of_a_batch_tells_the_problems_of_its_own_picture() -> None:
    white, unreadable = np.full((64, 64, 3), 255, np.uint8), np.zeros((0, 0, 3), np.uint8)
    good, broken, bright, black = batch = items(picture(1), unreadable, white, 0 * white)
    unit().compute(batch)
    assert good.future.result(0).camera_problems == ()
    assert broken.future.exception(0) is not None
    assert bright.future.result(0).camera_problems == (BRIGHT, BLANK)
    assert black.future.result(0).camera_problems == (BLACK,)


def test_the_units_of_a_model_follow_a_camera_together() -> None:
    model = micro.graph("classification")
    verdicts = DecisionInForce(Manifest.model_validate(micro.manifest("classification", model)))
    units = [unit(verdicts), unit(verdicts)]
    told = []
    for turn in range(10):
        (item,) = items(picture(1))
        units[turn % 2].compute([item])
        told.append(item.future.result(0).camera_problems)
    assert told == [()] * 9 + [(FROZEN,)]
