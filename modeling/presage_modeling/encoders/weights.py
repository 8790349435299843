"""Foreign weights: the only door through which they enter, with a report of every tensor.

    weights/<name>.safetensors  weights/<name>.json      (the card: source, hashes, map, licence, report)

Files are local; nothing is downloaded and nothing is unpickled beyond plain tensors. Less than 95 % of the encoder
filled is refused, and no switch lowers that. Loading is proven by value, not by the absence of an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from presage_modeling.encoders.interface import AnyEncoderRecipe, build_encoder
from presage_modeling.encoders.weight_maps import KeyMap, Mapped, apply_map, read_map, unpack
from presage_platform.errors import WeightsError
from presage_platform.runs import canonical_json, write_atomically

SMALLEST_SHARE = 0.95
NAME_DIGITS = 8


@dataclass
class ImportReport:
    """What became of every tensor of the source and of the encoder."""

    matched: dict[str, list[str]] = field(default_factory=dict)  # target → source, then the operations
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatch: dict[str, list[list[int]]] = field(default_factory=dict)  # target → shape found, shape expected
    ignored: dict[str, str] = field(default_factory=dict)
    share_of_tensors: float = 0.0
    share_of_elements: float = 0.0

    def summary(self) -> str:
        """Return one line for people."""
        shares = f"{100 * self.share_of_tensors:.1f} % of tensors, {100 * self.share_of_elements:.1f} % of elements"
        return (
            f"{len(self.matched)} matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.shape_mismatch)} of another shape, {len(self.ignored)} ignored: {shares} of the encoder"
        )


@dataclass(frozen=True, slots=True)
class Imported:
    """One import: its name in the workspace, and its card."""

    name: str
    path: Path
    card: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return name, path and card."""
        return {"name": self.name, "path": str(self.path), **self.card}

    def summary(self) -> str:
        """Return what was loaded, and how a recipe names it."""
        report = ImportReport(**self.card["report"])
        return f"{report.summary()}\nloaded by value: use it with --set encoder.weights={self.name}"


def import_weights(
    source: Path,
    *,
    arch: str,
    map_name: str,
    licence: str,
    folder: Path,
    channels: int = 1,
    sha256: str | None = None,
) -> Imported:
    """Map a file's tensors onto an encoder and keep them in the workspace.

    Parameters
    ----------
    source
        A local `.pt`, `.pth` or `.safetensors` file.
    arch
        Name of the encoder; the map must be one for it.
    licence
        The licence as the user names it; kept in the card.
    folder
        The workspace's `weights/`.
    channels
        Input channels of the runs that will use the weights (windows of the recipe).
    sha256
        What the file's hash must be, when the user knows it.

    Raises
    ------
    WeightsError
        If the file is not readable as plain tensors, has another hash, fills less than 95 % of the encoder, holds a
        tensor that is neither used nor ignored, or does not load by value. Nothing is written.
    """
    if not licence.strip():
        raise WeightsError("--licence-ack is empty: name the licence under which you use these weights")
    content, digest = _read(source, sha256)
    key_map = read_map(map_name)
    if key_map.encoder.name != arch:
        raise WeightsError(f"map {map_name} is for {key_map.encoder.name}, found --arch {arch}: name the map of {arch}")
    recipe = key_map.encoder
    encoder = build_encoder(recipe, channels)
    fresh = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    mapped, ignored = apply_map(key_map, unpack(content, key_map.containers), fresh)
    report = account(mapped, ignored, fresh)
    _check(report, source)
    taken = {name: mapped[name].tensor.to(fresh[name].dtype) for name in report.matched}
    encoder.load_state_dict({**fresh, **taken})
    _prove(encoder, taken, fresh)
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    return _write(folder, tensors, _card(recipe, channels, source, digest, map_name, key_map, licence, report))


def account(mapped: Mapping[str, Mapped], ignored: Mapping[str, str], target: Mapping[str, Tensor]) -> ImportReport:
    """Compare mapped tensors with an encoder's state, tensor by tensor."""
    report = ImportReport(ignored=dict(ignored))
    elements = 0
    for name, wanted in target.items():
        found = mapped.get(name)
        if found is None:
            report.missing.append(name)
        elif found.tensor.shape != wanted.shape:
            report.shape_mismatch[name] = [list(found.tensor.shape), list(wanted.shape)]
        else:
            report.matched[name] = [found.source, *found.operations]
            elements += wanted.numel()
    report.unexpected = sorted(found.source for name, found in mapped.items() if name not in target)
    report.share_of_tensors = len(report.matched) / max(len(target), 1)
    report.share_of_elements = elements / max(sum(tensor.numel() for tensor in target.values()), 1)
    return report


def load_imported(module: nn.Module, folder: Path, name: str) -> str:
    """Load imported weights into a fresh encoder, proven by value; return the file's sha256.

    Raises
    ------
    WeightsError
        If there are none of this name, or they are for another encoder or number of channels.
    """
    from safetensors.torch import load

    path = folder / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors"))) or "none"
        raise WeightsError(
            f"no imported weights are named `{name}`: expected one of {known} (`platform weights import`)"
        )
    content = path.read_bytes()
    tensors = load(content)
    fresh = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    wrong = [key for key in fresh if key not in tensors or tensors[key].shape != fresh[key].shape]
    if wrong or set(tensors) - set(fresh):
        raise WeightsError(
            f"weights {name} do not fit this encoder ({len(wrong)} tensors differ): import them for this architecture "
            "and this number of windows (--channels)"
        )
    module.load_state_dict(tensors)
    _prove(module, tensors, fresh)
    return hashlib.sha256(content).hexdigest()


def read_card(path: Path) -> dict[str, Any]:
    """Read the card beside an imported file.

    Raises
    ------
    WeightsError
        If there is none, or the file is not the one that the card describes.
    """
    try:
        card: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        digest = hashlib.sha256(path.with_suffix(".safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError):
        raise WeightsError(f"{path.name} has no readable card: expected a file of `platform weights import`") from None
    if card.get("sha256") != digest:
        raise WeightsError(f"{path.name} is not the file that its card describes: import it again")
    return card


def _read(source: Path, sha256: str | None) -> tuple[Mapping[str, Any], str]:
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise WeightsError(f"{source.name} cannot be read ({error.strerror}): name an existing file") from None
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise WeightsError(f"{source.name} has sha256 {digest}, expected {sha256}: it is another file")
    if source.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(raw), digest
        except SafetensorError:
            raise WeightsError(f"{source.name} is not a safetensors file") from None
    try:
        document = torch.load(source, weights_only=True, map_location="cpu")
    except Exception:  # whatever a hostile or torn file raises, it is refused in one line
        raise WeightsError(
            f"{source.name} holds more than plain tensors, or is damaged: save its tensors alone (a state dict, or "
            "safetensors) and import that"
        ) from None
    if not isinstance(document, Mapping):
        raise WeightsError(f"{source.name} holds no table of tensors: save a state dict and import that")
    return document, digest


def _check(report: ImportReport, source: Path) -> None:
    if min(report.share_of_tensors, report.share_of_elements) < SMALLEST_SHARE:
        raise WeightsError(
            f"{source.name} fills too little of the encoder, expected at least {100 * SMALLEST_SHARE:.0f} % "
            f"({report.summary()}): check --arch and --map"
        )
    if report.unexpected or report.missing or report.shape_mismatch:
        first = (*report.missing, *report.shape_mismatch, *report.unexpected)[0]
        raise WeightsError(
            f"{source.name}: not every tensor is accounted for (first: {first}; {report.summary()}): the map must use "
            "or ignore each one"
        )


def _prove(module: nn.Module, expected: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    """Prove that a module holds the expected values, and no longer those it was initialised with."""
    state = module.state_dict()
    if any(not torch.equal(state[name], tensor) for name, tensor in expected.items()):
        raise WeightsError("weights were not taken over by value: a bug, please report it")
    kernels = [name for name, tensor in expected.items() if tensor.ndim > 1 and tensor.is_floating_point()]
    if kernels and all(torch.equal(state[name], fresh[name]) for name in kernels):
        raise WeightsError("the encoder is as it was initialised: these weights change nothing")


def _card(
    recipe: AnyEncoderRecipe,
    channels: int,
    source: Path,
    digest: str,
    map_name: str,
    key_map: KeyMap,
    licence: str,
    report: ImportReport,
) -> dict[str, Any]:
    return {
        "architecture": recipe.name,
        "encoder": recipe.model_dump(mode="json"),
        "channels": channels,
        "source": {"file": source.name, "sha256": digest},
        "map": {"name": map_name, "sha256": key_map.sha256},
        "licence": licence,
        "imported": datetime.now(UTC).date().isoformat(),
        "report": vars(report),
    }


def _write(folder: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> Imported:
    from safetensors.torch import save

    content = save(tensors)
    card["sha256"] = hashlib.sha256(content).hexdigest()
    name = f"{card['architecture']}-{card['sha256'][:NAME_DIGITS]}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    write_atomically(path, content)
    write_atomically(folder / f"{name}.json", canonical_json(card, indent=1).encode())
    return Imported(name, path, card)
