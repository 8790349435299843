"""A chart: the resources of one person, and the CDM rows that a right load must make of each.

A fact becomes a resource and its rows in one place, from what is simulated; `omop` tells the shape of a row. The code
that loads the record has no part in it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from presage_etl.synthetic.lives.events import NEVER
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.records import fhir, omop
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.fhir import Json
from presage_etl.synthetic.records.omop import Row, When

CODED = ("code", "medicationCodeableConcept", "vaccineCode")


@dataclass(slots=True)
class Entry:
    """One resource as the record has it at its end, and what a right load makes of it."""

    resource: Json
    patient: str
    """Id of the Patient that it names."""
    made: list[Row] = field(default_factory=list)
    tables: Counter[str] = field(default_factory=Counter)
    """Rows by table."""
    days: list[int] = field(default_factory=list)
    """Days since 1970 by which its rows widen the record."""
    visit: int = NEVER
    excluded: str = ""
    """The reason for which a right load leaves it out."""
    bundle: str = ""
    earlier: Entry | None = None
    """How it stood at the first of two exports; None when it stood the same, or was not there."""

    @property
    def kind(self) -> str:
        """Type of the resource."""
        return str(self.resource["resourceType"])

    @property
    def key(self) -> str:
        """Type/id."""
        return f"{self.kind}/{self.resource['id']}"

    @property
    def updated(self) -> str:
        """Time of its last change, on the hospital's wall clock."""
        return str(self.resource.get("meta", {}).get("lastUpdated", ""))[:19]


class Charted(Protocol):
    """As much of a chart as truth reads: whose it is, its days, and the studies that it knows."""

    person: Person
    days: list[int]

    @property
    def resources(self) -> dict[str, list[Json]]:
        """Resources by type."""
        ...


@dataclass(slots=True)
class Chart:
    """Entries of one person, the rows that they make, and the days by which these widen the record."""

    person: Person
    codes: Codebook
    last_day: int  # of the export, in days since 1970: what is dated later widens nothing
    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    days: list[int] = field(default_factory=list)
    labs: list[tuple[str, float, int]] = field(default_factory=list)  # LOINC code, value as drawn, wall-clock seconds
    withdrawn: list[Entry] = field(default_factory=list)
    """What only the first of two exports holds: deleted since."""

    @property
    def resources(self) -> dict[str, list[Json]]:
        """Resources by type."""
        found: dict[str, list[Json]] = {}
        for entry in self.entries:
            found.setdefault(entry.kind, []).append(entry.resource)
        return found

    def add(self, resource: Json, *rows: Row, visit: int = NEVER, excluded: str = "") -> None:
        """Keep a resource and the rows that a right load makes of it."""
        self.entries.append(Entry(resource, self.person.key, visit=visit, excluded=excluded))
        self.expect(*rows)

    def expect(self, *rows: Row) -> None:
        """Keep further rows of the last resource, and the days that they give to the observation period."""
        entry = self.entries[-1]
        for row in rows:
            self.rows.append(row)
            entry.made.append(row)
            if row.table != "location":  # persons share their addresses
                entry.tables[row.table] += 1
            span = omop.days_of(row)
            if span is not None and span[0] <= self.last_day:
                spanned = [span[0], min(span[1], self.last_day)]
                entry.days += spanned
                self.days += spanned

    def event(
        self,
        resource: Json,
        home: str,
        when: When,
        type_concept: int,
        *,
        setting: str = "general",
        visit: int = NEVER,
        end: When | None = None,
        **columns: Any,
    ) -> None:
        """Keep a coded event: its rows follow from `resource["code"]`, or from the code of its drug or vaccine."""
        code = next(resource[name] for name in CODED if name in resource)
        rows = omop.event(
            home,
            f"{resource['resourceType']}/{resource['id']}",
            self.person,
            self.codes.meaning(code, setting),
            when,
            type_concept,
            visit=None if visit == NEVER else f"Encounter/{fhir.visit_id(self.person, visit)}",
            end=end,
            **columns,
        )
        self.add(resource, *rows, visit=visit)

    def counts(self) -> Counter[str]:
        """Rows by table, a location for each person's address left out: persons share them."""
        return Counter(row.table for row in self.rows if row.table != "location")
