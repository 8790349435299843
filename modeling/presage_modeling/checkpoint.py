"""Checkpoints: everything that the next step depends on, as safetensors and JSON, never as a pickle.

    checkpoints/step_000001200/  model.safetensors  optimizer.safetensors  state.json  MANIFEST.json
    checkpoints/latest  checkpoints/best          (text: the name of a folder)

A folder appears by rename after its files are on disk, so a kill at any point leaves the one before it whole.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from presage_platform.errors import DiskFullError, IntegrityError
from presage_platform.logs import get_logger
from presage_platform.runs import canonical_json, write_atomically
from presage_platform.settings import Section

FORMAT_VERSION = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
FAILURES_THAT_STOP = 2
log = get_logger(__name__)


class CheckpointRecipe(Section):
    """`[checkpoint]`: how often, and how many are kept beside the best."""

    every_steps: int = Field(default=500, ge=1)
    keep_last: int = Field(default=3, ge=1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of one checkpoint, on the host: tensors by name, and the numbers of the loop."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. Writing happens in a thread; a second save waits for the first."""

    def __init__(self, run: Path, recipe: CheckpointRecipe) -> None:
        self.folder = run / "checkpoints"
        self.recipe = recipe
        self.failures = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="presage-checkpoint")
        self._pending: Future[None] | None = None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, snapshot: Snapshot, *, best: bool = False) -> None:
        """Write a snapshot in the background.

        Raises
        ------
        DiskFullError
            When two writes in a row found no space; after one, training goes on with the checkpoint before.
        """
        self.wait()
        self._pending = self._pool.submit(self._write, snapshot, best)

    def wait(self) -> None:
        """Wait for the write under way and count its failure."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
            self.failures = 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.failures += 1
            log.error("no space for a checkpoint; the one before stays", extra={"fields": {"in_a_row": self.failures}})
            if self.failures >= FAILURES_THAT_STOP:
                raise DiskFullError(
                    "no space left for checkpoints, twice in a row: free some and run the same command; it resumes"
                ) from None

    def close(self) -> None:
        """Finish the write under way."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def load(self) -> Snapshot | None:
        """Return the newest checkpoint that agrees with its manifest; None when there is none."""
        for folder in sorted(self.folder.glob("step_*"), reverse=True):
            if folder.suffix == ".tmp":
                continue
            if _is_whole(folder):
                return read_snapshot(folder)
            log.warning("a checkpoint is damaged; using the one before", extra={"fields": {"checkpoint": folder.name}})
        return None

    def _write(self, snapshot: Snapshot, best: bool) -> None:
        name = f"step_{snapshot.state['step']:09d}"
        temporary = self.folder / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        try:
            save_file(snapshot.model, temporary / "model.safetensors")
            save_file(snapshot.optimizer, temporary / "optimizer.safetensors")
            (temporary / "state.json").write_text(canonical_json(snapshot.state))
            manifest = {
                file: {"size": (temporary / file).stat().st_size, "sha256": _sha256(temporary / file)} for file in FILES
            }
            (temporary / "MANIFEST.json").write_text(canonical_json(manifest))
            for file in (*FILES, "MANIFEST.json"):
                _sync(temporary / file)
            _sync(temporary)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(self.folder / name, ignore_errors=True)
        temporary.rename(self.folder / name)
        _sync(self.folder)
        write_atomically(self.folder / "latest", name.encode())
        if best:
            write_atomically(self.folder / "best", name.encode())
        self._remove_old()

    def _remove_old(self) -> None:
        kept = {
            self.folder / (self.folder / word).read_text()
            for word in ("latest", "best")
            if (self.folder / word).exists()
        }
        folders = sorted(folder for folder in self.folder.glob("step_*") if folder.suffix != ".tmp")
        for folder in folders[: -self.recipe.keep_last]:
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def read_snapshot(folder: Path) -> Snapshot:
    """Read one checkpoint folder; a newer format is refused."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["format_version"] > FORMAT_VERSION:
        raise IntegrityError(
            f"checkpoint {folder.name} has format {state['format_version']}, this release reads {FORMAT_VERSION}: "
            "resume with the release that wrote it"
        )
    return Snapshot(load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors"), state)


def host_copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the host: what the loop changes next is not what is written."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def model_tensors(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return parameters and buffers as `encoder.…` and `head.…`."""
    return {
        f"{prefix}.{name}": tensor for prefix, module in modules.items() for name, tensor in module.state_dict().items()
    }


def load_model_tensors(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Copy tensors into modules; every name must match."""
    for prefix, module in modules.items():
        own = {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
        module.load_state_dict(own)


def optimizer_tensors(optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter>|<key>`."""
    return {
        f"{name}|{key}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    """Put a saved state back, in the memory layout of each parameter, so that sums keep their order."""
    for joined, value in tensors.items():
        name, key = joined.rsplit("|", 1)
        parameter = parameters[name]
        placed = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        optimiser.state[parameter][key] = placed.detach()


def generator_state() -> str:
    """Return the state of torch's CPU generator as text."""
    return base64.b64encode(bytes(torch.get_rng_state().tolist())).decode()


def set_generator_state(text: str) -> None:
    """Put torch's CPU generator back into a saved state."""
    torch.set_rng_state(torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8))


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        return set(manifest) == set(FILES) and all(
            (folder / file).stat().st_size == entry["size"] and _sha256(folder / file) == entry["sha256"]
            for file, entry in manifest.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
