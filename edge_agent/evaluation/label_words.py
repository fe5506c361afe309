"""The label that a line of a manifest gives its image, by whatever job it was labelled.

A labelling job writes its attribute under a name of its own, and `NAME-metadata` beside it. There
`class-name` decides; without one, the attribute's value by the `class-map`; else the value itself.
Jobs without a known word don't count, nor do verdicts of a model beside labels of people.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

NORMAL, ANOMALY = "normal", "anomaly"
METADATA = "-metadata"
OF_THE_SERVICE = "anomaly-label"  # needs no metadata
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


class _Job(NamedTuple):
    """The attribute of one job: its classes as they are written, and whether a person gave them."""

    name: str
    classes: Tuple[str, ...]
    human: object  # "yes", "no", or unknown

    @classmethod
    def of(cls, line: Mapping[str, object], name: str) -> _Job:
        metadata = line.get(name + METADATA)
        group = metadata if isinstance(metadata, dict) else {}
        return cls(name, tuple(_classes(line.get(name), group)), group.get("human-annotated"))

    @property
    def labels(self) -> List[str]:
        """normal, anomaly, or "" for an unknown word, of each class."""
        return [WORDS.get(_plain(text), "") for text in self.classes]


def label_of(line: Mapping[str, object], attribute: Optional[str] = None) -> Label:
    """Return the label of a line's image. attribute: the name of the one job that counts."""
    jobs = [_Job.of(line, name) for name in _names(line)]
    if attribute is not None:
        if not {attribute, attribute + METADATA} & set(line):
            others = ", ".join(repr(job.name) for job in jobs) or "none"
            return Label("", reason=f"there is no label attribute {attribute!r}, only {others}")
        jobs = [_Job.of(line, attribute)]
    known = [job for job in jobs if any(job.labels)]
    if not known:
        return Label("", reason=_nothing_known(jobs))
    used = [job for job in known if job.human != "no"] or known
    labels = {label for job in used for label in job.labels}
    if len(labels) > 1:
        return Label("", reason=_differing(used))
    return Label(labels.pop(), any(job.human == "yes" for job in used))


def _nothing_known(jobs: Sequence[_Job]) -> str:
    if not jobs:
        return "there is no class-name"
    job = next((job for job in jobs if job.classes), jobs[0])
    if not job.classes:
        return f"the label of job {job.name!r} is no class"
    return f"the class-name {job.classes[0]!r} isn't known"


def _differing(jobs: Sequence[_Job]) -> str:
    differ = f"the labels {_listed({text for job in jobs for text in job.classes})} differ"
    if len(jobs) == 1:
        return differ
    names = _listed(job.name for job in jobs)
    return f"{differ}, of the jobs {names}; choose one of these with --label-attribute"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(texts)))


def known_words() -> str:
    """Return the words that are understood, for people."""
    words: Dict[str, List[str]] = {}
    for word, name in WORDS.items():
        words.setdefault(name, []).append(word)
    return f"{', '.join(words[NORMAL])} for normal; {', '.join(words[ANOMALY])} for anomaly"


def _names(line: Mapping[str, object]) -> List[str]:
    """Return the names of the attributes that classify the image."""
    found = [
        key[: -len(METADATA)]
        for key, group in line.items()
        if key.endswith(METADATA)
        and isinstance(group, dict)
        and {"class-name", "class-map"} & set(group)
    ]
    alone = [OF_THE_SERVICE] if OF_THE_SERVICE in line and OF_THE_SERVICE not in found else []
    return found + alone


def _classes(value: object, group: Mapping[str, object]) -> Iterator[str]:
    """Yield the classes of an attribute as they are written; boxes and masks are none."""
    given, classes = group.get("class-name"), group.get("class-map")
    names = classes if given is None and isinstance(classes, dict) else {}
    value = value if given is None else given
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, (str, int, float)):
            yield str(names.get(str(each), each))


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())
