"""Small FHIR exports by hand, and what a load left in the database, with ids or with the keys that they stand for."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import zstandard
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from presage_etl.fhir.pipeline import Options, load_export
from presage_etl.fhir.report import LoadReport
from presage_etl.fhir.stage import ROW_TABLES, row_table
from presage_etl.omop.athena import load_vocabulary
from presage_platform.ledger.tables import TABLE_NUMBERS
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings, parse_settings
from tests.lib.database import TestServer, empty_database
from tests.lib.vocabulary import write_athena

SNOMED, LOINC = "http://snomed.info/sct", "http://loinc.org"
Resource = dict[str, Any]


def patient(name: str, birth_date: str | None = "1950-04-02", **more: Any) -> Resource:
    """A Patient of Massachusetts."""
    found = {"resourceType": "Patient", "id": name, "gender": "female", "birthDate": birth_date}
    return {**_present(found), "address": [{"use": "home", "state": "MA", "country": "US"}], **more}


def encounter(name: str, person: str, start: str, end: str | None = None, code: str = "AMB", **more: Any) -> Resource:
    """An Encounter of one class."""
    return {
        "resourceType": "Encounter",
        "id": name,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": code},
        "subject": {"reference": f"Patient/{person}"},
        "period": {"start": start, "end": end or start},
        **more,
    }


def observation(name: str, person: str, when: str | None, value: float = 13.5, **more: Any) -> Resource:
    """A haemoglobin."""
    found = {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "718-7"}]},
        "subject": {"reference": f"Patient/{person}"},
        "effectiveDateTime": when,
        "valueQuantity": {"value": value, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    }
    return {**_present(found), **more}


def condition(name: str, person: str, when: str, code: str = "44054006", **more: Any) -> Resource:
    """A diagnosis."""
    return {
        "resourceType": "Condition",
        "id": name,
        "code": {"coding": [{"system": SNOMED, "code": code}]},
        "subject": {"reference": f"Patient/{person}"},
        "onsetDateTime": when,
        **more,
    }


def practitioner(name: str) -> Resource:
    """A Practitioner without any detail."""
    return {"resourceType": "Practitioner", "id": name}


def _present(values: Resource) -> Resource:
    return {name: value for name, value in values.items() if value is not None}


def small_hospital(num_persons: int = 6, seed: int = 7) -> list[Resource]:
    """Persons with visits, parts of visits, an admission from the emergency room, events, a death, an unknown code."""
    rng = random.Random(seed)
    made: list[Resource] = [practitioner("doc")]
    for number in range(num_persons):
        person, day = f"p{number}", f"2020-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}"
        dead: Resource = {"deceasedDateTime": "2021-05-06"} if number == 1 else {}
        made.append(patient(person, f"19{rng.randint(30, 80)}-05-0{rng.randint(1, 9)}", **dead))
        doctor: Resource = {"participant": [{"individual": {"reference": "Practitioner/doc"}}]}
        made.append(encounter(f"{person}-e1", person, f"{day}T08:00:00Z", f"{day}T09:00:00Z", **doctor))
        made.append(encounter(f"{person}-er", person, "2020-11-01T08:00:00Z", "2020-11-01T12:00:00Z", "EMER"))
        root: Resource = {"partOf": {"reference": f"Encounter/{person}-er"}}
        made.append(encounter(f"{person}-in", person, "2020-11-01T12:00:00Z", "2020-11-05T12:00:00Z", "IMP", **root))
        at_visit: Resource = {"encounter": {"reference": f"Encounter/{person}-in"}}
        made.append(condition(f"{person}-c1", person, "2020-11-02", **at_visit))
        made.append(condition(f"{person}-c2", person, "2020-11-03", code="404684003000", **at_visit))
        for place in range(4):
            when = None if place == 3 else f"2020-11-02T0{place}:00:00Z"
            made.append(observation(f"{person}-o{place}", person, when, 10 + rng.random(), **at_visit))
        made.append(_blood_pressure(f"{person}-bp", person))
    made.append({"resourceType": "Claim", "id": "claim", "status": "active"})
    return made


def _blood_pressure(name: str, person: str) -> Resource:
    def part(code: str, value: int) -> Resource:
        quantity = {"value": value, "unit": "mm[Hg]", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": quantity}

    panel = {"coding": [{"system": LOINC, "code": "85354-9"}]}
    parts = [part("8480-6", 120), part("8462-4", 80)]
    found = observation(name, person, "2020-11-02", code=panel, component=parts)
    return {key: value for key, value in found.items() if key != "valueQuantity"}


# --- files -----------------------------------------------------------------------------------------------------------


def write_ndjson(path: Path, resources: Iterable[Resource], compress: str = "") -> Path:
    """Write NDJSON, plain, gzip or zstd."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(json.dumps(resource).encode() + b"\n" for resource in resources)
    packed = {"": data, "gzip": gzip.compress(data), "zstd": zstandard.compress(data)}[compress]
    path.write_bytes(packed)
    return path


def write_bundle(path: Path, resources: Sequence[Resource], kind: str = "transaction") -> Path:
    """Write a Bundle whose entries refer to each other by `urn:uuid`."""
    urls = {f"{r['resourceType']}/{r['id']}": f"urn:uuid:{r['id']}" for r in resources}
    text = json.dumps(
        {
            "resourceType": "Bundle",
            "type": kind,
            "entry": [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in resources],
        },
        indent=1,
    )
    for key, url in urls.items():
        text = text.replace(f'"reference": "{key}"', f'"reference": "{url}"')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- loading ---------------------------------------------------------------------------------------------------------


@contextmanager
def tiny_template(server: TestServer) -> Iterator[str]:
    """Yield the name of a database with the schema and the tiny vocabulary."""
    folder = Path(tempfile.mkdtemp(prefix="presage-athena-"))
    with empty_database(server, template=server.template) as url:
        settings = parse_settings(folder, {"database": {"url": url}}, environment={})
        with open_database(settings, command="test") as database, database.connect() as connection:
            load_vocabulary(write_athena(folder), connection)
            connection.commit()
        yield str(conninfo_to_dict(url)["dbname"])
    shutil.rmtree(folder)


@contextmanager
def copy_of(server: TestServer, template: str, workspace: Path) -> Iterator[Settings]:
    """Yield settings of a workspace whose database is a fresh copy of a template."""
    with empty_database(server, template=template) as url:
        yield parse_settings(workspace, {"database": {"url": url}}, environment={})


def load(settings: Settings, *paths: Path, **options: Any) -> LoadReport:
    """Load files with one worker unless told otherwise; dead letters never fail."""
    return load_export(list(paths), settings=settings, options=Options(**{"workers": 1, "max_dead": 1.0, **options}))


KILLED = """
import os, signal, sys
from pathlib import Path
import presage_etl.fhir.{module} as module
from presage_platform.settings import parse_settings
from tests.lib.fhir_export import load

owner = module{owner}
undisturbed, calls = owner.{function}, [0]

def kill(*arguments, **named):
    calls[0] += 1
    if calls[0] == {at_call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return undisturbed(*arguments, **named)

owner.{function} = kill
settings = parse_settings(Path(sys.argv[1]), {{"database": {{"url": sys.argv[2]}}}}, environment={{}})
load(settings, *map(Path, sys.argv[3:]))
"""


def load_and_kill(settings: Settings, point: str, *paths: Path, at_call: int = 1) -> int:
    """Load in a process of its own that is killed when it reaches `module[.Class].function`; return its code."""
    module, *owner, function = point.split(".")
    script = KILLED.format(
        module=module, owner="".join(f".{name}" for name in owner), function=function, at_call=at_call
    )
    url = settings.database.url
    assert url is not None
    root = Path(__file__).resolve().parents[2]
    arguments = [sys.executable, "-c", script, str(settings.workspace), url.get_secret_value(), *map(str, paths)]
    return subprocess.run(arguments, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120).returncode


# --- what is left ----------------------------------------------------------------------------------------------------

DUMPED = (*ROW_TABLES, "observation_period")


def rows_of(settings: Settings, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return the rows of one query."""
    with open_database(settings, command="test") as database, database.connect() as connection:
        return connection.execute(query, parameters).fetchall()


def dump(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Return every CDM row and its origin, ids included: equal dumps are equal databases."""
    with open_database(settings, command="test") as database, database.connect() as connection:
        found = {name: connection.execute(_all(name)).fetchall() for name in DUMPED}
        found["origin"] = connection.execute(
            "SELECT o.table_no, o.row_id, r.resource_type, r.resource_id, o.slot, o.rule FROM origin AS o "
            "JOIN resource AS r USING (resource_no) ORDER BY 1, 2"
        ).fetchall()
        return found


def _all(name: str) -> sql.Composed:
    return sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(name))


def portable_dump(settings: Settings) -> dict[str, list[tuple[str, ...]]]:
    """Return every CDM row with ids replaced by the (resource, slot) they stand for: equal in any order of loads."""
    with open_database(settings, command="test") as database, database.connect() as connection:
        return {name: _portable(database, connection, name) for name in ROW_TABLES}


REFERS = {
    "person_id": "person",
    "visit_occurrence_id": "visit_occurrence",
    "preceding_visit_occurrence_id": "visit_occurrence",
    "visit_detail_id": "visit_detail",
    "parent_visit_detail_id": "visit_detail",
    "provider_id": "provider",
    "care_site_id": "care_site",
    "location_id": "location",
    "procedure_occurrence_id": "procedure_occurrence",
    "measurement_event_id": "measurement",
    "observation_event_id": "observation",
}


def _portable(database: Database, connection: psycopg.Connection[Any], name: str) -> list[tuple[str, ...]]:
    names = {
        (number, row_id): f"{kind}/{key}#{slot}" if not slot.startswith("address:") else slot
        for number, row_id, kind, key, slot in connection.execute(
            "SELECT o.table_no, o.row_id, r.resource_type, r.resource_id, o.slot FROM origin AS o JOIN resource AS r "
            "USING (resource_no)"
        )
    }
    key = row_table(name).key
    cursor = connection.execute(_all(name))
    columns = [column.name for column in cursor.description or []]
    found = []
    for row in cursor.fetchall():
        shown = []
        for column, value in zip(columns, row, strict=True):
            table = name if column == key else REFERS.get(column)
            known = names.get((TABLE_NUMBERS[table], value)) if table and value is not None else None
            shown.append(f"{column}={known if known is not None else value}")
        found.append(tuple(shown))
    return sorted(found)
