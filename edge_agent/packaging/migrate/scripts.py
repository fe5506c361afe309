"""A step's script becomes one program that both nuclei run alike.

Lite takes every brace for a variable and inserts values as into double quotes; classic inserts
them as they are. So a script that is one plain program stays in the recipe, with its variables in
double quotes; any other moves into a file of the component, to which the variables are handed as
arguments.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, Match, Tuple

from edge_agent.packaging.recipe import VARIABLE

SHELL = re.compile(r"[|&;<>()$`\\\n*?\[\]#~{}]")
# 'a b', where double quotes say the same
SINGLE = re.compile(r"""(?<![^\s=])'([^'"$`\\\n]*)'(?=[\s;]|$)""")
PART = re.compile(r"""([^\s"']+)|"([^"]*)"|'([^']*)'""")
WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")
BUILT_IN = re.compile(
    r"^(\w+=|(if|for|while|until|case|cd|export|set|unset|source|\.|eval|ulimit|umask|trap|test|!)\s)"
)
# {other.component:artifacts:path}, {name:key}; ${name:-default} is the shell's
FOREIGN = re.compile(r"(?<!\$)\{[^{}\s\"'][^{}\s\"':]*:[^{}\s]+\}")


class Untranslatable(ValueError):
    """A person has to rewrite the script."""


@dataclass(frozen=True)
class Program:
    """The Script of a step; `file` is what it runs, empty when it runs the program itself."""

    script: str
    file: str = ""


def translate(
    script: object,
    setenv: Mapping[str, object],
    skipif: str,
    name: str,
    settings: Mapping[str, object],
) -> Program:
    """Return the program for a step; `name` is for its file, if it needs one.

    `settings` are the component's defaults. Raises Untranslatable.
    """
    if not isinstance(script, str) or not script.strip():
        raise Untranslatable("Script must be text that isn't empty.")
    text = script.replace("\r\n", "\n").strip()
    text = SINGLE.sub(_double_quoted, text)
    _check_variables(text, settings)
    if not setenv and not skipif and _is_plain(text):
        return Program("exec " + WORD.sub(_quote, re.sub(r"^exec\s+", "", text)))
    return _in_file("\n".join([*_exports(setenv), *_skips(skipif), text]), name)


def _double_quoted(found: Match[str]) -> str:
    return f'"{found[1]}"' if VARIABLE.search(found[1]) else found[0]


def _check_variables(text: str, settings: Mapping[str, object]) -> None:
    foreign = FOREIGN.search(VARIABLE.sub("", text))
    if foreign:
        raise Untranslatable(
            f"It uses {foreign.group()}; nucleus lite knows no such variable. Use one of the "
            "component's own, such as {artifacts:decompressedPath}."
        )
    for found in _bare_settings(text):
        if SHELL.search(str(settings.get(found.group("pointer")[1:]))):
            raise Untranslatable(
                f"The value of {found.group()} is a piece of shell script, which lite escapes. "
                "Move it into the script, or read it with GetConfiguration."
            )


def _bare_settings(text: str) -> List[Match[str]]:
    """Return the settings inserted outside quotes, where the shell splits them into words."""
    return [
        found
        for found, double, single in _variables(text)
        if found.group("pointer") and not double % 2 and not single % 2
    ]


def _variables(text: str) -> Iterator[Tuple[Match[str], int, int]]:
    """Yield each variable, and how many double and single quotes stand before it in its line."""
    place = double = single = 0
    for found in VARIABLE.finditer(text):
        _, newline, line = text[place : found.start()].rpartition("\n")
        if newline:
            double = single = 0
        double, single = double + line.count('"'), single + line.count("'")
        place = found.start()
        yield found, double, single


def _is_plain(text: str) -> bool:
    shell = SHELL.search(VARIABLE.sub("", text)) or BUILT_IN.match(text)
    return not shell and not _bare_settings(text)


def _quote(word: Match[str]) -> str:
    """Put a word with variables into double quotes."""
    if not VARIABLE.search(word.group()):
        return word.group()
    value = "".join("".join(part) for part in PART.findall(word.group()))
    if '"' in value:
        raise Untranslatable("It has double quotes within single quotes; write it the other way.")
    return f'"{value}"'


def _in_file(text: str, name: str) -> Program:
    """Move the script into a file; its variables become ${1}, ${2} and so on."""
    numbers: Dict[str, int] = {}
    has_document, parts, end = "<<" in text, [], 0
    for found, _, single in _variables(text):
        if single % 2 or has_document:
            raise Untranslatable(
                f"{found.group()} stands in single quotes or a here-document, where the shell "
                "may insert nothing; use double quotes."
            )
        number = numbers.setdefault(found.group(), len(numbers) + 1)
        parts += [text[end : found.start()], f"${{{number}}}"]
        end = found.end()
    arguments = "".join(f' "{variable}"' for variable in numbers)
    content = "".join([*parts, text[end:], "\n"])
    return Program(f'exec sh "{{artifacts:path}}/{name}"{arguments}', content)


def _exports(setenv: Mapping[str, object]) -> List[str]:
    lines = []
    for name, value in setenv.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or FOREIGN.search(VARIABLE.sub("", text)):
            raise Untranslatable(f"Setenv {name} can't become a shell variable.")
        escaped = re.sub(r'(["\\$`])', r"\\\1", text)
        lines.append(f'export {name}="{escaped}"')
    return lines


def _skips(condition: str) -> List[str]:
    """Return the shell's words for Skipif: `onpath PROGRAM` or `exists FILE`."""
    if not condition:
        return []
    kind, _, what = condition.strip().partition(" ")
    tests = {"onpath": 'command -v "%s" > /dev/null', "exists": '[ -e "%s" ]'}
    if kind not in tests or not what.strip() or re.search(r"[\"'$`\\\n]", what):
        raise Untranslatable("Its Skipif can't be read; expected: onpath PROGRAM or exists FILE.")
    return [f"{tests[kind] % what.strip()} && exit 0"]
