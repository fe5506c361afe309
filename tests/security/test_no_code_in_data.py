"""Data is never code: nothing the product reads can name what is to be run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple

import pytest

from tests import ROOT

SOURCES = [path for name in ("edge_agent", "scripts") for path in (ROOT / name).rglob("*.py")]
SCRIPTS = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]  # shell and Python

# whose formats run code when they are read, or which pickle what they pass on
MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copyreg",
    "jsonpickle", "multiprocessing", "runpy", "code", "codeop",
}  # fmt: skip
BUILT_IN = {"eval", "exec", "compile", "__import__"}
# calls that do so unless an argument forbids it: name → (argument, values that forbid it)
UNSAFE_UNLESS: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "yaml.load": ("Loader", ("SafeLoader", "yaml.SafeLoader", "CSafeLoader", "yaml.CSafeLoader")),
    "yaml.load_all": ("Loader", ("SafeLoader", "yaml.SafeLoader")),
    "torch.load": ("weights_only", ("True",)),
}
UNSAFE = {
    "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all",
    "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle", "logging.config.fileConfig",
    "logging.config.listen",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"allow_pickle": "True", "shell": "True"}

# file, what is found in it → why it may
EXCEPTIONS = {
    ("scripts/peers/load.py", "multiprocessing"): (
        "a tool for developers; its pipes have no name and lie between it and its own children"
    ),
    ("edge_agent/packaging/migrate/documents.py", "yaml.load"): (
        "its Loader is a class derived from SafeLoader, see below"
    ),
}


def found(source: str) -> Iterator[str]:
    """What in `source` may run code that stands in data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from names & MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {str(node.module).split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            yield from _found_in_call(node)
        elif isinstance(node, ast.Name) and node.id in BUILT_IN:
            yield node.id


def _found_in_call(call: ast.Call) -> Iterator[str]:
    name = _dotted(call.func)
    given = {word.arg: _dotted(word.value) for word in call.keywords}
    if name in UNSAFE:
        yield name
    if name in UNSAFE_UNLESS:
        argument, safe = UNSAFE_UNLESS[name]
        if given.get(argument) not in safe:
            yield name
    if name.endswith("import_module"):
        yield from {_dotted(given).split(".")[0] for given in call.args} & MODULES
    yield from (word for word, bad in FORBIDDEN_ARGUMENTS.items() if given.get(word) == bad)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Constant):
        return str(node.value)
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_name_code_to_run(path: Path) -> None:
    assert set(found(path.read_text())) == allowed(path)


def allowed(path: Path) -> Set[str]:
    return {what for name, what in EXCEPTIONS if name == str(path.relative_to(ROOT))}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_imports_what_runs_data(path: Path) -> None:
    imports = re.findall(r"\b(?:import|from)\s+(\w+)", path.read_text())
    assert not MODULES & set(imports)


def test_the_loader_of_recipes_is_a_safe_one() -> None:
    tree = ast.parse((ROOT / "edge_agent/packaging/migrate/documents.py").read_text())
    loader = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "Loader")
    assert [_dotted(base) for base in loader.bases] == ["yaml.SafeLoader"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import multiprocessing.connection",
        "def f(text):\n    return eval(text)",
        "run = exec",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "subprocess.run(text, shell=True)",
        "import_module('pickle')",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert list(found(source))
