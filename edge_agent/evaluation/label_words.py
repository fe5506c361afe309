"""The label that a line of a manifest gives its image, by whatever job it was labelled.

A labelling job writes its attribute under a name of its own, and `NAME-metadata` beside it. There
`class-name` decides; without one, the attribute's value by the `class-map`; else the value itself.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, NamedTuple

NORMAL, ANOMALY = "normal", "anomaly"
METADATA = "-metadata"
OF_THE_SERVICE = "anomaly-label"  # counts before the attributes of other jobs
WORDS: Dict[str, str] = {
    **dict.fromkeys(("normal", "good", "ok", "pass", "passed", "0"), NORMAL),
    **dict.fromkeys(
        ("anomaly", "anomalous", "abnormal", "bad", "ng", "nok", "not ok", "1"), ANOMALY
    ),
    **dict.fromkeys(("defect", "defective", "fail", "failed"), ANOMALY),
}


class Label(NamedTuple):
    """normal, anomaly or "" for none, and then why; whether a person gave it."""

    name: str
    confirmed: bool = False
    reason: str = ""


def label_of(line: Mapping[str, object]) -> Label:
    """Return the label of a line's image."""
    attributes = _attributes(line)
    found = {job: list(_classes(line.get(job), group)) for job, group in attributes.items()}
    given = sorted({text for texts in found.values() for text in texts})
    names = {WORDS.get(_plain(text), "") for text in given}
    if not given:
        return Label("", reason="there is no class-name")
    if len(names) > 1:
        return Label("", reason=f"the labels {', '.join(map(repr, given))} differ")
    (name,) = names
    if not name:
        return Label("", reason=f"the class-name {given[0]!r} isn't known")
    confirmed = any(group.get("human-annotated") == "yes" for group in attributes.values())
    return Label(name, confirmed)


def known_words() -> str:
    """Return the words that are understood, for people."""
    words: Dict[str, List[str]] = {}
    for word, name in WORDS.items():
        words.setdefault(name, []).append(word)
    return f"{', '.join(words[NORMAL])} for normal; {', '.join(words[ANOMALY])} for anomaly"


def _attributes(line: Mapping[str, object]) -> Dict[str, Mapping[str, object]]:
    """Return the metadata of each attribute that classifies the image, by the attribute's name."""
    found: Dict[str, Mapping[str, object]] = {
        key[: -len(METADATA)]: group
        for key, group in line.items()
        if key.endswith(METADATA)
        and isinstance(group, dict)
        and {"class-name", "class-map"} & set(group)
    }
    if OF_THE_SERVICE in found or (OF_THE_SERVICE in line and not found):
        return {OF_THE_SERVICE: found.get(OF_THE_SERVICE, {})}
    return found


def _classes(value: object, group: Mapping[str, object]) -> Iterator[str]:
    """Yield the classes of an attribute as they are written."""
    if group.get("class-name") is not None:
        yield str(group["class-name"])
        return
    classes = group.get("class-map")
    names = classes if isinstance(classes, dict) else {}
    for each in value if isinstance(value, list) else [value]:
        if each is not None:
            yield str(names.get(str(each), each))


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())
