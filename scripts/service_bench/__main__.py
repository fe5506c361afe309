"""`python -m scripts.service_bench`: the figures of the service API, as a table."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Iterator, List, Tuple

from rich.live import Live
from rich.table import Table

from scripts.service_bench import long_lists, servers, training_time
from scripts.service_bench.calls import Caller, Rate
from scripts.service_bench.long_lists import PROJECT, PageTimes

BUSY = 8  # connections
TURNS = 3

Row = Tuple[str, str]


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(prog="scripts/bench --service", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of calls, each (default: 10)")
    parser.add_argument(
        "--cookies", type=Path, metavar="FOLDER",
        help="image set with a manifest, to train as well",
    )  # fmt: skip
    given = parser.parse_args()
    table = Table("what", "figure")
    with tempfile.TemporaryDirectory(prefix="edge-agent-service-") as folder, Live(table):
        for row in figures(Path(folder), given.seconds, given.cookies):
            table.add_row(*row)


def figures(folder: Path, seconds: float, cookies: Path | None) -> Iterator[Row]:
    """Yield what was measured, in words."""
    root = folder / "root"
    long_lists.fill(root)
    key = servers.add_key(root)
    with servers.service(root) as service, closing(Caller(service.port, key)) as caller:
        yield "memory of the idle service", f"{service.memory_mib():.0f} MiB"
        with servers.bare(folder) as bare, closing(Caller(bare.port, key)) as raw:
            for connections in (1, BUSY):
                turns = [_turn(caller, raw, seconds / TURNS, connections) for _ in range(TURNS)]
                yield f"DescribeModel, {connections} connections", _rate([a for a, _ in turns])
                yield f"bare Starlette, {connections} connections", _rate([b for _, b in turns])
        models = long_lists.page_times(caller, f"/projects/{PROJECT}/models")
        yield f"ListModels, {long_lists.MANY_MODELS} models", _pages(models)
        path = f"/projects/{PROJECT}/datasets/train/entries"
        entries = long_lists.page_times(caller, path)
        yield f"ListDatasetEntries, {long_lists.MANY_ENTRIES} entries", _pages(entries)
        yield "memory after these calls", f"{service.memory_mib():.0f} MiB"
        if cookies:
            times = training_time.measure(caller, root, cookies, folder)
            yield "training and test through the API", f"{times.api_s:.1f} s"
            yield "edge-agent train and evaluate", f"{times.command_s:.1f} s"


def _turn(caller: Caller, raw: Caller, seconds: float, connections: int) -> Tuple[Rate, Rate]:
    """Call one after the other, so that drift of the machine hits both alike."""
    path = f"/projects/{PROJECT}/models/1"
    return caller.rate(path, seconds, connections), raw.rate(path, seconds, connections)


def _rate(turns: List[Rate]) -> str:
    """Return the median turn's figures."""
    p50, p99, calls = (sorted(values)[len(turns) // 2] for values in zip(*turns))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, {calls:.0f} calls/s"


def _pages(times: PageTimes) -> str:
    return f"first {times.first_ms:.1f} ms, last {times.last_ms:.1f} ms of {times.pages} pages"


if __name__ == "__main__":
    main()
