"""Version requirements mean what they mean to Greengrass."""

from __future__ import annotations

import pytest

from edge_agent.packaging.migrate import versions


@pytest.mark.parametrize(
    ("requirement", "inside", "outside"),
    [
        (">=0.1.0 <2.0.0", ["0.1.0", "1.3.0", "1.999999.0"], ["0.0.9", "2.0.0"]),
        (">= 1.1.0", ["1.1.0", "7.0.0"], ["1.0.9"]),
        (">1.1", ["1.2.0"], ["1.1.0", "1.1.9"]),
        ("<=1.1", ["1.1.9", "0.0.0"], ["1.2.0"]),
        ("<1.1.1", ["1.1.0"], ["1.1.1"]),
        ("1.1.1", ["1.1.1"], ["1.1.0", "1.1.2"]),
        ("=v1.1.1", ["1.1.1"], ["1.1.2"]),
        ("1.1", ["1.1.0", "1.1.9"], ["1.2.0"]),
        ("1.x", ["1.0.0", "1.9.9"], ["2.0.0"]),
        ("~1.1.1", ["1.1.1", "1.1.9"], ["1.1.0", "1.2.0"]),
        ("~1", ["1.9.0"], ["2.0.0"]),
        ("^1.1.1", ["1.1.1", "1.9.0"], ["1.1.0", "2.0.0"]),
        ("^0.1.2", ["0.1.9"], ["0.2.0", "0.1.1"]),
        ("^0.0.2", ["0.0.2"], ["0.0.3"]),
        ("*", ["0.0.0", "9.9.9"], []),
        ("", ["1.0.0"], []),
        ("1.0.0 - 1.2.0", ["1.0.0", "1.2.0"], ["1.2.1"]),
        ("<1.0.0 || >=2.0.0,<3.0.0", ["0.9.0", "2.1.0"], ["1.0.0", "3.0.0"]),
        (">=1.0.0-alpha <2.0.0", ["1.0.0-alpha", "1.0.0-beta.2", "1.3.0"], ["1.0.0-1", "1.1.0-a"]),
        (">1.0.0-beta.2", ["1.0.0-beta.10", "1.0.0-beta.2.0", "1.0.0"], ["1.0.0-beta.2"]),
        ("<=1.0.0-rc", ["1.0.0-rc", "1.0.0-9"], ["1.0.0", "1.0.0-rc.1"]),
        ("1.0.0-rc", ["1.0.0-rc", "1.0.0-rc+build.5"], ["1.0.0", "1.0.0-rc.1"]),
        ("~1.2.3-a", ["1.2.3-b", "1.2.9"], ["1.3.0", "1.2.4-a"]),
        ("^1.2.3-a+b", ["1.2.3-a.1", "1.9.0+c"], ["2.0.0"]),
        ("*", ["1.0.0+build"], ["1.0.0-beta"]),
    ],
)
def test_a_requirement_takes_what_npm_takes(
    requirement: str, inside: list[str], outside: list[str]
) -> None:
    assert all(versions.satisfies(version, requirement) for version in inside)
    assert not any(versions.satisfies(version, requirement) for version in outside)


@pytest.mark.parametrize(
    "requirement", ["latest", "1.0.0-", "1.0.0-a..b", ">=", "1.0.0.0", "1.0.0 or 2"]
)
def test_a_requirement_that_cant_be_read_is_an_error(requirement: str) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        versions.satisfies("1.0.0", requirement)


@pytest.mark.parametrize("version", ["1.0", "1.0.0-", "1.0.0-ä", "NEXT_PATCH", "", "1.0.0\n"])
def test_a_version_that_cant_be_read_is_an_error(version: str) -> None:
    with pytest.raises(ValueError, match=r"isn't a version such as 1\.0\.0"):
        versions.parse(version)


@pytest.mark.parametrize("version", ["1.0.3", "1.0.3-beta.1", "1.0.3+build.5", "1.0.3-0.rc+b"])
def test_what_comes_next_is_above_the_release_too(version: str) -> None:
    assert (versions.next_patch(version), versions.next_major(version)) == ("1.0.4", "2.0.0")
