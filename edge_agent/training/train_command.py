"""`edge-agent train`."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Tuple

if TYPE_CHECKING:
    from edge_agent.training.resolution import TileChoice

MULTIPLE = 16
SMALLEST, LARGEST = 64, 1024  # pixels of the model's input each way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `train`."""
    from edge_agent.pictures.reader import DEPTHS

    parser.add_argument(
        "source", type=Path, metavar="IMAGES",
        help="a folder with normal/ and perhaps anomaly/, or a manifest (JSON lines)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="PACKAGE", help="to write")
    parser.add_argument(
        "--task", choices=("anomaly_map", "classification"), default="anomaly_map",
        help="classification gives a score without a map (default: anomaly_map)",
    )  # fmt: skip
    parser.add_argument("--normal-only", action="store_true", help="leave anomalies out")
    parser.add_argument("--name", help="of the model (default: the captures' or the folder's)")
    parser.add_argument("--version", default="1", help="of the model (default: 1)")
    parser.add_argument(
        "--size", type=input_size, metavar="HxW",
        help=f"height and width of the model's input, multiples of {MULTIPLE} "
        "(default: by the first image, at most about 65000 pixels)",
    )  # fmt: skip
    parser.add_argument(
        "--tiles", type=tile_choice, default="auto", metavar="auto|RxC|none",
        help="judge large pictures in R rows and C columns of overlapping tiles, for small defects "
        "(default: auto, where the masks or validation say that it helps)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    parser.add_argument(
        "--bits", type=int, choices=DEPTHS,
        help="of the camera, in files of 16 bits a channel (default: by the highest value in them)",
    )  # fmt: skip
    parser.add_argument(
        "--max-overkill", type=share, metavar="SHARE",
        help="of good images called anomalous, such as 2%% or 0.02: places the threshold",
    )  # fmt: skip
    parser.add_argument(
        "--max-escape", type=share, metavar="SHARE",
        help="of bad images called normal, such as 1%%; it comes before --max-overkill where not "
        "both can be reached",
    )  # fmt: skip
    parser.add_argument(
        "--test", type=Path, metavar="IMAGES",
        help="images that the model will be tested with: says which of them are trained on too "
        "(default: the folder test/ beside a folder train/)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors")
    parser.add_argument(
        "--backbone", default="auto", metavar="auto|none|lite0|FILE.onnx",
        help="network with learned weights that helps the filter bank (default: auto, "
        "EfficientNet-Lite0 where edge-agent[backbone] is installed)",
    )  # fmt: skip
    parser.add_argument(
        "--backbone-layers", type=lambda text: tuple(text.split(",")), default=(),
        metavar="NAME,...", help="tensors of FILE.onnx to look at (default: found by their size)",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, help="folder with what a manifest's bucket holds")
    parser.add_argument("--model", help="of a manifest, only what was captured with this model")
    parser.add_argument(
        "--label-attribute", metavar="JOB", help="of a manifest, the labelling job that counts"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and print where the package is."""
    from rich.console import Console

    from edge_agent.evaluation import steps
    from edge_agent.evaluation.label_manifest import ManifestOptions
    from edge_agent.logs import printable
    from edge_agent.training import trainer
    from edge_agent.training.backbones import BackboneOptions
    from edge_agent.training.placement import Wanted

    console = Console(soft_wrap=True, markup=False, highlight=False)
    with contextlib.nullcontext(steps.Steps()) if arguments.quiet else steps.on_terminal() as shown:
        trainer.train(
            arguments.source,
            arguments.out,
            task=arguments.task,
            normal_only=arguments.normal_only,
            name=arguments.name,
            version=arguments.version,
            size=arguments.size,
            tiles=arguments.tiles,
            seed=arguments.seed,
            bits=arguments.bits,
            options=ManifestOptions(arguments.images, arguments.model, arguments.label_attribute),
            backbone=BackboneOptions(arguments.backbone, arguments.backbone_layers),
            wanted=Wanted(arguments.max_overkill, arguments.max_escape),
            test=arguments.test,
            progress=lambda text: None if arguments.quiet else console.print(printable(text)),
            steps=shown,
        )
    return 0


def input_size(text: str) -> Tuple[int, int]:
    """Read "256x384" as height and width."""
    parts = re.fullmatch(r"(\d+)x(\d+)", text)
    height, width = (int(part) for part in parts.groups()) if parts else (0, 0)
    if any(side % MULTIPLE or not SMALLEST <= side <= LARGEST for side in (height, width)):
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't HEIGHTxWIDTH, both multiples of {MULTIPLE} "
            f"from {SMALLEST} to {LARGEST}, such as 256x384"
        )
    return height, width


def tile_choice(text: str) -> TileChoice:
    """Read "auto", "none", or "4x6" as rows and columns."""
    from edge_agent.training.resolution import AUTO, NONE
    from edge_agent.training.tiles import MOST_TILES, Tiles

    if text == AUTO:
        return AUTO
    if text == NONE:
        return NONE
    parts = re.fullmatch(r"(\d+)x(\d+)", text)
    tiles = Tiles(*(int(part) for part in parts.groups()) if parts else (0, 0))
    if not 1 < tiles.total <= MOST_TILES:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't auto, none or ROWSxCOLUMNS of 2 to {MOST_TILES} tiles, such as 4x6"
        )
    return tiles


def share(text: str) -> float:
    """Read "2%" or "0.02" as a share above 0 and below 1."""
    parts = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%?)", text.strip())
    value = float(parts[1]) / (100.0 if parts[2] else 1.0) if parts else 0.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't a share above 0 and below 1, such as 2% or 0.02"
        )
    return value
