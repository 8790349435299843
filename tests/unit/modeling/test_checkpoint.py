"""Checkpoints: whole or absent, newest whole one wins, never a pickle."""

from __future__ import annotations

import errno
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch

from presage_modeling import checkpoint as ck
from presage_platform.errors import DiskFullError, IntegrityError


def snapshot(step: int, version: int = ck.FORMAT_VERSION) -> ck.Snapshot:
    return ck.Snapshot(
        {"encoder.w": torch.full((2, 3), float(step))},
        {"encoder.w|exp_avg": torch.zeros(2, 3)},
        {"format_version": version, "step": step},
    )


def saved(run: Path, steps: list[int], best: tuple[int, ...] = (), keep_last: int = 3) -> ck.Checkpoints:
    checkpoints = ck.Checkpoints(run, ck.CheckpointRecipe(keep_last=keep_last))
    for step in steps:
        checkpoints.save(snapshot(step), best=step in best)
    checkpoints.wait()
    return checkpoints


def names(run: Path) -> list[str]:
    return sorted(folder.name for folder in (run / "checkpoints").glob("step_*"))


def test_m80_a_checkpoint_is_four_files_without_pickle(tmp_path: Path) -> None:
    saved(tmp_path, [1200])
    folder = tmp_path / "checkpoints" / "step_000001200"
    assert sorted(file.name for file in folder.iterdir()) == sorted([*ck.FILES, "MANIFEST.json"])
    for file in folder.iterdir():
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(file.read_bytes()))


def test_m82_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, [1, 2, 3, 4, 5], best=(1, 2), keep_last=2)
    assert names(tmp_path) == ["step_000000002", "step_000000004", "step_000000005"]
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_000000002"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_000000005"


@pytest.mark.parametrize("file", [*ck.FILES, "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_m83_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = saved(tmp_path, [1, 2])
    path = tmp_path / "checkpoints" / "step_000000002" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    {"flip": lambda: path.write_bytes(content), "cut": lambda: path.write_bytes(b""), "remove": path.unlink}[damage]()
    found = checkpoints.load()
    assert found is not None and found.state["step"] == 1 and found.model["encoder.w"][0, 0] == 1


def test_m83_a_newer_format_is_refused(tmp_path: Path) -> None:
    checkpoints = ck.Checkpoints(tmp_path, ck.CheckpointRecipe())
    checkpoints.save(snapshot(1, version=99))
    checkpoints.wait()
    with pytest.raises(IntegrityError, match="format 99"):
        checkpoints.load()


def test_m81_the_remains_of_a_killed_write_are_ignored_and_removed(tmp_path: Path) -> None:
    saved(tmp_path, [1])
    half = tmp_path / "checkpoints" / "step_000000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = ck.Checkpoints(tmp_path, ck.CheckpointRecipe()).load()
    assert found is not None and found.state["step"] == 1 and not half.exists()


def test_m82_one_full_disk_is_survived_two_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(tmp_path, [1])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ck, "save_file", full)
    checkpoints.save(snapshot(2))
    checkpoints.wait()
    assert checkpoints.failures == 1 and names(tmp_path) == ["step_000000001"]
    checkpoints.save(snapshot(3))
    with pytest.raises(DiskFullError, match="twice in a row"):
        checkpoints.wait()


def test_m85_the_state_of_an_optimiser_comes_back_bit_for_bit_in_its_layout() -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.AdamW, dict[str, torch.nn.Parameter]]:
        torch.manual_seed(0)
        module = torch.nn.Conv3d(2, 3, 3).to(memory_format=torch.channels_last_3d)
        parameters = dict(module.named_parameters())
        return module, torch.optim.AdamW(parameters.values(), lr=0.1), parameters

    def step(module: torch.nn.Module, optimiser: torch.optim.AdamW, seed: int) -> None:
        x = torch.rand(2, 2, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        module(x).square().sum().backward()
        optimiser.step()

    module, optimiser, parameters = build()
    step(module, optimiser, 1)
    tensors = ck.host_copy(ck.optimizer_tensors(optimiser, parameters))
    weights = ck.host_copy(ck.model_tensors({"m": module}))
    other, other_optimiser, other_parameters = build()
    ck.load_model_tensors({"m": other}, weights)
    ck.load_optimizer_tensors(other_optimiser, other_parameters, tensors)
    for seed in (2, 3):
        step(module, optimiser, seed)
        step(other, other_optimiser, seed)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))
    assert other_optimiser.state[other_parameters["weight"]]["exp_avg"].stride() == other_parameters["weight"].stride()


def test_m80_the_generator_travels_as_text() -> None:
    torch.manual_seed(5)
    text = ck.generator_state()
    drawn = torch.rand(4)
    ck.set_generator_state(text)
    assert torch.equal(torch.rand(4), drawn)
