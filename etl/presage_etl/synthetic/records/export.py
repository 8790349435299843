"""The Bulk Data exports: NDJSON shards, their manifests, and the deletions since an earlier export."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import orjson

from presage_etl.synthetic.clock import HOUR_S, MINUTE_S, iso, wall
from presage_etl.synthetic.identifiers import BASE_URL
from presage_etl.synthetic.lives.care import DRUGS
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.changes import first_export_s, split
from presage_etl.synthetic.records.chart_entries import Chart, Entry
from presage_etl.synthetic.records.fhir import Json
from presage_etl.synthetic.records.fhir_forms import name_in_bundle
from presage_etl.synthetic.records.fhir_site import site_resources
from presage_etl.synthetic.streams import Stage, stream

EXPORT = "fhir/export-1"
SECOND_EXPORT = "fhir/export-2"
COMPRESSED = {"Organization", "Practitioner", "Medication", "Immunization", "Specimen"}  # readers meet both
DELETED = "deleted"

Counts = dict[str, int]


def exports_of(parameters: Parameters) -> tuple[str, ...]:
    """Folders of the exports, in the order in which they were made."""
    return (EXPORT, SECOND_EXPORT)[: parameters.exports]


def write_shard(folder: Path, parameters: Parameters, shard: int, charts: Sequence[Chart]) -> list[Counts]:
    """Write one NDJSON file a resource type and export; return lines by file name, of each export.

    Parameters
    ----------
    folder
        The hospital.
    """
    if parameters.exports == 1:
        return [_write_entries(folder / EXPORT, parameters, shard, (entry for c in charts for entry in c.entries))]
    both = [split(parameters, chart) for chart in charts]
    return [
        _write_entries(folder / EXPORT, parameters, shard, (entry for first, _ in both for entry in first)),
        _write_entries(folder / SECOND_EXPORT, parameters, shard, (entry for _, second in both for entry in second))
        | _write_deleted(folder / SECOND_EXPORT, shard, charts),
    ]


def write_site(folder: Path) -> Counts:
    """Write what belongs to the hospital and not to a person."""
    counts = {}
    for kind, resources in site_resources([drug.code for drug in DRUGS.values()]).items():
        lines = [orjson.dumps(resource) for resource in resources]
        counts[_write(folder, f"{kind}.site.ndjson", kind, lines)] = len(lines)
    return counts


def write_manifest(folder: Path, parameters: Parameters, counts: Counts, *, number: int = 1) -> None:
    """Write manifest.json as the Bulk Data specification has it; the last export is made at the data cut."""
    zone = parameters.calendar.zone
    last = wall(parameters.calendar.cut) + 23 * HOUR_S + 59 * MINUTE_S
    first = iso(first_export_s(parameters), zone)
    names = sorted(name for name in counts if not name.startswith(DELETED))
    order = stream(parameters.seed, number, Stage.BUNDLES, 0).permutation(len(names))
    manifest = {
        "transactionTime": iso(last, zone) if number == parameters.exports else first,
        "request": f"{BASE_URL}/$export" + (f"?_since={first}" if number == 2 else ""),
        "requiresAccessToken": False,
        "output": [_listed(names[place], counts, names[place].split(".")[0]) for place in order],
        "deleted": [_listed(name, counts, "Bundle") for name in sorted(counts) if name.startswith(DELETED)],
        "error": [],
        "extension": {"synthetic": True},
    }
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")


def _listed(name: str, counts: Counts, kind: str) -> Json:
    return {"type": kind, "url": f"{BASE_URL}/files/{name}", "count": counts[name]}


def _write_entries(folder: Path, parameters: Parameters, shard: int, entries: Iterable[Entry]) -> Counts:
    by_type: dict[str, list[bytes]] = {}
    bundles: dict[str, list[Json]] = {}
    for entry in entries:
        if entry.bundle:
            bundles.setdefault(entry.bundle, []).append(entry.resource)
        else:
            by_type.setdefault(str(entry.resource["resourceType"]), []).append(orjson.dumps(entry.resource))
    if bundles:
        by_type["Bundle"] = [orjson.dumps(name_in_bundle(resources)) for resources in bundles.values()]
    counts = {}
    for place, kind in enumerate(sorted(by_type)):
        lines = by_type[kind]
        # Order carries no meaning in an export: a child may come before its parent.
        order = stream(parameters.seed, shard * 100 + place, Stage.SITE).permutation(len(lines))
        counts[_write(folder, f"{kind}.{shard:03d}.ndjson", kind, [lines[i] for i in np.asarray(order)])] = len(lines)
    return counts


def _write_deleted(folder: Path, shard: int, charts: Sequence[Chart]) -> Counts:
    """Write what was deleted since the first export: a transaction Bundle of DELETE requests for each person."""
    lines = []
    for chart in charts:
        if chart.withdrawn:
            requests = [{"request": {"method": "DELETE", "url": entry.key}} for entry in chart.withdrawn]
            lines.append(orjson.dumps({"resourceType": "Bundle", "type": "transaction", "entry": requests}))
    return {_write(folder, f"{DELETED}.{shard:03d}.ndjson", DELETED, lines): len(lines)} if lines else {}


def _write(folder: Path, name: str, kind: str, lines: list[bytes]) -> str:
    content = b"\n".join(lines) + b"\n"
    if kind in COMPRESSED:
        name += ".gz"
        content = gzip.compress(content, compresslevel=1, mtime=0)
    (folder / name).write_bytes(content)
    return name
