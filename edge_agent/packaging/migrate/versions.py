"""Whether a version meets a recipe's VersionRequirement, which is written as npm writes ranges."""

from __future__ import annotations

import re
from typing import List, Tuple

Version = Tuple[int, ...]
ENDLESS: Version = (10**9,)

COMPARATOR = re.compile(
    r"(>=|<=|>|<|=|\^|~>?)?\s*v?(\d+|[xX*])(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?"
)


def parse(version: str) -> Version:
    """Read "1.2.3". Raises ValueError: pre-releases and build numbers aren't taken."""
    if not re.fullmatch(r"\d{1,6}\.\d{1,6}\.\d{1,6}", version):
        raise ValueError(f"{version!r} isn't a version such as 1.0.0")
    return tuple(int(part) for part in version.split("."))


def satisfies(version: str, requirement: str) -> bool:
    """Whether `version` is in the range. Raises ValueError when the range can't be read."""
    wanted = [_range(alternative, requirement) for alternative in requirement.split("||")]
    found = parse(version)
    return any(all(low <= found < high for low, high in part) for part in wanted)


def next_major(version: str) -> str:
    """Return the version that a new model of the component gets."""
    return f"{parse(version)[0] + 1}.0.0"


def next_patch(version: str) -> str:
    """Return the version that a changed recipe gets, as a published one can't be changed."""
    major, minor, patch = parse(version)
    return f"{major}.{minor}.{patch + 1}"


def _range(text: str, requirement: str) -> List[Tuple[Version, Version]]:
    hyphen = re.fullmatch(r"\s*(\S+)\s+-\s+(\S+)\s*", text)
    if hyphen:
        text = f">={hyphen.group(1)} <={hyphen.group(2)}"
    found, end = [], 0
    text = text.replace(",", " ").strip() or "*"
    while end < len(text):
        comparator = COMPARATOR.match(text, end)
        if not comparator or (comparator.end() < len(text) and text[comparator.end()] != " "):
            raise ValueError(f"version requirement {requirement!r} can't be read")
        found.append(_interval(comparator.group(1) or "=", comparator.groups()[1:]))
        end = len(text) - len(text[comparator.end() :].lstrip())
    return found


def _interval(operator: str, parts: Tuple[str, ...]) -> Tuple[Version, Version]:
    """Return the first version inside and the first one above."""
    given: List[int] = []
    for part in parts:
        if part is None or not part.isdigit():
            break
        given.append(int(part))
    low = (*given, 0, 0, 0)[:3]
    above = _above(given, len(given))
    if operator == ">=":
        return low, ENDLESS
    if operator == ">":
        return above, ENDLESS
    if operator == "<":
        return (0, 0, 0), low
    if operator == "<=":
        return (0, 0, 0), above
    if operator in ("~", "~>"):
        return low, _above(given, min(len(given), 2))
    if operator == "^":
        leading = next((place for place, part in enumerate(given, 1) if part), len(given))
        return low, _above(given, leading)
    return low, above


def _above(given: List[int], length: int) -> Version:
    """Return the first version that doesn't begin with the first `length` parts."""
    if not length:
        return ENDLESS
    return (*given[: length - 1], given[length - 1] + 1, 0, 0)[:3]
