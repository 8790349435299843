"""The device: chosen as the recipe says and never silently another, set up once, and asked for its memory."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from pydantic import Field

from presage_platform.errors import HardwareError
from presage_platform.settings import Section

REFUSED_TORCH = "2.9."  # slow and wrong bfloat16 3D convolutions


class PrecisionRecipe(Section):
    """`[precision]`: where to compute and in which type; weights and losses are float32 throughout."""

    device: Literal["cpu", "cuda"] = "cuda"
    dtype: Literal["fp32", "bf16"] = "fp32"


class MemoryRecipe(Section):
    """`[memory]`: how a step is cut to size."""

    micro_batch: int | None = Field(default=None, ge=1)
    cpu_threads: int | None = Field(default=None, ge=1)


def open_device(precision: PrecisionRecipe) -> torch.device:
    """Return the device that a recipe asks for.

    Raises
    ------
    HardwareError
        If it is absent, cannot compute in the type asked for, or torch is a version with wrong results.
    """
    if torch.__version__.startswith(REFUSED_TORCH):
        raise HardwareError(
            f"torch {torch.__version__} computes bfloat16 3D convolutions wrongly: install another version"
        )
    if precision.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise HardwareError(
            "the recipe asks for CUDA and no CUDA device is here: run on a GPU machine, or --set precision.device=cpu"
        )
    if precision.dtype == "bf16" and not torch.cuda.is_bf16_supported():
        raise HardwareError("this GPU has no bfloat16: --set precision.dtype=fp32")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False  # the head stays float32; convolutions may round
    return torch.device("cuda")


def autocast(device: torch.device, precision: PrecisionRecipe) -> torch.autocast:
    """Return the context in which the encoder runs."""
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=precision.dtype == "bf16")


def set_threads(memory: MemoryRecipe) -> int:
    """Fix the number of CPU threads, on which the last bits of a sum depend, and return it."""
    threads = memory.cpu_threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    torch.set_num_threads(threads)
    return threads


def device_fingerprint(device: torch.device) -> dict[str, Any]:
    """Return what of the device may show in the last digits of a run."""
    if device.type == "cpu":
        return {"device": "cpu", "threads": torch.get_num_threads(), "cuda": None, "cudnn": None}
    return {
        "device": torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak of allocated GPU memory since the start; None on a CPU."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
