"""Key maps: how the tensors of a foreign file become those of an encoder, as data.

A map names the encoder, the tables under which tensors may lie, prefixes to remove, renames, operations on tensors, and
tensors to ignore with a reason. Patterns are regular expressions on the renamed keys (`ignore` on the stripped ones).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from pydantic import Field, ValidationError
from torch import Tensor

from presage_modeling.encoders.inflate import inflate, mix_channels, pad_depth
from presage_modeling.encoders.interface import EncoderRecipe
from presage_platform.errors import WeightsError
from presage_platform.runs import sha256_json
from presage_platform.settings import Section


class Rename(Section):
    """One rewriting of a key."""

    from_: str = Field(alias="from")
    to: str


class Inflate(Section):
    """2D kernels that become 3D."""

    pattern: str
    how: Literal["repeat", "centre"] = "repeat"


class PadDepth(Section):
    """3D kernels, depth first, that are too shallow."""

    pattern: str


class Channels(Section):
    """The kernel that reads the input."""

    pattern: str
    how: Literal["sum", "mean"] = "sum"


class Ignore(Section):
    """Tensors that no encoder has."""

    pattern: str
    reason: str


class KeyMap(Section):
    """One map."""

    encoder: EncoderRecipe
    containers: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    rename: tuple[Rename, ...] = ()
    inflate: tuple[Inflate, ...] = ()
    pad_depth: tuple[PadDepth, ...] = ()
    channels: tuple[Channels, ...] = ()
    ignore: tuple[Ignore, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the map's content."""
        return sha256_json(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Mapped:
    """A source tensor as it is meant for the encoder."""

    source: str
    tensor: Tensor
    operations: tuple[str, ...]


def map_names() -> list[str]:
    """Return the names of the shipped maps."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def read_map(name: str) -> KeyMap:
    """Read a shipped map.

    Raises
    ------
    WeightsError
        If there is no such map.
    """
    if name not in map_names():
        raise WeightsError(f"no key map is named `{name}`: expected one of {', '.join(map_names())}")
    text = (_shipped() / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return KeyMap.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise WeightsError(f"key map {name} is not valid: {error.errors()[0]['msg']}") from None


def unpack(document: Mapping[str, Any], containers: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of a loaded file, from the first of `containers` that it has, else from its top."""
    table: Any = next((document[name] for name in containers if isinstance(document.get(name), Mapping)), document)
    return {key: value for key, value in table.items() if isinstance(value, Tensor)}


def apply_map(
    key_map: KeyMap, source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[dict[str, Mapped], dict[str, str]]:
    """Return target key → mapped tensor, and ignored source key → reason.

    `target` is the encoder's state, whose shapes say how deep a kernel and how many channels are wanted.
    """
    mapped: dict[str, Mapped] = {}
    ignored: dict[str, str] = {}
    for original, tensor in source.items():
        key = _stripped(original, key_map.strip)
        reason = next((rule.reason for rule in key_map.ignore if re.search(rule.pattern, key)), None)
        if reason is not None:
            ignored[original] = reason
            continue
        for rule in key_map.rename:
            key = re.sub(rule.from_, rule.to, key)
        mapped[key] = _operate(key_map, key, original, tensor, target.get(key))
    return mapped, ignored


def _stripped(key: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        key = key.removeprefix(prefix)
    return key


def _operate(key_map: KeyMap, key: str, original: str, tensor: Tensor, target: Tensor | None) -> Mapped:
    operations: list[str] = []
    if target is None:
        return Mapped(original, tensor, ())
    if tensor.ndim == 4:
        for rule in key_map.inflate:
            if re.search(rule.pattern, key):
                tensor = inflate(tensor, target.shape[-1], rule.how)
                operations.append(f"inflate {rule.how}, depth {target.shape[-1]}")
                break
    elif tensor.ndim == 5 and any(re.search(rule.pattern, key) for rule in key_map.pad_depth):
        tensor = pad_depth(tensor, target.shape[-1])
        operations.append(f"depth last, padded to {target.shape[-1]}")
    for channels in key_map.channels:
        if re.search(channels.pattern, key) and tensor.shape[1] != target.shape[1]:
            operations.append(f"channels {channels.how}, {tensor.shape[1]} to {target.shape[1]}")
            tensor = mix_channels(tensor, target.shape[1], channels.how)
    return Mapped(original, tensor, tuple(operations))


def _shipped() -> Any:
    return resources.files("presage_modeling.encoders") / "maps"
