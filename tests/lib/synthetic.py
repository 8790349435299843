"""Synthetic hospitals for tests: made once, read by many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.lives.events import History, simulate
from presage_etl.synthetic.lives.hazards import Model, build_model
from presage_etl.synthetic.lives.persons import Person, draw_person
from presage_etl.synthetic.parameters import Parameters, read_parameters
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


def resources(hospital: Path, kind: str | None = None, *, export: Path = EXPORT) -> Iterator[dict[str, Any]]:
    """Resources of an export, of one type or all; those of Bundles too."""
    for line in lines_of(hospital, export=export):
        found = [entry["resource"] for entry in line["entry"]] if line["resourceType"] == "Bundle" else [line]
        yield from (resource for resource in found if kind in (None, resource["resourceType"]))


def lines_of(hospital: Path, *, export: Path = EXPORT) -> Iterator[dict[str, Any]]:
    """Lines of the files that an export's manifest lists as output."""
    import gzip

    listed = json.loads((hospital / export / "manifest.json").read_text())["output"]
    for name in sorted(entry["url"].rsplit("/", 1)[1] for entry in listed):
        content = (hospital / export / name).read_bytes()
        for line in (gzip.decompress(content) if name.endswith(".gz") else content).splitlines():
            yield json.loads(line)


def keys_of(value: Any, hospital: Path | None = None) -> Iterator[str]:
    """What the references within a value name, as Type/id: relative, absolute, versioned, or by urn:uuid."""
    from presage_etl.synthetic.identifiers import BASE_URL
    from presage_etl.synthetic.records.fhir_forms import urn

    if isinstance(value, dict):
        name = value.get("reference")
        if isinstance(name, str) and name.startswith("urn:uuid:") and hospital is not None:
            every = (f"{r['resourceType']}/{r['id']}" for r in resources(hospital))
            name = next(key for key in every if urn(key) == name)
        if isinstance(name, str) and name[0] != "#":
            yield name.removeprefix(f"{BASE_URL}/").partition("/_history/")[0]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from keys_of(part, hospital)


def person_of(resource: dict[str, Any]) -> str:
    """Key of the person that a resource names in whatever form; merged Patients are one person."""
    text = str(resource.get("subject", resource.get("patient"))["reference"])
    found = re.search(r"(?:Patient/p|SYN[0-9])([0-9]{6})", text)
    assert found is not None
    return f"p{found[1]}"


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
    from presage_etl.synthetic.pictures.images import picture
    from presage_etl.synthetic.pictures.scanner import draw_acquisition, scan
    from presage_etl.synthetic.streams import Stage, stream

    planned = person.scans[0]
    made = draw_acquisition(parameters, person.index, 0, male=person.male, biomarkers=planned.biomarkers)
    phantom = picture(parameters, person, planned, made)
    return scan(phantom, made, stream(parameters.seed, person.index, Stage.NOISE, 0))
