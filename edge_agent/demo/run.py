"""The quick start, step by step: draw, train, serve, inspect, report."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional

import cv2

from edge_agent.client import Client
from edge_agent.demo import page, parts
from edge_agent.demo.agent_process import AgentProcess
from edge_agent.demo.line import InspectedPart, Summary, summarise
from edge_agent.demo.package import GOOD_PARTS, MODEL, draw_good_parts, emptied, train
from edge_agent.runtime.vision import overlay
from edge_agent.runtime.vision.picture_files import jpeg, png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from edge_agent.types import Prediction

THUMBNAIL_WIDTH, THUMBNAIL_QUALITY = 400, 84


@dataclass(frozen=True)
class Demo:
    """Where the demo writes, how many parts it inspects and trains on, and from which seed."""

    out: Path
    parts: int
    seed: int
    console: Console
    good_parts: int = GOOD_PARTS

    def run(self) -> Summary:
        """Do everything. Raises EdgeAgentError when training or the agent failed."""
        began = time.monotonic()
        with self._step(f"Drawing {self.good_parts} good parts"):
            draw_good_parts(self.out / "parts", self.good_parts, self.seed)
        with self._step("Training on the good parts only"):
            train(self.out / "parts", self.out / "models", self.seed, self._detail)
        with self._step("Inspecting the line with the agent in a process of its own"):
            line = self._inspect()
        summary = summarise(line)
        seconds, threshold = time.monotonic() - began, line[0].prediction.threshold
        facts = page.Facts(self.good_parts, self.seed, seconds, threshold)
        (self.out / "index.html").write_text(page.build(line, summary, facts), encoding="utf-8")
        return summary

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.console.print(f"{what} ...", style="bold")
        began = time.monotonic()
        yield
        self._detail(f"done in {time.monotonic() - began:.1f} s")

    def _detail(self, text: str) -> None:
        self.console.print(f"  {text}", style="dim", markup=False)

    def _inspect(self) -> List[InspectedPart]:
        emptied(self.out / "overlays")
        agent = AgentProcess(self.out / "models", log=self.out / "agent.log")
        plan = list(enumerate(parts.mixed(self.parts, self.seed), start=1))
        with agent, Client(agent.address) as client:
            client.start(MODEL)
            self._detail(f"model {MODEL} is RUNNING at {agent.address}")
            line = [self._inspect_part(client, number, *part) for number, part in plan]
        agent.check_exit()
        return line

    def _inspect_part(
        self, client: Client, number: int, seed: int, defect: Optional[str]
    ) -> InspectedPart:
        part = parts.draw(seed, defect)
        began = time.perf_counter()
        prediction = client.detect(MODEL, part.image, transport="shared_memory")
        latency_ms = (time.perf_counter() - began) * 1000.0
        inspected = InspectedPart(
            number=number,
            defect=defect,
            prediction=replace(prediction, mask=None),
            latency_ms=latency_ms,
            located=_located(part, prediction),
            thumbnail=_thumbnail(overlay.highlight(part.image, prediction)),
        )
        name = f"{number:03}-{inspected.truth.replace(' ', '-')}-{inspected.verdict}.png"
        (self.out / "overlays" / name).write_bytes(png(overlay.draw(part.image, prediction)))
        self._print(inspected)
        return inspected

    def _print(self, inspected: InspectedPart) -> None:
        prediction = inspected.prediction
        ending = "[green]right[/green]" if inspected.right else "[bold red]WRONG[/bold red]"
        self.console.print(
            f"  {inspected.number:3}  {inspected.truth:<12}  {inspected.verdict:<7}"
            f"  score {prediction.score:.3f}  confidence {prediction.confidence:.3f}"
            f"  {inspected.latency_ms:5.1f} ms  {ending}"
        )


def _thumbnail(picture: NDArray[np.uint8]) -> bytes:
    height = round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1])
    small = cv2.resize(picture, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
    return jpeg(small, THUMBNAIL_QUALITY)


def _located(part: parts.Part, prediction: Prediction) -> Optional[bool]:
    if part.defect is None or prediction.mask is None:
        return None
    marked = (prediction.mask != 255).any(axis=2)
    return bool((marked & part.mask).any())
