"""`edge-agent train`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Tuple

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
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    parser.add_argument(
        "--bits", type=int, choices=DEPTHS,
        help="of the camera, in files of 16 bits a channel (default: by the highest value in them)",
    )  # fmt: skip
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

    from edge_agent.evaluation.label_manifest import ManifestOptions
    from edge_agent.logs import printable
    from edge_agent.training import trainer
    from edge_agent.training.backbones import BackboneOptions

    console = Console(soft_wrap=True, markup=False, highlight=False)
    trainer.train(
        arguments.source,
        arguments.out,
        task=arguments.task,
        normal_only=arguments.normal_only,
        name=arguments.name,
        version=arguments.version,
        size=arguments.size,
        seed=arguments.seed,
        bits=arguments.bits,
        options=ManifestOptions(arguments.images, arguments.model, arguments.label_attribute),
        backbone=BackboneOptions(arguments.backbone, arguments.backbone_layers),
        progress=lambda text: console.print(printable(text)),
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
