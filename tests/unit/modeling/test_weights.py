"""Foreign weights: every map on a file with the published names, every tensor accounted for, loading proven by value."""

from __future__ import annotations

import hashlib
import json
import pickle
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from presage_modeling.encoders.interface import build_encoder
from presage_modeling.encoders.weight_maps import apply_map, map_names, read_map, unpack
from presage_modeling.encoders.weights import Imported, ImportReport, account, import_weights, load_imported, read_card
from presage_modeling.pretraining import new_encoder
from presage_modeling.recipe import read_recipe
from presage_platform.errors import ExitCode, WeightsError
from tests.lib import foreign_weights as foreign


def tte_swinunetr() -> foreign.Shapes:
    """The whole network, as MONAI names it today, with a pretraining head."""
    net = build_encoder(read_map("tte_swinunetr").encoder, 1).get_submodule("net")
    yield from ((f"module.{name}", tuple(tensor.shape)) for name, tensor in net.state_dict().items())
    yield "module.task_layer.weight", (8, 3)


FILES: dict[str, tuple[Callable[[], foreign.Shapes], str]] = {
    "torchvision_densenet121": (foreign.densenet121, ""),
    "torchvision_resnet152": (foreign.resnet152, ""),
    "monai_swinvit": (foreign.swinvit, "module."),
    "tte_swinunetr": (tte_swinunetr, ""),
    "tte_densenet121": (partial(foreign.densenet121, depth=1), "module."),
    "tte_resnet152": (partial(foreign.resnet152, deep=True), ""),
}


def densenet(**options: Any) -> dict[str, Tensor]:
    return foreign.fabricate(foreign.densenet121(**options))


def accounted(map_name: str, document: dict[str, Tensor]) -> ImportReport:
    """Map tensors without content onto an encoder without content: keys, shapes and operations alone."""
    key_map = read_map(map_name)
    target = build_encoder(key_map.encoder, 1).to("meta").state_dict()
    mapped, ignored = apply_map(key_map, unpack(document, key_map.containers), target)
    return account(mapped, ignored, target)


def take(folder: Path, map_name: str, document: Any, **options: Any) -> Imported:
    file = folder / "foreign.pth"
    torch.save(document, file)
    arch = read_map(map_name).encoder.name
    arguments = {"arch": arch, "licence": "as published", "folder": folder / "weights", **options}
    return import_weights(file, map_name=map_name, **arguments)


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("an import opens no socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_m34_the_maps_are_the_six_that_are_named() -> None:
    assert map_names() == sorted(FILES)


@pytest.mark.parametrize("map_name", FILES)
def test_m34_each_map_fills_its_encoder_from_published_names(map_name: str) -> None:
    shapes, prefix = FILES[map_name]
    report = accounted(map_name, foreign.fabricate(shapes(), prefix, meta=True))
    assert report.share_of_tensors == report.share_of_elements == 1.0
    assert not report.missing and not report.unexpected and not report.shape_mismatch
    assert report.ignored and all(reason for reason in report.ignored.values())


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict"])
def test_m34_tensors_lie_at_the_top_or_in_a_named_table(container: str) -> None:
    document: Any = {"epoch": 3, container: foreign.fabricate(foreign.densenet121(depth=1), "module.", meta=True)}
    assert accounted("tte_densenet121", document).share_of_tensors == 1.0


def test_m34_old_torchvision_names_are_understood() -> None:
    report = accounted("torchvision_densenet121", foreign.fabricate(foreign.densenet121(old_names=True), meta=True))
    assert report.share_of_tensors == 1.0


def test_m30_the_report_names_source_target_and_operation() -> None:
    report = accounted("torchvision_resnet152", foreign.fabricate(foreign.resnet152(), meta=True))
    assert report.matched["stem.0.weight"] == ["conv1.weight", "inflate repeat, depth 7", "channels sum, 3 to 1"]
    assert report.matched["layer1.0.downsample.0.weight"] == ["layer1.0.downsample.0.weight", "inflate repeat, depth 1"]
    assert report.matched["layer1.0.bn1.running_var"] == ["layer1.0.bn1.running_var"]
    assert report.ignored == dict.fromkeys(("fc.weight", "fc.bias"), "the classifier of ImageNet's classes")


def test_m29_an_inflated_network_says_of_a_constant_volume_what_the_shallow_one_said(tmp_path: Path) -> None:
    """Depth-first kernels of depth 1 stand in the middle: slices away from the border do not see each other's content."""
    state = foreign.fabricate(foreign.densenet121(depth=1), "module.")
    name = take(tmp_path, "tte_densenet121", {"state_dict": state}).name
    encoder = build_encoder(read_map("tte_densenet121").encoder, 1)
    load_imported(encoder, tmp_path / "weights", name)
    kernel = encoder.get_submodule("features.denseblock1.denselayer1.layers.conv2").weight
    source = state["module.features.denseblock1.denselayer1.conv2.weight"]
    assert torch.equal(kernel[..., 1], source[:, :, 0].transpose(2, 3))
    assert (kernel[..., 0] == 0).all() and (kernel[..., 2] == 0).all()


def test_m35_ninety_four_percent_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    state = densenet()
    wanted = [name for name in state if not name.startswith("classifier")]
    for name in wanted[: round(0.06 * len(wanted))]:
        del state[name]
    with pytest.raises(WeightsError, match="expected at least 95 %") as caught:
        take(tmp_path, "torchvision_densenet121", state)
    assert caught.value.exit_code == ExitCode.RECIPE and "\n" not in str(caught.value)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("features.norm5.weight"), "not every tensor is accounted for"),
        (lambda state: state.update({"stranger.weight": torch.zeros(2)}), "stranger.weight"),
        (lambda state: state.update({"features.norm5.weight": torch.zeros(3)}), "1 of another shape"),
    ],
    ids=["one missing", "one unexpected", "one of another shape"],
)
def test_m30_a_single_tensor_that_is_not_accounted_for_is_an_error(change: Any, said: str, tmp_path: Path) -> None:
    state = densenet()
    change(state)
    with pytest.raises(WeightsError, match=said):
        take(tmp_path, "torchvision_densenet121", state)


class Loud:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (print, ("executed",))


def test_m33_a_file_that_needs_more_than_tensors_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hostile.pth"
    for content in (pickle.dumps({"state_dict": Loud()}), b"", b"not a file of weights"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="more than plain tensors"):
            import_weights(
                file, arch="densenet121", map_name="torchvision_densenet121", licence="x", folder=tmp_path / "w"
            )
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


def test_m33_safetensors_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file(densenet(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    options = {"arch": "densenet121", "map_name": "torchvision_densenet121", "licence": "x", "folder": tmp_path / "w"}
    assert import_weights(file, sha256=digest, **options).card["source"] == {"file": file.name, "sha256": digest}
    with pytest.raises(WeightsError, match="it is another file"):
        import_weights(file, sha256="0" * 64, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"licence": " "}, "licence"),
        ({"arch": "resnet152"}, "is for densenet121"),
    ],
    ids=["no licence", "another architecture"],
)
def test_m32_what_an_import_needs(options: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=said):
        take(tmp_path, "torchvision_densenet121", densenet(), **options)
    with pytest.raises(WeightsError, match="no key map is named"):
        read_map("resnet18")


def test_m36_weights_that_change_nothing_are_not_loaded(tmp_path: Path) -> None:
    """A file that equals the fresh initialisation proves nothing was loaded."""
    imported = take(tmp_path, "torchvision_densenet121", densenet())
    encoder = build_encoder(read_map("torchvision_densenet121").encoder, 1)
    load_imported(encoder, tmp_path / "weights", imported.name)
    with pytest.raises(WeightsError, match="as it was initialised"):
        load_imported(encoder, tmp_path / "weights", imported.name)
    assert isinstance(encoder, nn.Module)


def test_m37_the_card_says_where_they_came_from_and_the_file_is_the_one_it_describes(tmp_path: Path) -> None:
    imported = take(tmp_path, "torchvision_densenet121", densenet(), channels=4)
    card = read_card(imported.path)
    assert card["licence"] == "as published" and card["channels"] == 4 and card["architecture"] == "densenet121"
    assert card["map"] == {"name": "torchvision_densenet121", "sha256": read_map("torchvision_densenet121").sha256}
    assert json.loads(imported.path.with_suffix(".json").read_text()) == card
    assert {file.suffix for file in (tmp_path / "weights").iterdir()} == {".safetensors", ".json"}
    imported.path.write_bytes(imported.path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        read_card(imported.path)


def test_m32_a_recipe_starts_from_imported_weights_of_its_own_shape_only(tmp_path: Path) -> None:
    imported = take(tmp_path, "torchvision_densenet121", densenet(), channels=4)
    file = tmp_path / "mine.toml"
    file.write_text(f'[encoder]\nname = "densenet121"\nweights = "{imported.name}"\n')
    recipe = read_recipe(str(file), ["input.windows=['lung','parenchyma','soft_tissue','calcium']"])
    folder = tmp_path / "weights"
    first, again = new_encoder(recipe, folder), new_encoder(recipe, folder)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    kernel = first.get_submodule("features.conv0").weight
    torch.testing.assert_close(kernel[:, 0], kernel[:, 3])  # a grey image in every window
    with pytest.raises(WeightsError, match="--channels"):
        new_encoder(read_recipe(str(file)), folder)
    with pytest.raises(WeightsError, match="no imported weights are named"):
        new_encoder(read_recipe(str(file), ["encoder.weights=nothing"]), folder)
