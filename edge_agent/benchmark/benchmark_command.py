"""`edge-agent benchmark`: an agent under load beside its raw engine, in one interleaved run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, List, Tuple, TypeVar

from rich.console import Console
from rich.progress import Progress

from edge_agent.benchmark import page, served, table
from edge_agent.benchmark.jobs import exit_on_signal
from edge_agent.benchmark.kserve import TRANSPORT, parse_url
from edge_agent.benchmark.measure import BenchmarkPlan, BenchmarkRun
from edge_agent.benchmark.results import BenchmarkReport, ClientLoad
from edge_agent.errors import InvalidRequest
from edge_agent.protocol import LARGEST_SIDE_PX, SMALLEST_SIDE_PX
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.system import resources

TRANSPORTS = ("shared_memory", "bytes")
MOST_CLIENTS = 256
STDOUT = "-"

Value = TypeVar("Value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `benchmark`."""
    add = parser.add_argument
    add("--socket", metavar="ADDRESS", help="of a running agent (default: start one)")
    add("--model", help="model component to measure; only with --socket")
    add("--package", type=Path, help="model package (default: the demo's, without --socket)")
    add(
        "--units",
        type=int,
        help="of agent and raw engine (default: the manifest's)",
    )
    add("--threads", type=int, help="engine threads of a unit (default: cores / units)")
    add("--batches", action="store_true", help="use the model's batch sizes on a CPU too")
    add("--clients", default="1,2,4,8", help="clients in the closed loop (%(default)s)")
    add("--rate", default="", metavar="FPS", help="frames a second due in the open loop: 30,60")
    add("--transport", default=",".join(TRANSPORTS), help="to measure (%(default)s)")
    add("--compare", metavar="URL", help="also a KServe V2 server: grpc://HOST:PORT/MODEL")
    add("--size", default="1920x1080", help="of the frames: 1920x1080,640x480 (%(default)s)")
    add("--seconds", type=float, default=5.0, help="of each measurement (%(default)s)")
    add("--rounds", type=int, default=300, help="single calls of each kind (%(default)s)")
    add(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write one JSON object",
    )
    add("--html", type=Path, metavar="FILE", help="write a page with plots")


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; 1 when frames failed."""
    _check(arguments)
    loads, sizes = _loads(arguments), tuple(_list("--size", arguments.size, _size))
    signal.signal(signal.SIGTERM, exit_on_signal)
    console = Console(stderr=True)
    with ExitStack() as stack:
        plan = _plan(arguments, loads, sizes, stack, console)
        with Progress(console=console) as progress:
            task = progress.add_task("Measuring", total=plan.steps)
            report = BenchmarkRun(plan, lambda: progress.advance(task)).report()
    _write(report, arguments)
    return 1 if any(one.failures for size in report.sizes for one in size.measurements) else 0


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.socket) != bool(arguments.model):
        raise InvalidRequest("--socket and --model belong together: give both or neither.")
    for name, least in (("units", 1), ("threads", 1), ("rounds", 1), ("seconds", 0.1)):
        value = getattr(arguments, name)
        if value is not None and not least <= value <= 86400:
            raise InvalidRequest(f"--{name} is {value}; expected {least} to 86400.")
    if arguments.compare:
        parse_url(arguments.compare)
        if arguments.socket and not arguments.package:
            raise InvalidRequest("--compare needs --package: both servers must have that model.")
    for file in (arguments.html, arguments.json):
        if file not in (None, STDOUT) and not Path(file).resolve().parent.is_dir():
            raise InvalidRequest(f"Can't write {file}: its folder does not exist; create it first.")


def _loads(arguments: argparse.Namespace) -> Tuple[ClientLoad, ...]:
    """Return the closed loops, then the open ones, which use as many clients as the largest."""
    clients = sorted(set(_list("--clients", arguments.clients, _clients)))
    rates = sorted(set(_list("--rate", arguments.rate, _rate))) if arguments.rate else []
    transports = _list("--transport", arguments.transport, _transport)
    transports += [TRANSPORT] if arguments.compare else []
    closed = [ClientLoad(transport, count) for transport in transports for count in clients]
    opened = [
        ClientLoad(transport, clients[-1], rate) for transport in transports for rate in rates
    ]
    return tuple(dict.fromkeys(closed + opened))


def _plan(
    arguments: argparse.Namespace,
    loads: Tuple[ClientLoad, ...],
    sizes: Tuple[Tuple[int, int], ...],
    stack: ExitStack,
    console: Console,
) -> BenchmarkPlan:
    """Find or start the agent; what is started ends with `stack`."""
    package = arguments.package
    if not arguments.socket and package is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-"))
        package = _demo_package(Path(folder), console)
    wanted_units = Package(package).manifest.runtime.min_inference_units if package else 1
    units = arguments.units or wanted_units
    threads = arguments.threads or max(1, resources.cores() // units)
    if arguments.socket:
        address, model = arguments.socket, arguments.model
    else:
        batches = f"engine.cpu_batches={str(arguments.batches).lower()}"
        own = served.agent(package, units, threads, batches)
        address, model = stack.enter_context(own), served.MODEL
    served.check_running(address, model)
    measured = arguments.seconds, arguments.rounds, arguments.compare
    return BenchmarkPlan(address, model, package, units, threads, loads, sizes, *measured)


def _demo_package(folder: Path, console: Console) -> Path:
    from edge_agent.demo.package import make_package

    console.print("Training the demo's model; give another one with --package.")
    return make_package(folder)


def _write(report: BenchmarkReport, arguments: argparse.Namespace) -> None:
    content = json.dumps(report.record()) + "\n"
    if arguments.json == STDOUT:
        sys.stdout.write(content)
    else:
        table.show(report, Console())
        if arguments.json:
            Path(arguments.json).write_text(content, encoding="utf-8")
    if arguments.html:
        arguments.html.write_text(page.build(report), encoding="utf-8")


def _list(option: str, text: str, read: Callable[[str], Value]) -> List[Value]:
    try:
        return [read(word.strip()) for word in text.split(",")]
    except ValueError as error:
        raise InvalidRequest(f"{option} is {text!r}; expected {error}.") from None


def _clients(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= MOST_CLIENTS:
        raise ValueError(f"numbers from 1 to {MOST_CLIENTS} with commas between")
    return int(word)


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate <= 100_000.0:
        raise ValueError("frames a second above 0, with commas between")
    return rate


def _transport(word: str) -> str:
    if word not in TRANSPORTS:
        raise ValueError(f"some of {', '.join(TRANSPORTS)}")
    return word


def _size(word: str) -> Tuple[int, int]:
    width, x, height = word.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise ValueError("WIDTHxHEIGHT with commas between")
    if not all(SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX for side in (int(width), int(height))):
        raise ValueError(f"sides of {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX}")
    return int(width), int(height)
