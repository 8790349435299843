"""Which candidate represents a study: a list of criteria, the first difference decides, and the reason is in words.

A pure function of the candidates: the order in which they come, their UIDs and rejected siblings change nothing.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from presage_etl.dicom.candidate import Candidate
from presage_platform.errors import InputError
from presage_platform.settings import ChoiceSettings
from presage_platform.volumes.catalogue import Verdict

SOFT, UNKNOWN, SHARP = "soft", "unknown", "sharp"
MAX_AXIAL_DEGREES = 20.0
ENOUGH_EXTENT = 0.6
STEP_CLASSES_MM = (3.0, 5.0)

_HARMLESS = frozenset(
    {
        Verdict.OK, Verdict.OK_ROUNDED_POSITIONS, Verdict.OK_ROUNDED_HU, Verdict.OK_INVERTED,
        Verdict.OK_DROPPED_DUPLICATES, Verdict.OK_DERIVED_UID,
    }
)  # fmt: skip
_RESAMPLED = frozenset({Verdict.OK_RESAMPLED_TILT, Verdict.OK_RESAMPLED_SPACING})


@dataclass(frozen=True, slots=True)
class Override:
    """One line of `choice.override`: a study or series UID that a person decided about."""

    use: bool
    note: str


@dataclass(frozen=True, slots=True)
class _Criterion:
    name: str
    measure: Callable[[Candidate], tuple[Any, str]]  # (smaller is better, in words)


def rank(candidates: Sequence[Candidate], policy: ChoiceSettings, overrides: dict[str, Override] | None = None) -> None:
    """Set `rank` (1 = represents its study) and `rank_reason` of every candidate; rejected ones have neither.

    Parameters
    ----------
    candidates
        Of any number of studies, in any order.
    policy
        `[imaging.choice]`.
    overrides
        Of `read_overrides`; they win.

    Raises
    ------
    InputError
        When an override asks for a rejected series.
    """
    studies: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        candidate.rank = candidate.rank_reason = None
        override = _override_of(candidate, overrides or {})
        if candidate.verdict.status == "ok" and candidate.geometry is not None:
            studies[candidate.study_uid].append(candidate)
        elif override is not None and override.use and _names_series(candidate, overrides or {}):
            raise InputError(
                f"choice.override asks for series {candidate.series_key[:12]}, which is {candidate.verdict}: "
                "remove its line"
            )
    for study in studies.values():
        _rank_study(study, policy, overrides or {})


def chosen(candidates: Sequence[Candidate], policy: ChoiceSettings) -> list[Candidate]:
    """Return the ranked candidates that become volumes under `per_study`, in the order of `candidates`."""
    limit = {"best": 1.0, "all": math.inf}.get(str(policy.per_study))
    most = float(policy.per_study) if limit is None else limit
    return [candidate for candidate in candidates if candidate.rank is not None and candidate.rank <= most]


def read_overrides(path: Path | None) -> dict[str, Override]:
    """Read `choice.override`: CSV of `study_uid` or `series_uid`, `use` or `never`, and a note.

    Raises
    ------
    InputError
        When the file cannot be read or a line is not understood; the line's content is not repeated.
    """
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError):
        raise InputError(f"choice.override {path} cannot be read as UTF-8 CSV: mend it or unset the key") from None
    overrides: dict[str, Override] = {}
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line[0].strip() in ("study_uid", "series_uid", "uid")):
            continue
        if len(line) < 2 or line[1].strip() not in ("use", "never"):
            raise InputError(f"choice.override {path} line {number}: expected a UID, `use` or `never`, and a note")
        note = line[2].strip() if len(line) > 2 else ""
        overrides[line[0].strip()] = Override(line[1].strip() == "use", note)
    return overrides


def kernel_class(manufacturer: str | None, kernel: Sequence[str] | None) -> str:
    """Return `soft`, `unknown` or `sharp` for a reconstruction kernel (table kernels.csv)."""
    if not kernel or not kernel[0]:
        return UNKNOWN
    for vendor, pattern, name in _kernel_table():
        if vendor.match(manufacturer or "") and pattern.fullmatch(kernel[0]):
            return name
    return UNKNOWN


def header_digest(candidate: Candidate) -> str:
    """Return sha256 over the sorted header hashes: names the content whatever UIDs and paths are."""
    hashes = sorted(ref.header_hash for ref in candidate.slices)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=1)
def _kernel_table() -> tuple[tuple[re.Pattern[str], re.Pattern[str], str], ...]:
    table = files("presage_etl.dicom").joinpath("kernels.csv").read_text(encoding="utf-8")
    return tuple(
        (re.compile(line["vendor"], re.IGNORECASE), re.compile(line["pattern"]), line["class"])
        for line in csv.DictReader(table.splitlines())
    )


def _override_of(candidate: Candidate, overrides: dict[str, Override]) -> Override | None:
    return overrides.get(candidate.series_uid) or overrides.get(candidate.study_uid)


def _names_series(candidate: Candidate, overrides: dict[str, Override]) -> bool:
    return candidate.series_uid in overrides


def _rank_study(study: list[Candidate], policy: ChoiceSettings, overrides: dict[str, Override]) -> None:
    criteria = _criteria(policy)
    measured = {id(one): [criterion.measure(one) for criterion in criteria] for one in study}
    allowed: list[Candidate] = []
    for candidate in study:
        override = _override_of(candidate, overrides)
        if override is not None and not override.use:
            candidate.rank_reason = f"override: {override.note}"
        else:
            allowed.append(candidate)

    def order(candidate: Candidate) -> list[Any]:
        preferred = overrides.get(candidate.series_uid)
        return [not (preferred and preferred.use), *(value for value, _ in measured[id(candidate)])]

    allowed.sort(key=order)
    for place, candidate in enumerate(allowed):
        candidate.rank = place + 1
        candidate.rank_reason = _reason(place, allowed, overrides, criteria, measured)


def _reason(
    place: int,
    ranked: list[Candidate],
    overrides: dict[str, Override],
    criteria: tuple[_Criterion, ...],
    measured: dict[int, list[tuple[Any, str]]],
) -> str:
    preferred = overrides.get(ranked[place].series_uid)
    if preferred is not None and preferred.use:
        return f"override: {preferred.note}"
    if len(ranked) == 1:
        return "only candidate"
    is_last = place == len(ranked) - 1
    own, other = measured[id(ranked[place])], measured[id(ranked[place - 1 if is_last else place + 1])]
    for criterion, (value, words), (other_value, other_words) in zip(criteria, own, other, strict=True):
        if value != other_value:
            return f"{criterion.name}: {words} {'after' if is_last else 'before'} {other_words}"
    return "equal to the next in every criterion"


def _criteria(policy: ChoiceSettings) -> tuple[_Criterion, ...]:
    return (
        _Criterion("verdict", _verdict_class),
        _Criterion("image type", _image_type),
        _Criterion("orientation", _axial),
        _Criterion("extent", lambda one: _extent_class(one, policy.target_extent_mm)),
        _Criterion("slice step", _step_class),
        _Criterion("kernel", _kernel),
        _Criterion("step", lambda one: _number(round(_spacing(one)[2], 1), "mm")),
        _Criterion("longer extent", lambda one: _larger(round(_extent_z_mm(one), 1), "mm")),
        _Criterion("more slices", lambda one: _larger(len(one.slices), "slices")),
        _Criterion("pixel", lambda one: _number(round(max(_spacing(one)[:2]), 4), "mm")),
        _Criterion("header hash", lambda one: (header_digest(one), header_digest(one)[:8])),
    )


def _verdict_class(candidate: Candidate) -> tuple[int, str]:
    verdict = candidate.verdict
    return 0 if verdict in _HARMLESS else 1 if verdict in _RESAMPLED else 2, verdict.value


def _image_type(candidate: Candidate) -> tuple[bool, str]:
    words = [word.upper() for word in candidate.attributes.get("image_type") or ()]
    plain = words[:2] == ["ORIGINAL", "PRIMARY"] and words[2:3] in (["AXIAL"], ["VOLUME"])
    return not plain, "original primary axial" if plain else "other"


def _axial(candidate: Candidate) -> tuple[bool, str]:
    stack = _affine(candidate)[:3, 2]
    degrees = float(np.degrees(np.arccos(min(abs(stack[2]) / np.linalg.norm(stack), 1.0))))
    return degrees > MAX_AXIAL_DEGREES, f"{degrees:.0f} degrees from axial"


def _extent_class(candidate: Candidate, target_mm: float) -> tuple[int, str]:
    extent = _extent_z_mm(candidate)
    return 0 if extent >= target_mm else 1 if extent >= ENOUGH_EXTENT * target_mm else 2, f"{extent:.0f} mm"


def _step_class(candidate: Candidate) -> tuple[int, str]:
    step = _spacing(candidate)[2]
    return sum(round(step, 3) > limit for limit in STEP_CLASSES_MM), f"{step:.1f} mm"


def _kernel(candidate: Candidate) -> tuple[int, str]:
    kernel = candidate.attributes.get("kernel")
    name = kernel_class(candidate.attributes.get("manufacturer"), kernel)
    return (SOFT, UNKNOWN, SHARP).index(name), f"{name} ({kernel[0]})" if kernel else name


def _number(value: float, unit: str) -> tuple[float, str]:
    return value, f"{value:g} {unit}"


def _larger(value: float, unit: str) -> tuple[float, str]:
    return -value, f"{value:g} {unit}"


def _affine(candidate: Candidate) -> Any:
    assert candidate.geometry is not None
    return candidate.geometry.affine_ras


def _spacing(candidate: Candidate) -> tuple[float, float, float]:
    assert candidate.geometry is not None
    return candidate.geometry.spacing_mm


def _extent_z_mm(candidate: Candidate) -> float:
    assert candidate.geometry is not None
    return float(abs(_affine(candidate)[2, 2]) * candidate.geometry.shape_zyx[0])
