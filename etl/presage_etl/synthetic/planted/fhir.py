"""What is planted in the FHIR export, one row a kind, and what a right load must make of it.

Every case has a person of its own, who was never scanned: whatever is planted, the labels of the scans stay true.
Preset `defects` plants each kind once; `[defects] fhir_rate` gives that share of the persons a companion with one kind,
drawn. Reasons are the ledger's words. Lines of one type share a file beside the shard's, unless the file itself is the
defect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from presage_etl.synthetic.clock import DAY_S, wall
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.planted import resources as make
from presage_etl.synthetic.planted.resources import Line, Place
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.omop import Row, days_of
from presage_etl.synthetic.records.omop_derived import derived_rows
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.errors import IntegrityError
from presage_platform.ledger.reasons import is_known

LOADED, EXCLUDED, DEAD = "loaded", "excluded", "dead"
FIRST_PLANTED, FIRST_COMPANION = 6_000_000, 7_000_000  # numbers of the persons who are made for a case
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Case(NamedTuple):
    """One kind: how it is made, and what must become of it."""

    kind: str
    make: Callable[[Place], list[Line]]
    expected: str = LOADED
    reason: str | None = None
    rows: int = 0
    alone: bool = False
    """The defect is the file's: it has a file for itself, ..."""
    head: bytes = b""
    ending: bytes = b"\n"
    file_type: str | None = None
    """... and here its name says another type."""
    base: tuple[str, ...] = ("patient", "encounter")
    """What the person has besides."""
    common: bool = True
    """May be drawn for a companion; not what is as large as a hundred others."""


CASES = (
    Case("broken_json", make.broken_json, DEAD, "not-json"),
    Case("byte_order_mark", make.good_lab, rows=1, alone=True, head=BYTE_ORDER_MARK),
    Case("blank_line", make.good_lab, rows=1, alone=True, head=b"\n", ending=b"\n\n"),
    Case("carriage_returns", make.good_lab, rows=1, alone=True, ending=b"\r\n"),
    Case("long_line", make.long_line, rows=1, common=False),
    Case("missing_subject", make.missing_subject, DEAD, "person-missing"),
    Case("unresolved_person", make.unresolved_person, DEAD, "person-missing"),
    Case("unresolved_visit", make.unresolved_visit, rows=1),
    Case("no_birth_date", make.no_birth_date, DEAD, "no-birth-date", base=()),
    Case("impossible_date", make.impossible_date, DEAD, "bad-date"),
    Case("year_one", make.year_one, DEAD, "bad-date"),
    Case("future_event", make.future_event, rows=1),
    Case("event_after_death", make.event_after_death, rows=1, base=("dead patient", "encounter")),
    Case("entered_in_error", make.entered_in_error, EXCLUDED, "entered-in-error"),
    Case("refuted_condition", make.refuted_condition, rows=1),
    Case("not_done_procedure", make.not_done, EXCLUDED, "policy:not_done"),
    Case("cancelled_request", make.cancelled_request, EXCLUDED, "status:cancelled"),
    Case("unknown_modifier", make.unknown_modifier, DEAD, "modifier-extension"),
    Case("unknown_unit", make.unknown_unit, rows=1),
    Case("comparator", make.comparator, rows=1),
    Case("text_for_number", make.text_for_number, rows=1),
    Case("duplicate_line", make.duplicate_line, EXCLUDED, "duplicate"),
    Case("older_version", make.older_version, EXCLUDED, "superseded"),
    Case("wrong_type_in_file", make.good_lab, rows=1, alone=True, file_type="Procedure"),
    Case("end_before_start", make.end_before_start, rows=1),
    Case("long_unicode_text", make.long_unicode_text, rows=1),
    Case("deceased_without_date", make.deceased_without_date, rows=2, base=("encounter",)),
)
COMMON = tuple(case for case in CASES if case.common)

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("resource", pa.string()),
        ("expected", pa.string()),
        ("reason", pa.string()),
        ("rows", pa.int64()),
    ]
)


@dataclass
class Planted:
    """Everything that was planted among some persons: files, rows of truth, CDM rows, and their counts."""

    files: dict[str, bytes] = field(default_factory=dict)
    num_lines: Counter[str] = field(default_factory=Counter)
    truth: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """Rows by table."""
        return Counter(row.table for row in self.rows if not row.table.endswith("_era"))


def plant(parameters: Parameters, codes: Codebook, parts: Mapping[int, int], shard: int, persons: range) -> Planted:
    """Plant what belongs to some persons: their companions, and their share of the cases that are planted once.

    Raises
    ------
    IntegrityError
        A case names a reason that the ledger does not know.
    """
    planted = Planted()
    last_day = wall(parameters.calendar.cut) // DAY_S
    for number, case in _wanted(parameters, persons):
        if case.reason is not None and not is_known(case.reason):
            raise IntegrityError(f"planted case {case.kind}: the ledger knows no reason {case.reason!r}")
        person = draw_person(parameters, number)
        place = Place(person, person.index_time, codes, parameters.calendar.zone)
        base, lines = _base(case, place), case.make(place)
        for line in base:
            _write(planted, f"{_type(line)}.{shard:03d}x.ndjson", line)
        for line in lines:
            _add(planted, case, line, shard, number)
        rows = [row for line in (*base, *lines) for row in line.rows]
        days = [day for row in rows for day in (days_of(row) or ()) if day <= last_day]
        planted.rows += rows + derived_rows(place.patient, person.birth.year, rows, days, parts)
    return planted


def write_files(folder: Path, planted: Planted) -> dict[str, int]:
    """Write the files; return resources by file name."""
    for name, content in planted.files.items():
        (folder / name).write_bytes(content)
    return dict(planted.num_lines)


def outcomes(truth: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Number of planted resources that are not loaded, by (dead or excluded, reason)."""
    return Counter((str(row["expected"]), str(row["reason"])) for row in truth if row["expected"] != LOADED)


def _wanted(parameters: Parameters, persons: range) -> Iterable[tuple[int, Case]]:
    """Numbers of the persons to be made, and their cases."""
    if parameters.defects.fhir_all:
        for place, case in enumerate(CASES):
            if place % parameters.patients in persons:
                yield FIRST_PLANTED + place, case
    for index in persons if parameters.defects.fhir_rate else ():
        rng = stream(parameters.seed, index, Stage.PLANTED_FHIR)
        if rng.random() < parameters.defects.fhir_rate:
            yield FIRST_COMPANION + index, COMMON[int(rng.integers(len(COMMON)))]


def _base(case: Case, place: Place) -> list[Line]:
    made = {
        "patient": lambda: make.patient(place),
        "dead patient": lambda: make.patient(place, death=make.death_of(place)),
        "encounter": lambda: make.encounter(place),
    }
    return [made[name]() for name in case.base]


def _add(planted: Planted, case: Case, line: Line, shard: int, number: int) -> None:
    kind = case.file_type or _type(line)
    name = f"{kind}.{shard:03d}x{number}.ndjson" if case.alone else f"{kind}.{shard:03d}x.ndjson"
    at = _write(planted, name, line, case.head if case.alone else b"", case.ending)
    as_case = not line.good
    row = {
        "kind": case.kind,
        "file": name,
        "line": at,
        "resource": line.key,
        "expected": case.expected if as_case else LOADED,
        "reason": case.reason if as_case else None,
        "rows": len(line.rows),
    }
    planted.truth.append(row)


def _write(planted: Planted, name: str, line: Line, head: bytes = b"", ending: bytes = b"\n") -> int:
    """Append a line to a file; return its number."""
    before = planted.files.get(name, b"") + head
    planted.files[name] = before + line.content + ending
    planted.num_lines[name] += 1
    return before.count(b"\n") + 1


def _type(line: Line) -> str:
    """Type by which a line is filed; what cannot be read stands among the observations."""
    return line.key.partition("/")[0] if line.key else "Observation"
