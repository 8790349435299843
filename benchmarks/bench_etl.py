"""How fast is a FHIR load, and how far from the raw speed of the database? (E107)

    python benchmarks/bench_etl.py [--resources 200000] [--workers 2] [--write]

Loads seeded laboratory Observations (900 bytes each, 1,000 persons, 300 codes) into a fresh embedded server, then
copies exactly the rows that the load left into empty logged tables with the same keys and indexes built after, on one
connection. The second figure is the yardstick: the ratio says what mapping, identity and ledger cost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from presage_etl.fhir.pipeline import Options, load_export
from presage_etl.omop.athena import load_vocabulary
from presage_platform.postgres.bulk import copy_in, copy_out
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings, read_settings

TARGET_RATE, TARGET_RATIO = 20_000, 6.0
NUM_PERSONS, NUM_CODES, RESOURCE_BYTES, SEED = 1_000, 300, 900, 20260101
COPIED = ("person", "measurement", "observation_period", "resource", "origin")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run the benchmark and print its figures; `--write` keeps them as a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=1, help="runs on a fresh database each; the median counts")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/etl_<hardware>_<date>.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="presage-bench-") as folder:
        export = write_export(Path(folder) / "export", arguments.resources)
        athena = write_vocabulary(Path(folder) / "athena")
        runs = [
            measure(Path(folder) / f"workspace{number}", export, athena, arguments.workers)
            for number in range(arguments.repeat)
        ]
    figures = summarise(runs, arguments.resources, arguments.workers)
    print(json.dumps(figures, indent=1))
    if arguments.write:
        print(f"written: {write_result(figures, runs)}")


# --- inputs ----------------------------------------------------------------------------------------------------------


def write_export(folder: Path, num_resources: int) -> Path:
    """Write Patients and Observations as NDJSON."""
    folder.mkdir(parents=True)
    rng = random.Random(SEED)
    with (folder / "Patient.ndjson").open("w") as file:
        for number in range(NUM_PERSONS):
            born = date(1930, 1, 1) + timedelta(days=rng.randrange(25_000))
            gender = rng.choice(["male", "female"])
            patient = {"resourceType": "Patient", "id": f"p{number}", "gender": gender, "birthDate": str(born)}
            file.write(json.dumps(patient) + "\n")
    with (folder / "Observation.ndjson").open("w") as file:
        for line in _observations(rng, num_resources):
            file.write(line)
    return folder


def _observations(rng: random.Random, number: int) -> Iterator[str]:
    start = datetime(2015, 1, 1, tzinfo=UTC)
    for place in range(number):
        code = rng.randrange(NUM_CODES)
        when = (start + timedelta(minutes=rng.randrange(4_000_000))).isoformat()
        observation = {
            "resourceType": "Observation",
            "id": f"o{place}",
            "meta": {"versionId": "1", "lastUpdated": "2024-01-01T00:00:00Z"},
            "status": "final",
            "category": [
                {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                            "code": "laboratory",
                        }
                    ]
                }
            ],
            "code": {
                "coding": [{"system": "http://loinc.org", "code": f"{10_000 + code}-0", "display": f"Test {code}"}],
                "text": f"Test {code}",
            },
            "subject": {"reference": f"Patient/p{rng.randrange(NUM_PERSONS)}"},
            "effectiveDateTime": when,
            "issued": when,
            "valueQuantity": {
                "value": round(rng.uniform(0, 200), 2),
                "unit": "mg/dL",
                "system": "http://unitsofmeasure.org",
                "code": "mg/dL",
            },
            "referenceRange": [{"low": {"value": 1.0, "unit": "mg/dL"}, "high": {"value": 99.0, "unit": "mg/dL"}}],
            "note": [{"text": ""}],
        }
        text = json.dumps(observation)
        observation["note"] = [{"text": "x" * max(RESOURCE_BYTES - len(text) - 1, 0)}]
        yield json.dumps(observation) + "\n"


def write_vocabulary(folder: Path) -> Path:
    """Write a vocabulary of the codes that occur, as Athena files; the concept floor completes it."""
    folder.mkdir(parents=True)
    header = (
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\t"
        "valid_start_date\tvalid_end_date\tinvalid_reason\n"
    )
    lines = [
        f"{2_000_000_000 + code}\tTest {code}\tMeasurement\tLOINC\tLab Test\tS\t{10_000 + code}-0\t"
        "19700101\t20991231\t\n"
        for code in range(NUM_CODES)
    ]
    lines.append("8840\tmilligram per deciliter\tUnit\tUCUM\tUnit\tS\tmg/dL\t19700101\t20991231\t\n")
    (folder / "CONCEPT.csv").write_text(header + "".join(lines))
    (folder / "VOCABULARY.csv").write_text(
        "vocabulary_id\tvocabulary_name\tvocabulary_reference\tvocabulary_version\tvocabulary_concept_id\n"
        "None\tOMOP Standardized Vocabularies\tbenchmark\tbenchmark\t0\n"
        "LOINC\tLOINC\tbenchmark\t\t0\nUCUM\tUCUM\tbenchmark\t\t0\n"
    )
    relations = "concept_id_1\tconcept_id_2\trelationship_id\tvalid_start_date\tvalid_end_date\tinvalid_reason\n"
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(relations)
    (folder / "CONCEPT_ANCESTOR.csv").write_text(
        "ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation\n"
    )
    for name, columns in (
        ("DOMAIN", "domain_id\tdomain_name\tdomain_concept_id"),
        ("CONCEPT_CLASS", "concept_class_id\tconcept_class_name\tconcept_class_concept_id"),
        (
            "RELATIONSHIP",
            "relationship_id\trelationship_name\tis_hierarchical\tdefines_ancestry\treverse_relationship_id\t"
            "relationship_concept_id",
        ),
    ):
        (folder / f"{name}.csv").write_text(columns + "\n")
    return folder


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(workspace: Path, export: Path, athena: Path, workers: int) -> dict[str, Any]:
    """Load into a fresh server, then copy the same rows raw; return seconds and rows."""
    settings = read_settings(workspace, create=True)
    with open_database(settings, command="bench") as database:  # keeps the server up between the steps
        with database.connect() as connection:
            load_vocabulary(athena, connection)
            connection.commit()
        start = time.perf_counter()
        report = load_export(export, settings=settings, options=Options(workers=workers))
        load_s = time.perf_counter() - start
        start = time.perf_counter()
        load_export(export, settings=settings, options=Options(workers=workers))
        again_s = time.perf_counter() - start
        copy_s, rows = raw_copy(database, settings)
    assert report.total.num_loaded == report.total.num_in
    return {"load_s": load_s, "again_s": again_s, "copy_s": copy_s, "rows": rows, "stages_s": report.seconds}


def raw_copy(database: Database, settings: Settings) -> tuple[float, int]:
    """Copy the rows of the load into empty logged tables, then build the same keys and indexes; seconds, rows."""
    with database.connect() as connection:
        data = {name: copy_out(connection, _all(name)) for name in COPIED}
        indexes = {name: _indexes(connection, name) for name in COPIED}
        connection.execute("CREATE SCHEMA raw")
        for name in COPIED:
            like = sql.SQL("CREATE TABLE raw.{} AS SELECT * FROM {} WITH NO DATA")
            connection.execute(like.format(sql.Identifier(name), sql.Identifier(name)))
        connection.commit()
        start = time.perf_counter()
        for name, rows in data.items():
            copy_in(connection, name, rows, schema="raw")
            for definition in indexes[name]:
                connection.execute(definition)
        connection.commit()
        return time.perf_counter() - start, sum(rows.num_rows for rows in data.values())


def _all(name: str) -> sql.Composed:
    return sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))


def _indexes(connection: psycopg.Connection[Any], name: str) -> list[str]:
    found = connection.execute("SELECT indexdef, schemaname FROM pg_indexes WHERE tablename = %s", [name]).fetchall()
    return [definition.replace(f" ON {schema}.", " ON raw.") for definition, schema in found]


def summarise(runs: list[dict[str, Any]], num_resources: int, workers: int) -> dict[str, Any]:
    """Return the figures beside their targets."""
    load_s = statistics.median(run["load_s"] for run in runs)
    ratio = statistics.median(run["load_s"] / run["copy_s"] for run in runs)
    rate = num_resources / load_s
    return {
        "resources": num_resources,
        "resources_per_s": round(rate),
        "target_resources_per_s": TARGET_RATE,
        "load_s": round(load_s, 2),
        "raw_copy_s": round(statistics.median(run["copy_s"] for run in runs), 2),
        "ratio": round(ratio, 2),
        "target_ratio": TARGET_RATIO,
        "unchanged_share": round(statistics.median(run["again_s"] / run["load_s"] for run in runs), 3),
        "target_unchanged_share": 0.03,
        "rows": runs[0]["rows"],
        "runs": len(runs),
        "spread_s": [round(min(run["load_s"] for run in runs), 2), round(max(run["load_s"] for run in runs), 2)],
        "workers": workers,
        "stages_s": runs[0]["stages_s"],
        "hardware": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "presage": version("presage"), "psycopg": version("psycopg")},
    }


def write_result(figures: dict[str, Any], runs: list[dict[str, Any]]) -> Path:
    """Write the figures as a report of the house's form."""
    hardware = figures["hardware"].replace(", ", "_").replace(" ", "")
    path = RESULTS / f"etl_{hardware}_{date.today():%Y-%m-%d}.md"
    path.parent.mkdir(exist_ok=True)
    met = "met" if figures["resources_per_s"] >= TARGET_RATE and figures["ratio"] <= TARGET_RATIO else "not met"
    path.write_text(
        "\n".join(
            [
                "# FHIR load: laboratory Observations",
                "",
                "Question: how many Observations a second does `platform etl fhir` load, and how many times a "
                "raw COPY is it?",
                "",
                f"Answer: {figures['resources_per_s']:,} resources/s (target {TARGET_RATE:,} at 1 million) and "
                f"{figures['ratio']} × raw COPY (target ≤ {TARGET_RATIO:g}): {met}.",
                "",
                f"Hardware: {figures['hardware']}; load average at the end {figures['load_average']:.1f}. "
                f"Versions: {figures['versions']}.",
                "",
                f"Data: {figures['resources']:,} synthetic Observations of {RESOURCE_BYTES} bytes, "
                f"{NUM_PERSONS:,} persons, "
                f"{NUM_CODES} codes, seed {SEED}.",
                "",
                f"Command: `python benchmarks/bench_etl.py --resources {figures['resources']} --workers "
                f"{figures['workers']} "
                f"--repeat {figures['runs']} --write`",
                "",
                "| run | load s | unchanged again s | raw COPY s | ratio |",
                "|---|---|---|---|---|",
                *(
                    f"| {number} | {run['load_s']:.2f} | {run['again_s']:.2f} | {run['copy_s']:.2f} "
                    f"| {run['load_s'] / run['copy_s']:.2f} |"
                    for number, run in enumerate(runs, start=1)
                ),
                "",
                f"Equality: every resource loaded; {figures['rows']:,} rows in both.",
                "",
                "Not measured: mixed Bundles, memory, more than the workers named.",
                "",
            ]
        )
    )
    return path


if __name__ == "__main__":
    main()
