"""Semantic versions (semver.org), and whether one meets a recipe's VersionRequirement, which is
written as npm writes ranges.
"""  # noqa: D205

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Tuple

Identifier = Tuple[int, int, str]  # numbers come before words, and both before a release
RELEASE: Tuple[Identifier, ...] = ((2, 0, ""),)
LOWEST: Identifier = (-1, 0, "")

LABELS = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"  # beta.1, build
VERSION = re.compile(rf"(\d{{1,6}})\.(\d{{1,6}})\.(\d{{1,6}}){LABELS}")
PART = r"(\d+|[xX*])"
COMPARATOR = re.compile(rf"(>=|<=|>|<|=|\^|~>?)?\s*v?{PART}(?:\.{PART})?(?:\.{PART}{LABELS})?")


class Version(NamedTuple):
    """Compares as semantic versions do; build labels don't count."""

    major: int
    minor: int
    patch: int
    pre_release: Tuple[Identifier, ...] = RELEASE


ENDLESS = Version(10**9, 0, 0)


class Interval(NamedTuple):
    """From the first version inside to the first one above."""

    low: Version
    above: Version
    named: Optional[Version] = None  # the pre-release that the requirement names


def parse(version: str) -> Version:
    """Read "1.2.3", "1.2.3-beta.1" or "1.2.3+build". Raises ValueError."""
    found = VERSION.fullmatch(version)
    if not found:
        raise ValueError(f"{version!r} isn't a version such as 1.0.0 or 1.0.0-beta.1")
    major, minor, patch, label = found.groups()
    return Version(int(major), int(minor), int(patch), _pre_release(label))


def satisfies(version: str, requirement: str) -> bool:
    """Whether `version` is in the range. Raises ValueError when the range can't be read.

    A pre-release is in no range but one that names a pre-release of the same version.
    """
    wanted = [_range(alternative, requirement) for alternative in requirement.split("||")]
    found = parse(version)
    return any(_is_in(found, intervals) for intervals in wanted)


def next_major(version: str) -> str:
    """Return the version that a new model of the component gets."""
    return f"{parse(version).major + 1}.0.0"


def next_patch(version: str) -> str:
    """Return the version that a changed recipe gets, as a published one can't be changed."""
    before = parse(version)
    return f"{before.major}.{before.minor}.{before.patch + 1}"


def _pre_release(label: Optional[str]) -> Tuple[Identifier, ...]:
    if label is None:
        return RELEASE
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in label.split(".")
    )


def _is_in(version: Version, intervals: List[Interval]) -> bool:
    named = [interval.named[:3] for interval in intervals if interval.named]
    if version.pre_release != RELEASE and version[:3] not in named:
        return False
    return all(interval.low <= version < interval.above for interval in intervals)


def _range(text: str, requirement: str) -> List[Interval]:
    hyphen = re.fullmatch(r"\s*(\S+)\s+-\s+(\S+)\s*", text)
    if hyphen:
        text = f">={hyphen.group(1)} <={hyphen.group(2)}"
    found, end = [], 0
    text = text.replace(",", " ").strip() or "*"
    while end < len(text):
        comparator = COMPARATOR.match(text, end)
        if not comparator or (comparator.end() < len(text) and text[comparator.end()] != " "):
            raise ValueError(
                f"version requirement {requirement!r} can't be read; expected a range such as "
                ">=1.1.0 <2.0.0"
            )
        operator, *parts, label = comparator.groups()
        found.append(_interval(operator or "=", parts, _pre_release(label)))
        end = len(text) - len(text[comparator.end() :].lstrip())
    return found


def _interval(
    operator: str, parts: List[Optional[str]], pre_release: Tuple[Identifier, ...]
) -> Interval:
    given: List[int] = []
    for part in parts:
        if part is None or not part.isdigit():
            break
        given.append(int(part))
    low = _version(given)._replace(pre_release=pre_release)
    named = None if pre_release == RELEASE else low
    above = _above(given, len(given))
    if named:
        above = low._replace(pre_release=(*pre_release, LOWEST))
    if operator == ">=":
        return Interval(low, ENDLESS, named)
    if operator == ">":
        return Interval(above, ENDLESS, named)
    if operator == "<":
        return Interval(Version(0, 0, 0), low, named)
    if operator == "<=":
        return Interval(Version(0, 0, 0), above, named)
    if operator in ("~", "~>"):
        return Interval(low, _above(given, min(len(given), 2)), named)
    if operator == "^":
        leading = next((place for place, part in enumerate(given, 1) if part), len(given))
        return Interval(low, _above(given, leading), named)
    return Interval(low, above, named)


def _above(given: List[int], length: int) -> Version:
    """Return the first version that doesn't begin with the first `length` parts."""
    if not length:
        return ENDLESS
    return _version([*given[: length - 1], given[length - 1] + 1])


def _version(given: List[int]) -> Version:
    major, minor, patch = [*given, 0, 0, 0][:3]
    return Version(major, minor, patch)
