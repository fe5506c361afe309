from __future__ import annotations

import json
from itertools import repeat
from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import InvalidRequest
from edge_agent.service.records.dataset_entries import DatasetEntry
from edge_agent.service.work.manifest_lines import MOST_CHARACTERS, ManifestLines

GOOD = b'{"source-ref": "s3://plant/a"}'
ADDED, MOST_LINES = 1_700_000_000.0, 1000
NORMAL = {
    "source-ref": "s3://plant/a.jpg",
    "anomaly-label": 0,
    "anomaly-label-metadata": {
        "confidence": 1,
        "class-name": "normal",
        "human-annotated": "yes",
        "creation-date": "2020-11-10T03:37:09.600",
        "type": "groundtruth/image-classification",
    },
}


def entries(*lines: object) -> List[DatasetEntry]:
    raw = [line if isinstance(line, bytes) else f"{json.dumps(line)}\n".encode() for line in lines]
    return list(ManifestLines(ADDED, MOST_LINES).entries(raw))


def labelled(**metadata: object) -> object:
    return {"source-ref": "s3://plant/a.jpg", "job": 1, "job-metadata": metadata}


def test_a_line_stays_as_it_is_written() -> None:
    line = b'  {"source-ref" :  "s3://plant/\\u00e5.jpg", "own": [1.50]}'
    (entry,) = entries(b"\xef\xbb\xbf" + line + b" \r\n", b"\n", b"  \n")
    assert entry == DatasetEntry("s3://plant/å.jpg", line.decode().strip(), None, ADDED)


def test_a_label_is_the_word_normal_or_anomaly_in_class_name() -> None:
    found = entries(
        NORMAL,
        labelled(**{"class-name": "anomaly"}),
        *(
            labelled(**{"class-name": word})
            for word in ("good", "Normal", "ng", "1", 1, ["normal"])
        ),
        labelled(**{"class-name": "cracked"}),
        labelled(**{"class-map": {"1": "anomaly"}}),
        {"source-ref": "s3://plant/a.jpg"},
        {"source-ref": "s3://plant/a.jpg", "anomaly-label": 1},
    )
    labels = [entry.label for entry in found]
    assert labels[:2] == ["normal", "anomaly"]
    assert set(labels[2:]) == {None}


def test_the_services_own_attribute_decides_before_those_of_others() -> None:
    def both(own: str, other: str) -> Dict[str, object]:
        return {
            "source-ref": "s3://plant/a.jpg",
            "anomaly-label-detected-metadata": {"class-name": other, "human-annotated": "yes"},
            "anomaly-label-metadata": {"class-name": own, "human-annotated": "no"},
        }

    found = entries(both("normal", "anomaly"), both("good", "anomaly"))
    assert [entry.label for entry in found] == ["normal", None]


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("2020-11-10T03:37:09.600", 1_604_979_429.6),
        ("2020-11-10T03:37:09.600Z", 1_604_979_429.6),
        ("2020-11-10T05:37:09.600+02:00", 1_604_979_429.6),
        ("Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)", ADDED),
        ("", ADDED),
        (None, ADDED),
        ([], ADDED),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140.0),
    ],
)
def test_an_entry_is_as_old_as_its_label_says(date: object, seconds: float) -> None:
    (entry,) = entries(labelled(**{"class-name": "normal", "creation-date": date}))
    assert entry.created == pytest.approx(seconds)


@pytest.mark.parametrize("source", ["s3://plant/imgs//1.png", "s3://plant//imgs/1.png"])
def test_a_key_with_empty_parts_is_taken_as_it_is(source: str) -> None:
    (entry,) = entries({"source-ref": source})
    assert entry.source_ref == source


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "it isn't JSON"),
        (b"[1]", "it must be a JSON object whose source-ref is s3://BUCKET/KEY"),
        (b'"text"', "it must be a JSON object"),
        (b'{"source-ref": 1}', "it must be a JSON object"),
        (b'{"source-ref": "s3://plant/a", "source-ref": "s3://plant/b"}', "appears twice"),
        (b'{"source-ref": "a.jpg"}', r"a\.jpg isn't an object in S3"),
        (b'{"source-ref": "s3://plant/"}', "its key is empty"),
        (b'{"source-ref": "s3://plant/../"}', "a part of its key between slashes"),
        (b'{"source-ref": "s3://plant//"}', "its key is empty"),
        (b'{"source-ref": "s3://plant/../x"}', "a part of its key between slashes"),
        (b'{"source-ref": "s3://../x"}', "can't be the name of a bucket"),
        (b'{"source-ref": "s3://plant/\\ud800"}', "lone surrogates"),
        (b'{"source-ref": "s3://other/a"}', "its image is in the bucket other, others are in plan"),
        (b'{"source-ref": "\xff"}', "it isn't UTF-8"),
        (b"[" * 8000, "it isn't JSON: it is nested too deeply|it isn't JSON"),
        (b'{"source-ref": "s3://plant/a", "x": "%s"}' % (b"x" * 8200), "more than 8192 characters"),
        (b'{"x": "%s"}' % (b"x" * 65000), "more than 8192 characters"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^Line 3: .*({problem})") as refused:
        entries(NORMAL, b"\n", line, NORMAL)
    assert str(refused.value).endswith(". Correct the lines, then try again.")


def test_the_longest_line_is_taken() -> None:
    text = '{"source-ref": "s3://plant/a", "x": "%s"}'
    text = text % ("å" * (MOST_CHARACTERS - len(text) + 2))
    assert len(text) == MOST_CHARACTERS
    (entry,) = entries(text.encode())
    assert entry.line == text


def test_only_the_first_wrong_lines_are_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        entries(*[b"{"] * 100)
    assert "Line 5:" in str(refused.value)
    assert "Line 6:" not in str(refused.value)


@pytest.mark.parametrize("lines", [[], [b"\n"], [b"\xef\xbb\xbf"], [b" \n", b"\t"]])
def test_a_manifest_without_lines_is_refused(lines: List[bytes]) -> None:
    with pytest.raises(InvalidRequest, match="There is no line with an image"):
        entries(*lines)


def test_a_line_of_a_folder_is_left_out_and_counted() -> None:
    reader = ManifestLines(ADDED, MOST_LINES)
    folder = b'{"source-ref": "s3://plant/images/"}'
    found = list(reader.entries([b"\n", folder, json.dumps(NORMAL).encode(), folder]))
    assert [entry.source_ref for entry in found] == ["s3://plant/a.jpg"]
    assert reader.left_out == " 2 lines were left out, from line 2: source-ref is a folder."
    with pytest.raises(InvalidRequest, match="There is no line with an image"):
        entries(folder)


def test_as_many_lines_as_may_be_are_taken() -> None:
    assert len(list(ManifestLines(ADDED, 7).entries([b"\n"] * 6 + [GOOD]))) == 1


@pytest.mark.parametrize("line", [b"\n", json.dumps(NORMAL).encode(), b"{"])
def test_a_manifest_without_an_end_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"There are more than 7 lines\.|Line 5"):
        list(ManifestLines(ADDED, 7).entries(repeat(line)))


def test_what_is_written_in_a_line_plays_no_part_beside_image_and_label() -> None:
    text = json.dumps({**NORMAL, "own": "\ud800", "job-metadata": {"class-name": "\udfff"}})
    (entry,) = entries(text.encode())
    assert (entry.line, entry.label) == (text, "normal")
    lone = {"source-ref": "s3://plant/b", "a-metadata": {"class-name": "\ud800"}}
    assert entries(lone) == [DatasetEntry("s3://plant/b", json.dumps(lone), None, ADDED)]


KEY = st.sampled_from(
    ["source-ref", "a", "a-metadata", "anomaly-label", "class-name", "class-map", "creation-date"]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
)
LINE = st.one_of(
    st.binary(max_size=60),
    VALUE.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(KEY, VALUE, max_size=4).map(
        lambda line: json.dumps({**line, "source-ref": "s3://plant/a"}).encode()
    ),
)


@given(st.lists(LINE, max_size=5))
def test_any_lines_give_entries_that_can_be_listed_or_a_sentence(lines: List[bytes]) -> None:
    found: List[DatasetEntry] = []
    sentence = ""
    try:
        found.extend(ManifestLines(ADDED, MOST_LINES).entries(lines))
    except InvalidRequest as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert bool(sentence) == (len(found) < sum(bool(line.strip()) for line in lines) or not found)
    for entry in found:
        assert entry.line.startswith("{")
        assert entry.line.endswith("}")
        assert "\n" not in entry.line
        assert 2 <= len(entry.line) <= MOST_CHARACTERS
        assert entry.label in ("normal", "anomaly", None)
        assert json.loads(entry.line)["source-ref"] == entry.source_ref
