"""The laws of docs/architecture.md: who may import what, and how large a module may grow."""

from __future__ import annotations

import ast
import re
import statistics
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from tests import ROOT

PACKAGE = ROOT / "edge_agent"
PAGE = ROOT / "docs" / "architecture.md"

TOOLS = (
    "client",
    "packaging",
    "training",
    "evaluation",
    "benchmark",
    "demo",
    "captures",
    "gpu_check",
    "pictures",
    "service",
)
SHARED = (
    "errors", "types", "fields", "setting_types", "sources", "targets", "manifest", "config",
    "logs", "protocol", "wire",
)  # fmt: skip

ABOVE_PACKAGES = tuple(
    f"runtime.{room}"
    for room in (
        "app", "backends", "batching", "detector", "engines", "host", "metrics", "models", "remote",
        "results", "rpc", "check_command", "serve_command", "settings_reload", "vision",
    )
)  # fmt: skip

# room → rooms it must not import
FORBIDDEN = {
    "runtime": [*TOOLS, "cli", "doctor"],
    "runtime.metrics": ["runtime.rpc", "runtime.models", "runtime.batching", "runtime.vision"],
    "runtime.detector": ["runtime.rpc", "runtime.backends"],
    "runtime.models": ["runtime.rpc", "runtime.results", "runtime.host", "runtime.remote"],
    "runtime.packages": [*ABOVE_PACKAGES],
    "runtime.system": [*ABOVE_PACKAGES, "runtime.packages", "runtime.processes"],
    "runtime.processes": [*ABOVE_PACKAGES, "runtime.packages"],
    "runtime.rpc": ["runtime.batching", "runtime.backends", "runtime.vision"],
    "runtime.rpc.convert": ["runtime.detector"],
    "runtime.rpc.status": ["runtime.detector"],
    "runtime.vision": ["runtime.batching", "runtime.backends", "runtime.rpc"],
    "runtime.batching": ["runtime.vision", "runtime.backends", "runtime.rpc"],
    "runtime.backends": ["runtime.batching", "runtime.vision", "runtime.engines"],
    "runtime.engines": ["runtime.rpc", "runtime.batching", "runtime.results"],
    "runtime.results": ["runtime.rpc", "runtime.detector", "runtime.batching", "runtime.backends"],
    "runtime.host": ["runtime.rpc", "runtime.batching", "runtime.vision"],
    "runtime.remote": ["runtime.rpc", "runtime.batching", "runtime.backends", "runtime.vision"],
    **{room: ["runtime", "cli", *TOOLS] for room in SHARED},
}

# third-party library → the only rooms that may import it
LIBRARIES = {
    "grpc": ["wire", "runtime.rpc", "client", "benchmark"],
    "grpc_health": ["runtime.rpc"],
    "grpc_reflection": ["runtime.rpc"],
    "onnxruntime": ["runtime.backends.ort", "training", "doctor", "packaging.graph"],
    "onnx": ["training", "packaging.graph", "gpu_check"],
    "prometheus_client": ["runtime.metrics"],
    "tensorrt": ["runtime.backends.trt_engine"],
    "pycuda": ["runtime.backends.cuda.by_pycuda"],
    "awsiot": ["runtime.host.greengrass", "runtime.host.session"],
    "awscrt": ["runtime.host.session", "runtime.results.broker.sdk"],
    "cv2": ["runtime.vision", "client", "training", "evaluation", "demo", "pictures.disturbances"],
    "boto3": ["packaging.aws", "captures.upload", "service.buckets"],
    "botocore": ["packaging.aws", "captures.upload", "service"],
    "cryptography": ["runtime.packages.signature", "packaging.signing"],
    "packaging": ["packaging.agent"],
    "yaml": ["packaging.recipe", "packaging.migrate"],
    "sqlite3": ["runtime.results.spool"],
    "sqlalchemy": ["service"],
    "starlette": ["service"],
    "uvicorn": ["service"],
    "rich": ["doctor", *TOOLS],
    **{library: [] for library in ("mlserver", "litserve", "fastapi", "pytriton")},  # scripts/peers
}

# module → why it may be longer than 450 lines
LONG: Dict[str, str] = {}


def modules() -> Dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("wire"):
            found[name] = path
    return found


MODULES = modules()


@lru_cache(maxsize=None)
def imports(path: Path, top_level_only: bool = False) -> Tuple[str, ...]:
    """Dotted names imported by a module, those only for type checkers left out."""
    return tuple(_imports(path, top_level_only))


def _imports(path: Path, top_level_only: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    nodes = list(tree.body if top_level_only else ast.walk(tree))
    skipped: Set[int] = set()
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(inner) for inner in ast.walk(node))
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def ours(path: Path, top_level_only: bool = False) -> Set[str]:
    """Modules of the package that `path` imports."""
    found = set()
    for name in imports(path, top_level_only):
        parts = name.split(".")
        if parts[0] == "edge_agent":
            inside = parts[1:]
            while inside and ".".join(inside) not in MODULES:
                inside = inside[:-1]
            found.add(".".join(inside))
    return found


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for name, path in MODULES.items():
        if within(name, room):
            for target in ours(path):
                clash = [bad for bad in FORBIDDEN[room] if within(target, bad)]
                assert not clash, f"{name} imports {target}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_lives_in_its_rooms(library: str) -> None:
    for name, path in MODULES.items():
        if any(imported.split(".")[0] == library for imported in imports(path)):
            assert any(within(name, room) for room in LIBRARIES[library]), f"{name}: {library}"


def test_every_rule_names_a_room_that_exists() -> None:
    for room, forbidden in FORBIDDEN.items():
        for name in [room, *forbidden]:
            known = name in MODULES or name == "wire"
            assert known, f"the rule for {room} names {name}, which doesn't exist"


def test_imports_have_no_cycles() -> None:
    edges = {name: ours(path, top_level_only=True) - {name, ""} for name, path in MODULES.items()}
    done: Set[str] = set()

    def visit(name: str, trail: List[str]) -> None:
        assert name not in trail, " → ".join([*trail, name])
        if name not in done:
            for target in edges.get(name, ()):
                visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_only_the_command_line_builds_the_app() -> None:
    users = [name for name, path in MODULES.items() if "runtime.app" in ours(path)]
    assert users == ["runtime.serve_command"]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_stays_short(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= 450 or name in LONG, f"{lines} lines"


@pytest.mark.parametrize("name", [name for name in MODULES if MODULES[name].stat().st_size])
def test_a_module_says_what_it_owns_and_runs_on_3_8(name: str) -> None:
    source = MODULES[name].read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    assert ast.get_docstring(tree)
    has_code = any(not isinstance(node, (ast.Expr, ast.Assign)) for node in tree.body)
    assert not has_code or "from __future__ import annotations" in source


def test_the_facade_fits_on_one_page() -> None:
    assert len(MODULES["runtime.detector"].read_text().splitlines()) <= 120


# Words of no other code base; docs/glossary.md has the field's own.
DIALECT = {
    "tell", "tells", "told", "trouble", "anew", "tend", "wish", "wished", "news", "patience",
    "hearing", "reckon", "reckoned", "agenda",
}  # fmt: skip


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module makes: of classes, functions, parameters and variables."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@pytest.mark.parametrize("module", MODULES)
def test_names_are_the_fields_words(module: str) -> None:
    found = [*names(ast.parse(MODULES[module].read_text())), module.rpartition(".")[2]]
    words = {word.lower() for name in found for word in re.findall(r"[A-Z]?[a-z]+", name)}
    assert not words & DIALECT


def test_one_public_class_name_stands_for_one_thing() -> None:
    homes: Dict[str, List[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or node.lineno) - node.body[0].lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
    assert statistics.median(lengths.values()) <= 8


def test_the_page_names_every_module_in_its_room_and_no_other() -> None:
    named, folder = set(), ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            folder = re.sub(r"^edge_agent/", "", line.strip("# `"))
        elif line.startswith("| `"):
            named.add(folder + line.split("`")[1])
    places = {str(path.relative_to(PACKAGE)) for path in MODULES.values()}
    there = {place for place in places if not place.endswith(("__init__.py", "__main__.py"))}
    assert there == named
