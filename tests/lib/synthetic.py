"""Synthetic hospitals for tests: made once, read by many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.events import History, simulate
from presage_etl.synthetic.hazards import Model, build_model
from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.persons import Person, draw_person
from presage_etl.synthetic.synth import make_hospital

EXPORT = Path("fhir") / "export-1"


def tiny_parameters(**overrides: Any) -> Parameters:
    """The small preset, cut down to what a test can wait for."""
    values: dict[str, Any] = {"patients": 24, "persons_per_shard": 9, "studies_per_task": 5, "ceiling_persons": 8000}
    return read_parameters("small", **(values | overrides))


def make(folder: Path, *, workers: int = 1, **overrides: Any) -> Path:
    """Make a hospital and return its folder."""
    make_hospital(folder, tiny_parameters(**overrides), workers=workers)
    return folder


def resources(hospital: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Resources of an export, of one type or all."""
    import gzip

    for path in sorted((hospital / EXPORT).iterdir()):
        if path.name == "manifest.json" or (kind and path.name.split(".")[0] != kind):
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in content.splitlines():
            yield json.loads(line)


def truth(hospital: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a table of truth."""
    return list(pq.read_table(hospital / "truth" / f"{name}.parquet").to_pylist())


def lives(preset: str, number: int) -> tuple[Parameters, Model, list[History]]:
    """Simulated lives without files."""
    parameters = read_parameters(preset)
    model = build_model(parameters)
    return parameters, model, [simulate(parameters, model, draw_person(parameters, index)) for index in range(number)]


def best_linear_auroc(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    """AUROC of the best linear score, fitted on one half of the rows and read on the other."""
    from scipy.stats import rankdata
    from sklearn.linear_model import LogisticRegression

    half = len(present) // 2
    areas = []
    for fit, read in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        if present[fit].sum() < 5 or not 0 < present[read].sum() < len(present[read]):
            continue
        risk = rankdata(LogisticRegression(C=0.3).fit(scores[fit], present[fit]).decision_function(scores[read]))
        positive = present[read]
        number = positive.sum()
        areas.append((risk[positive].sum() - number * (number + 1) / 2) / (number * (len(positive) - number)))
    return float(np.mean(areas)) if areas else 0.5


def volume_of(parameters: Parameters, person: Person) -> NDArray[np.int16]:
    """The Hounsfield volume of a person's first scan, without its files."""
    from presage_etl.synthetic.images import picture
    from presage_etl.synthetic.phantom import scan
    from presage_etl.synthetic.scanner import draw_acquisition
    from presage_etl.synthetic.streams import Stage, stream

    made = draw_acquisition(parameters, person.index, 0, male=person.male)
    phantom = picture(parameters, person, person.scans[0], made)
    return scan(phantom, made.anatomy, stream(parameters.seed, person.index, Stage.NOISE, 0))
