"""What the options of the command line change in the parameters, and who makes what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.synth import SynthReport, make_hospital
from presage_platform.errors import UsageError

EVENTS_PER_PERSON = 11_600  # of the paper's cohort: 225 million events of 19,402 persons


def scale_overrides(
    *,
    timeline_only: bool,
    volumes_only: bool,
    events_per_person: int | None,
    concepts: int | None,
    zipf: float | None,
    studies: int | None,
    distinct: int | None,
    scans_per_person: float | None,
) -> dict[str, Any]:
    """Return the parameters that the options of the scale modes set.

    Raises
    ------
    UsageError
        Two modes are asked for at once, or an option stands without its mode.
    """
    if timeline_only and volumes_only:
        raise UsageError("--timeline-only and --volumes-only exclude each other: run the command twice")
    if not volumes_only and (studies is not None or distinct is not None):
        raise UsageError("--studies and --distinct belong to --volumes-only: add it, or size the cohort by --patients")
    if scans_per_person is not None and scans_per_person < 1:
        raise UsageError("--scans-per-patient is below 1: every scanned person has at least one")
    if timeline_only and events_per_person is None:
        events_per_person = EVENTS_PER_PERSON
    return _given(
        {
            "output": "timeline" if timeline_only else "volumes" if volumes_only else None,
            "timeline": _given({"events_per_person": events_per_person, "concepts": concepts, "zipf": zipf}),
            "volumes": _given({"studies": studies, "distinct": distinct}),
            "cohort": _given({"extra_scans": None if scans_per_person is None else scans_per_person - 1}),
        }
    )


def visible_leaves_override(preset: str | None, number: int | None) -> dict[str, Any]:
    """Return the number of further leaves of which so many carry imaging signal."""
    if number is None:
        return {}
    share = read_parameters(preset).hazard.visible_share
    return {"hazard": {"leaves": ceil(round(number / share, 6))}}


def maker_of(parameters: Parameters) -> Callable[..., SynthReport]:
    """Return the function that makes what the parameters ask for."""
    if parameters.output == "hospital":
        return make_hospital
    from presage_etl.synthetic.scale.cohort import make_cohort
    from presage_etl.synthetic.scale.phantoms import make_volumes

    return make_volumes if parameters.output == "volumes" else make_cohort


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != {}}
