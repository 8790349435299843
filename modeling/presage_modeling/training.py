"""The training loop on one page: next batch, forward, loss, backward, clip, step, metrics, checkpoint.

A run is a pure function of its recipe, its label store and its volume store. Everything that the next step depends on
is in a checkpoint, so a killed run continues where it was and ends in the same weights.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from presage_modeling import checkpoint as ck
from presage_modeling.augment import Draws, Windows, augment, volumes_to_device
from presage_modeling.data import Batch, Feed
from presage_modeling.encoders.interface import Encoder
from presage_modeling.hardware import autocast, peak_memory_bytes
from presage_modeling.metrics_log import MetricsLog
from presage_modeling.objectives import Objective
from presage_modeling.optimisation import build_optimiser, learning_rate
from presage_modeling.recipe import Recipe
from presage_platform.errors import LimitError, RequeueError
from presage_platform.logs import get_logger
from presage_platform.progress import Progress

SKIPS_IN_A_ROW = 10
SKIP_WINDOW_STEPS = 1000
LARGEST_SKIPPED_SHARE = 0.01
CLAMPED_SHARE_THAT_WARNS = 1e-3
log = get_logger(__name__)


@dataclass(slots=True)
class Position:
    """Where a run is: what a checkpoint's state.json holds beside hashes and generators."""

    step: int = 0
    best_loss: float | None = None
    validations_without_gain: int = 0
    skipped: int = 0
    recent_skips: deque[int] = field(default_factory=lambda: deque(maxlen=SKIP_WINDOW_STEPS))


class Trainer:
    """One run on one device: encoder, head, optimiser, and the loop over their steps."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        encoder: Encoder,
        head: nn.Module,
        objective: Objective,
        feeds: dict[str, Feed],
        device: torch.device,
        checkpoints: ck.Checkpoints,
        metrics: MetricsLog,
        spacing_mm: tuple[float, float, float],
        pad_hu: float,
    ) -> None:
        self.recipe, self.objective, self.feeds, self.device = recipe, objective, feeds, device
        self.encoder, self.head = encoder, head
        self.modules = {"encoder": encoder, "head": head}
        self.optimiser, self.parameters = build_optimiser(self.modules, recipe.optimiser)
        self.checkpoints, self.metrics = checkpoints, metrics
        self.spacing_mm, self.pad_hu = spacing_mm, pad_hu
        self.windows = Windows(recipe.input.windows)
        self.total_steps = feeds["train"].steps_per_epoch * recipe.schedule.epochs
        self.at = Position()
        self.null_loss = objective.null_loss("train")
        self.valid_null_loss = objective.null_loss("valid")

    def run(self) -> None:
        """Train from the newest checkpoint, or the start, to the last step."""
        self._restore()
        feed = self.feeds["train"]
        with Progress("train", total=self.total_steps, unit="steps") as bar, _stop_requests() as stop:
            bar.advance(self.at.step)
            self.encoder.train()
            self.head.train()
            last_log = time.perf_counter()
            for batch in feed.batches(self.at.step, self.total_steps):
                measured = self._step(batch)
                self.at.step = batch.step + 1
                bar.advance(1)
                if self._due(self.recipe.schedule.log_every_steps):
                    last_log = self._log(batch, measured, last_log)
                gained = self._due(self.recipe.validation.every_steps) and self._validate()
                if self._due(self.recipe.checkpoint.every_steps) or stop.asked:
                    self.checkpoints.save(self._snapshot(), best=gained)
                if stop.asked:
                    self.checkpoints.wait()
                    raise RequeueError(f"stopped on request after step {self.at.step}: the same command continues")
                if self._has_stalled():
                    break

    def _step(self, batch: Batch) -> dict[str, float]:
        recipe = self.recipe
        rate = learning_rate(batch.step, self.total_steps, optimiser=recipe.optimiser, schedule=recipe.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        divisor = self.objective.divisor("train", batch.positions)
        loss, clamped = 0.0, 0.0
        for low in range(0, len(batch.positions), recipe.micro_batch):
            part = slice(low, low + recipe.micro_batch)
            x_BCXYZ = self._prepare(batch.stored_BZYX[part], self._ids("train", batch.positions[part]), batch.epoch)
            summed, share = self._loss("train", x_BCXYZ, batch.positions[part])
            mean = summed / divisor
            mean.backward()  # type: ignore[no-untyped-call]
            loss += mean.item()
            clamped += share * len(x_BCXYZ) / len(batch.positions)
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), recipe.optimiser.clip_norm))
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimiser.step()
            self.at.recent_skips.append(0)
        else:
            self._skip(batch)
        return {"loss": loss, "lr": rate, "grad_norm": norm, "clamped_share": clamped}

    def _loss(self, split: str, x_BCXYZ: Tensor, positions: NDArray[np.int64]) -> tuple[Tensor, float]:
        with autocast(self.device, self.recipe.precision):
            features_BD = self.encoder(x_BCXYZ)
        targets = self.objective.targets(split, positions).to(self.device)
        return self.objective.loss(self.head, features_BD, targets)

    def _prepare(self, stored_BZYX: Tensor, study_ids: NDArray[np.int64], epoch: int | None) -> Tensor:
        hu_BXYZ = volumes_to_device(stored_BZYX, self.device)
        if epoch is not None:  # None: evaluation, nothing moves
            draws = Draws(self.recipe.seed, epoch, study_ids)
            hu_BXYZ = augment(hu_BXYZ, self.recipe.augmentation, draws, spacing_mm=self.spacing_mm, pad_hu=self.pad_hu)
        return self.windows(hu_BXYZ)

    def _ids(self, split: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.feeds[split].part.study_id[positions]

    def _skip(self, batch: Batch) -> None:
        self.at.skipped += 1
        self.at.recent_skips.append(1)
        self.metrics.skipped(batch.step, self._ids("train", batch.positions).tolist())
        in_a_row = list(self.at.recent_skips)[-SKIPS_IN_A_ROW:]
        too_many = sum(self.at.recent_skips) > LARGEST_SKIPPED_SHARE * SKIP_WINDOW_STEPS
        if too_many or (len(in_a_row) == SKIPS_IN_A_ROW and all(in_a_row)):
            raise LimitError(
                f"training diverged: {sum(self.at.recent_skips)} of the last {len(self.at.recent_skips)} steps gave no "
                "finite loss and were skipped; lower optimiser.lr (skipped.jsonl lists the studies)"
            )

    def _validate(self) -> bool:
        """Log the loss on the valid split and return whether it is the best so far."""
        if "valid" not in self.feeds:
            return False
        loss = self.valid_loss()
        best = self.at.best_loss
        threshold = self.recipe.validation.relative_improvement
        gained = best is None or loss < best - threshold * abs(best)
        self.at.validations_without_gain = 0 if gained else self.at.validations_without_gain + 1
        self.at.best_loss = loss if best is None else min(loss, best)
        self.metrics.write(
            {"step": self.at.step, "valid_loss": loss, "valid_null_share": _share(loss, self.valid_null_loss)}
        )
        return gained

    def valid_loss(self) -> float:
        """Return the mean loss over all valid studies, in eval mode, without augmentation."""
        feed = self.feeds["valid"]
        everyone = np.arange(len(feed.part))
        self.encoder.eval()
        self.head.eval()
        total = 0.0
        with torch.no_grad():
            for low in range(0, len(everyone), self.recipe.micro_batch):
                positions = everyone[low : low + self.recipe.micro_batch]
                x_BCXYZ = self._prepare(feed.reader.read(positions), self._ids("valid", positions), None)
                total += self._loss("valid", x_BCXYZ, positions)[0].item()
        self.encoder.train()
        self.head.train()
        return total / max(self.objective.divisor("valid", everyone), 1.0)

    def _has_stalled(self) -> bool:
        validation = self.recipe.validation
        return validation.early_stopping and self.at.validations_without_gain >= validation.patience

    def _due(self, every_steps: int) -> bool:
        return self.at.step % every_steps == 0 or self.at.step == self.total_steps

    def _log(self, batch: Batch, measured: dict[str, float], last_log: float) -> float:
        now = time.perf_counter()
        feed = self.feeds["train"]
        every = self.recipe.schedule.log_every_steps
        steps = self.at.step % every or every
        seconds = now - last_log
        self.metrics.write(
            {
                "step": self.at.step,
                "epoch": batch.epoch,
                "cursor": batch.cursor,
                "null_share": _share(measured["loss"], self.null_loss),
                "clipped": measured["grad_norm"] > self.recipe.optimiser.clip_norm,
                "volumes_per_s": len(batch.positions) * steps / seconds,
                "step_s": seconds / steps,
                "data_wait_share": feed.wait_s / seconds,
                "gpu_peak_bytes": peak_memory_bytes(self.device),
                "skipped_steps": self.at.skipped,
                **measured,
            }
        )
        if measured["clamped_share"] > CLAMPED_SHARE_THAT_WARNS:
            log.warning("logits are clamped", extra={"fields": {"share": measured["clamped_share"]}})
        feed.wait_s = 0.0
        return now

    def _snapshot(self) -> ck.Snapshot:
        epoch, cursor = self.feeds["train"].place(self.at.step)
        return ck.Snapshot(
            model=ck.host_copy(ck.model_tensors(self.modules)),
            optimizer=ck.host_copy(ck.optimizer_tensors(self.optimiser, self.parameters)),
            state={
                "format_version": ck.FORMAT_VERSION,
                "step": self.at.step,
                "epoch": epoch,
                "cursor": cursor,
                "seed": self.recipe.seed,
                "recipe_hash": self.recipe.recipe_hash,
                "world": 1,
                "threads": torch.get_num_threads(),
                "generator": ck.generator_state(),
                "best_loss": self.at.best_loss,
                "validations_without_gain": self.at.validations_without_gain,
                "skipped": self.at.skipped,
                "recent_skips": list(self.at.recent_skips),
            },
        )

    def _restore(self) -> None:
        saved = self.checkpoints.load()
        if saved is None:
            self.metrics.restart(0)
            return
        ck.load_model_tensors(self.modules, saved.model)
        ck.load_optimizer_tensors(self.optimiser, self.parameters, saved.optimizer)
        ck.set_generator_state(saved.state["generator"])
        torch.set_num_threads(saved.state["threads"])
        self.at = Position(
            step=saved.state["step"],
            best_loss=saved.state["best_loss"],
            validations_without_gain=saved.state["validations_without_gain"],
            skipped=saved.state["skipped"],
            recent_skips=deque(saved.state["recent_skips"], maxlen=SKIP_WINDOW_STEPS),
        )
        self.metrics.restart(self.at.step)


def _share(loss: float, null_loss: float | None) -> float | None:
    return loss / null_loss if null_loss and math.isfinite(loss) else None


@dataclass(slots=True)
class _Stop:
    asked: bool = False


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn SIGTERM and SIGUSR1 into a wish that the loop grants after its step."""
    stop = _Stop()

    def ask(*_: Any) -> None:
        stop.asked = True

    try:
        previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not the main thread: nobody signals it
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
