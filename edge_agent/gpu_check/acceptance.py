"""All checks in their order: engines, their results, speed, serving, leaks, faults."""

from __future__ import annotations

import argparse
import platform
import re
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Dict

from edge_agent.benchmark import host_metrics
from edge_agent.config import EngineSettings
from edge_agent.demo.package import make_package
from edge_agent.errors import BackendUnavailable, InvalidConfiguration
from edge_agent.gpu_check import (
    engine_build,
    faults,
    memory,
    models,
    parity,
    serving,
    speed,
    startup,
)
from edge_agent.gpu_check.report import AcceptanceReport, CheckEnded
from edge_agent.gpu_check.site import GOALS, Scope, Site
from edge_agent.runtime.backends.cuda.driver import Driver, open_driver
from edge_agent.runtime.backends.trt_engine import library
from edge_agent.runtime.engines.machine import Machine, look
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.system import resources

FILE = "gpu_check.json"


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Check; works in `folder`. Returns 1 when a check failed, or a required goal is missing.

    SIGTERM and SIGINT skip what is left. Raises EdgeAgentError when nothing can be checked: no GPU,
    no TensorRT, a wrong option.
    """
    scope = _scope(arguments)
    machine = look()
    if machine.gpu is None or not machine.tensorrt:
        raise BackendUnavailable(machine.no_gpu or machine.no_tensorrt)
    _make(arguments.out)
    goals = [name for name in GOALS if name != "overlap" or not machine.gpu.is_integrated]
    driver = open_driver()
    facts = _facts(machine, driver)
    report = AcceptanceReport(facts, _print, arguments.out / FILE, goals, arguments.within)
    _print(_title(machine, driver))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_end, report))
    try:
        _check(_site(arguments, folder, scope, machine, driver), report, arguments)
    except CheckEnded as ended:  # while the model was trained
        _print(str(ended))
    report.save()
    _print("\n" + report.summary())
    return 1 if report.has_failed or (arguments.strict and report.unmeasured) else 0


def _site(
    arguments: argparse.Namespace, folder: Path, scope: Scope, machine: Machine, driver: Driver
) -> Site:
    package = Package(arguments.package) if arguments.package else None
    base = package or Package(make_package(folder, scope.good_parts))
    return Site(
        folder=folder, scope=scope, machine=machine, trt=library(), driver=driver,
        supply=EngineSupply(EngineSettings(backends=("tensorrt",), cache=folder / "engines")),
        base=base, pictures=models.mixed_pictures(scope.pictures, base.manifest),
    )  # fmt: skip


def _check(site: Site, report: AcceptanceReport, arguments: argparse.Namespace) -> None:
    with site.driver.context():  # held all the time, for libraries that allow no other
        engine_build.check(site, report)
        parity.check(site, report)
        for source in arguments.data:
            parity.check_data(site, report, source, trains=arguments.package is None)
        free = memory.settled(site, report)
        best = speed.check(site, report)
        report.add(board_after_speed=host_metrics.state())
        report.check("engine from the cache", partial(startup.from_cache, site), "cached_start_s")
        memory.check_engine(site, report)
        if best is not None:
            serving.check(site, report, best)
        startup.check(site, report)
        memory.check_leaks(site, report)
        faults.check(site, report)
        report.check("GPU memory at the end", partial(memory.at_the_end, site, free))


def _end(report: AcceptanceReport, number: int, _frame: object) -> None:
    """End the run, once; after further signals it still cleans up."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    report.end(f"ended by {signal.Signals(number).name}")


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfiguration(
            f"The folder --out {out} can't be created: {error.strerror}."
        ) from None


def _scope(arguments: argparse.Namespace) -> Scope:
    goals = dict(GOALS)
    for each in arguments.goal:
        name, _, value = each.partition("=")
        if name not in GOALS or not re.fullmatch(r"\d+(\.\d+)?", value):
            raise InvalidConfiguration(
                f"--goal {each}: expected NAME=NUMBER, NAME one of {', '.join(GOALS)}."
            )
        goals[name] = float(value)
    return Scope(
        batches=tuple(sorted(arguments.batches)),
        pictures=arguments.pictures,
        good_parts=arguments.parts,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        clients=arguments.clients,
        goals=goals,
    )


def _facts(machine: Machine, driver: Driver) -> Dict[str, object]:
    with driver.context():
        total = driver.total_bytes()
    return {
        **asdict(machine),
        "gpu_bytes": total,
        "called_through": driver.name,
        "cores": resources.cores(),
        "board": host_metrics.state(),
        "python": platform.python_version(),
    }


def _title(machine: Machine, driver: Driver) -> str:
    assert machine.gpu is not None
    gpu = machine.gpu
    return (
        f"{gpu.name} ({gpu.code}), driver {gpu.driver or 'unknown'} for CUDA {gpu.cuda}, TensorRT "
        f"{machine.tensorrt}, CUDA called through {driver.name}, {resources.cores()} cores "
        f"{machine.arch}, Python {platform.python_version()}"
    )


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
