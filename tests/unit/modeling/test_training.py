"""The training loop: the order of a step, what decays, how the rate moves, which numbers are of which type."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import presage_modeling.training
from presage_modeling.data import Batch
from presage_modeling.encoders.interface import Encoder, Features, build_encoder
from presage_modeling.encoders.resnet_recipe import ResNetRecipe
from presage_modeling.encoders.swinunetr_recipe import SwinUNETRRecipe
from presage_modeling.hardware import PrecisionRecipe, open_device
from presage_modeling.optimisation import OptimiserRecipe, ScheduleRecipe, build_optimiser, learning_rate
from presage_modeling.recipe import read_recipe
from presage_modeling.time_to_event import TimeToEventHead, negative_log_likelihood
from presage_modeling.training import Trainer
from presage_platform.errors import RecipeError
from tests.lib.likelihood import YEAR, Study, edges, sparse

STUDIES = [
    Study(end_s=(1 + k % 3) * YEAR, events={k % 2: YEAR // (k + 2)}, excluded={2} if k % 4 == 0 else set())
    for k in range(8)
]
EDGES_S = edges(0.25)
RATES = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64) / YEAR
SOURCES = sorted(Path(presage_modeling.training.__file__).parent.rglob("*.py"))


class Probe(Encoder):
    """One convolution, and a memory of the type that it computed in."""

    width, total_stride, stages = 4, (1, 1, 1), ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3)
        self.seen: list[torch.dtype] = []

    def forward_features(self, x_BCXYZ: Tensor, *, tokens: bool = False) -> Features:
        map_BDXYZ = self.conv(x_BCXYZ)
        self.seen.append(map_BDXYZ.dtype)
        return Features(map_BDXYZ.float().relu().mean((2, 3, 4)), None, (1, 1, 1))


class Likelihood:
    """The objective of eight invented studies."""

    trains = True

    def targets(self, split: str, positions: Any) -> Any:
        return sparse([STUDIES[position] for position in positions.tolist()], 3)

    def loss(self, head: nn.Module, features_BD: Tensor, targets: Any) -> tuple[Tensor, float]:
        return negative_log_likelihood(head(features_BD), targets, EDGES_S), 0.0

    def divisor(self, split: str, positions: Any) -> float:
        return float(sum(3 - len(STUDIES[position].excluded) for position in positions.tolist()))

    def null_loss(self, split: str) -> None:
        return None


class Once:
    """A feed of one batch of all studies."""

    steps_per_epoch, wait_s = 1, 0.0
    part = SimpleNamespace(study_id=np.arange(8))
    draw = np.random.default_rng(2)
    batch = Batch(0, 0, 0, np.arange(8), torch.from_numpy(draw.integers(-900, 300, (8, 6, 6, 6)).astype(np.int16)))

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        self.events.append("batch")
        yield self.batch

    def place(self, step: int) -> tuple[int, int]:
        return 1, 0


def trainer(*assignments: str, events: list[str] | None = None) -> Trainer:
    """Return a trainer of the probe; what its collaborators are asked for goes into `events`."""
    log: list[str] = [] if events is None else events
    quick = ("schedule.epochs=1", "schedule.effective_batch=8", "schedule.warmup_steps=0", "encoder.norm=group")
    recipe = read_recipe("tiny", [*quick, "input.windows=['full']", *assignments])
    torch.manual_seed(1)
    encoder, head = Probe(), TimeToEventHead(4, RATES, num_bins=2, rank=3, zero_init=False)
    return Trainer(
        recipe,
        encoder=encoder,
        head=head,
        objective=Likelihood(),  # type: ignore[arg-type]
        feeds={"train": Once(log)},  # type: ignore[dict-item]
        device=torch.device("cpu"),
        checkpoints=SimpleNamespace(load=lambda: None, save=lambda *a, **k: log.append("checkpoint")),  # type: ignore[arg-type]
        metrics=SimpleNamespace(restart=lambda step: None, write=lambda row: log.append("metrics")),  # type: ignore[arg-type]
        spacing_mm=(1.0, 1.0, 1.0),
        pad_hu=-1024.0,
    )


def gradients(one: Trainer) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in one.parameters.items() if parameter.grad is not None}


def test_m66_a_step_goes_from_batch_to_checkpoint_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    one = trainer(events=events)

    def noting(name: str, function: Any) -> Any:
        def noted(*arguments: Any, **options: Any) -> Any:
            events.append(name)
            return function(*arguments, **options)

        return noted

    monkeypatch.setattr(one.encoder, "forward_features", noting("forward", one.encoder.forward_features))
    monkeypatch.setattr(one.objective, "loss", noting("loss", one.objective.loss))
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noting("clip", nn.utils.clip_grad_norm_))
    monkeypatch.setattr(one.optimiser, "step", noting("step", one.optimiser.step))
    one.parameters["head.bias_K"].register_hook(lambda gradient: events.append("backward"))
    one.run()
    assert events == ["batch", "forward", "loss", "backward", "clip", "step", "metrics", "checkpoint"]


def test_m66_the_loop_is_plain_torch() -> None:
    """One module of one page's length, and no trainer framework in any."""
    assert len(Path(presage_modeling.training.__file__).read_text(encoding="utf-8").splitlines()) <= 300
    frameworks = {"lightning", "pytorch_lightning", "accelerate", "ignite", "transformers", "composer", "fastai"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & frameworks, path.name
            assert not any(name.startswith("monai.engines") for name in names), path.name


@pytest.mark.parametrize("name", ["resnet10", "swinunetr"])
def test_m67_norms_biases_and_base_rates_do_not_decay(name: str) -> None:
    recipes = {
        "resnet10": ResNetRecipe(name="resnet10", widths=(4, 4, 8, 8), stem_kernel=3),
        "swinunetr": SwinUNETRRecipe(name="swinunetr", feature_size=12, window=4),
    }
    encoder = build_encoder(recipes[name], 1)
    modules = {"encoder": encoder, "head": TimeToEventHead(encoder.width, RATES, num_bins=2, rank=3)}
    optimiser, parameters = build_optimiser(modules, OptimiserRecipe(weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: decay.pop(id(parameter)) for name, parameter in parameters.items()}
    assert decay == {} and set(found.values()) == {0.0, 0.05}
    still = {name for name, value in found.items() if value == 0}
    norms = {
        f"{prefix}.{path}.{leaf}"
        for prefix, module in modules.items()
        for path, layer in module.named_modules()
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm3d)
        for leaf, _ in layer.named_parameters()
    }
    assert still == norms | {name for name in found if "bias" in name.rsplit(".", 1)[-1]}
    assert {"head.bias_K", "head.norm.weight", "head.project.bias"} <= still
    assert found["head.tasks_FK"] == found["head.project.weight"] == 0.05


def test_m67_the_rate_warms_up_in_a_line_and_falls_as_a_cosine_by_global_step() -> None:
    optimiser, schedule = OptimiserRecipe(lr=1e-2), ScheduleRecipe(warmup_steps=10, lr_min=1e-3)
    rates = [learning_rate(step, 110, optimiser=optimiser, schedule=schedule) for step in range(111)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 1e-3)
    middle = 1e-3 + 9e-3 * (1 + np.cos(np.pi * np.arange(101) / 100)) / 2
    np.testing.assert_allclose(rates[10:], middle, rtol=1e-12)
    assert rates[60] == pytest.approx(5.5e-3) and rates[110] == pytest.approx(1e-3)


def test_m67_the_gradient_is_clipped_by_its_global_norm() -> None:
    assert isinstance(trainer().optimiser, torch.optim.AdamW) and OptimiserRecipe().clip_norm == 1.0
    free, clipped = trainer("optimiser.clip_norm=1e9"), trainer("optimiser.clip_norm=1e-4")
    norms = [one._step(Once.batch)["grad_norm"] for one in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1]) and norms[0] > 1e-3, "logged as it was before the clip"
    for name, gradient in gradients(clipped).items():
        torch.testing.assert_close(gradient, gradients(free)[name] * (1e-4 / norms[0]), rtol=1e-4, atol=1e-9)


def test_m68_bfloat16_is_for_the_encoders_products_and_every_weight_stays_float32() -> None:
    one = trainer("precision.dtype=bf16")
    one._step(Once.batch)
    assert set(one.encoder.seen) == {torch.bfloat16}  # type: ignore[arg-type]
    kept = [*one.parameters.values(), *gradients(one).values()]
    kept += [value for state in one.optimiser.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32} and len(gradients(one)) == len(one.parameters)


def test_m68_there_is_no_half_precision_and_no_scaler() -> None:
    with pytest.raises(RecipeError, match=r"precision\.dtype"):
        read_recipe("tiny", ["precision.dtype=fp16"])
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not used & {"GradScaler", "float16", "half"}, path.name


@pytest.fixture
def tf32() -> Iterator[None]:
    """Put the switches back."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("before", [True, False])
def test_m68_what_may_round_to_tf32_is_set_explicitly(
    before: bool, tf32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions may; products of matrices, and with them the head, keep float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert open_device(PrecisionRecipe(device="cuda", dtype="bf16")).type == "cuda"
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_m69_accumulated_gradients_are_those_of_one_big_batch(micro_batch: int) -> None:
    whole, cut = (trainer("optimiser.clip_norm=1e9", f"memory.micro_batch={size}") for size in (8, micro_batch))
    measured = [one._step(Once.batch) for one in (whole, cut)]
    assert len(cut.encoder.seen) == 8 // micro_batch  # type: ignore[arg-type]
    assert measured[1]["loss"] == pytest.approx(measured[0]["loss"], rel=1e-5)
    assert gradients(cut).keys() == gradients(whole).keys() == cut.parameters.keys()
    for name, gradient in gradients(cut).items():
        torch.testing.assert_close(gradient, gradients(whole)[name], rtol=1e-5, atol=1e-7)
    assert {int(state["step"]) for state in cut.optimiser.state.values()} == {1}
