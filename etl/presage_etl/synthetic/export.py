"""The Bulk Data export: NDJSON shards and their manifest."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import orjson

from presage_etl.synthetic.care import DRUGS
from presage_etl.synthetic.chart import Chart
from presage_etl.synthetic.clock import HOUR_S, MINUTE_S, iso, wall
from presage_etl.synthetic.fhir import (
    LOCATION,
    NUM_PRACTITIONERS,
    ORGANIZATION,
    Json,
    coding,
    concept,
    medication_id,
    practitioner_id,
    reference,
)
from presage_etl.synthetic.identifiers import BASE_URL, RXNORM
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.streams import Stage, stream

EXPORT = "fhir/export-1"
COMPRESSED = {"Organization", "Practitioner", "Medication", "Immunization"}  # readers meet plain and gzipped files


def write_shard(folder: Path, parameters: Parameters, shard: int, charts: Iterable[Chart]) -> dict[str, int]:
    """Write one NDJSON file a resource type; return lines by file name."""
    by_type: dict[str, list[bytes]] = {}
    for chart in charts:
        for kind, resources in chart.resources.items():
            by_type.setdefault(kind, []).extend(orjson.dumps(resource) for resource in resources)
    counts = {}
    for place, kind in enumerate(sorted(by_type)):
        lines = by_type[kind]
        # Order carries no meaning in an export: a child may come before its parent.
        order = stream(parameters.seed, shard * 100 + place, Stage.SITE).permutation(len(lines))
        counts[_write(folder, f"{kind}.{shard:03d}.ndjson", kind, [lines[i] for i in np.asarray(order)])] = len(lines)
    return counts


def write_site(folder: Path) -> dict[str, int]:
    """Write what belongs to the hospital and not to a person."""
    organization: Json = {
        "resourceType": "Organization",
        "id": ORGANIZATION,
        "active": True,
        "type": [concept(coding("http://terminology.hl7.org/CodeSystem/organization-type", "prov"))],
        "name": "Synthetic Hospital",
    }
    location: Json = {
        "resourceType": "Location",
        "id": LOCATION,
        "status": "active",
        "name": "Synthetic Radiology",
        "address": {"line": ["1 Example Street"], "city": "Exampleton", "state": "MA", "country": "US"},
        "physicalType": concept(coding("http://terminology.hl7.org/CodeSystem/location-physical-type", "wi", "Wing")),
        "managingOrganization": reference("Organization", ORGANIZATION),
    }
    practitioners: list[Json] = [
        {
            "resourceType": "Practitioner",
            "id": practitioner_id(number),
            "active": True,
            "name": [{"family": "Halyard", "given": [f"Test-{number:02d}"]}],
            "gender": "female" if number % 2 else "male",
        }
        for number in range(NUM_PRACTITIONERS)
    ]
    medications: list[Json] = [
        {
            "resourceType": "Medication",
            "id": medication_id(code),
            "status": "active",
            "code": concept(coding(RXNORM, code, name), text=name),
        }
        for code, name in sorted(drug.code for drug in DRUGS.values())
    ]
    counts = {}
    for kind, resources in (
        ("Organization", [organization]),
        ("Location", [location]),
        ("Practitioner", practitioners),
        ("Medication", medications),
    ):
        lines = [orjson.dumps(resource) for resource in resources]
        counts[_write(folder, f"{kind}.000.ndjson", kind, lines)] = len(lines)
    return counts


def write_manifest(folder: Path, parameters: Parameters, counts: dict[str, int]) -> None:
    """Write manifest.json as the Bulk Data specification has it."""
    cut = wall(parameters.calendar.cut) + 23 * HOUR_S + 59 * MINUTE_S
    manifest = {
        "transactionTime": iso(cut, parameters.calendar.zone),
        "request": f"{BASE_URL}/$export",
        "requiresAccessToken": False,
        "output": [
            {"type": name.split(".")[0], "url": f"{BASE_URL}/files/{name}", "count": counts[name]}
            for name in sorted(counts)
        ],
        "deleted": [],
        "error": [],
        "extension": {"synthetic": True},
    }
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")


def _write(folder: Path, name: str, kind: str, lines: list[bytes]) -> str:
    content = b"\n".join(lines) + b"\n"
    if kind in COMPRESSED:
        name += ".gz"
        content = gzip.compress(content, compresslevel=1, mtime=0)
    (folder / name).write_bytes(content)
    return name
