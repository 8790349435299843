"""What mapping one resource can end in: rows to write, a deliberate exclusion, or a dead letter.

This is the contract between the mappings (pure, one module a resource) and the pipeline, which adds identity, joins
and types. Conventions that both sides keep:

* References in `Row.refs` are written `Type/id` (a version is cut off). Forms that only the reader can settle are
  handed on as they stand: `urn:uuid:…`, `urn:oid:…`, an absolute URL, `Type?identifier=system|value`. Contained
  resources (`#x`) are settled by the mapping and never appear. `slot:<s>` names another row of the same resource.
* A child Encounter (`partOf`) is emitted as a `visit_detail` row with `refs["part_of"]`; the merge finds the root of
  the chain, fills `visit_occurrence_id` and `parent_visit_detail_id`, or makes it a visit of its own (E52, E53). An
  Encounter's `location[]` gives `visit_detail` rows in slots `loc<n>` with `refs["part_of"] = "slot:main"`.
* `refs["visit_occurrence_id"]` names the Encounter; the merge sets the root visit and, for a child, the detail too.
* `date_source` beginning with `@` asks the merge for a better date, and the value given is the fallback:
  `@last-visit` = start of the person's last visit, `@last-event` = date of the person's last event.
* Required end dates (`visit_end_date`, `visit_detail_end_date`, `drug_exposure_end_date`) that are None become the
  start in the merge; so do ends that an encounter's or birth's date, filled in late, would leave before the start.
* Slots are unique within a resource, whatever the table: `slot:main` is unambiguous.
* A Patient's `location` row (slot `address`) is shared by equal content; an Organization's and Location's is their own.
* Tables `ledger.…` are no CDM tables: `ledger.medication` keeps what a Medication stands for (E57), and
  `ledger.diagnosis_role` the role that an Encounter gives to a Condition (E54).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from presage_platform.ledger.reasons import with_known_code

Imputed = Literal["year", "month", "age", "extraction", "end"]


@dataclass(slots=True)
class Row:
    """One row to be written, its ids not yet known."""

    table: str
    """CDM table, after routing by domain (E36)."""
    slot: str
    """Stable word that tells the rows of one resource and table apart (E76)."""
    rule: int
    """Number of the rule that made the row: 54 for E54."""
    values: dict[str, Any]
    """CDM column → date, datetime, number or text; no ids of other rows."""
    refs: dict[str, str]
    """Id column → reference of the row that it points to."""
    required_date: str | None = None
    """Name of the date column that the merge fills from the encounter's start when its value is None; still None
    afterwards: the resource is dead (`no-date`)."""
    date_source: str | None = None
    """Path of the element that gave the date."""
    imputed: Imputed | None = None
    """How the required date was completed where the source gave less than a day (E72)."""
    after_birth: str | None = None
    """ISO 8601 duration (`P40Y`, `P3M`, `P10D`): the required date, when None, is the birth date plus this."""


@dataclass(slots=True)
class Identifier:
    """An identifier of a resource; the engine keeps its HMAC only (E69)."""

    system: str | None
    value: str
    start: date | None = None
    end: date | None = None


@dataclass(slots=True)
class Note:
    """One thing worth counting; kinds: loss, unmapped, unresolved, target-dropped, end-before-start, text-cut, …"""

    kind: str
    element: str
    detail: str = ""
    system: str | None = None
    """For `unmapped`: URI of the code system (None: the coding has none), the code as received and a display text."""
    code: str | None = None
    display: str | None = None


@dataclass(slots=True)
class Loaded:
    """The resource is taken: its rows, none when it is only used by reference."""

    rows: list[Row] = field(default_factory=list)
    identifiers: list[Identifier] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True)
class Excluded:
    """Deliberately not loaded; the reason is one of the closed list in `presage_platform.ledger.reasons`."""

    reason: str

    def __post_init__(self) -> None:
        self.reason = with_known_code(self.reason)


@dataclass(slots=True)
class Dead:
    """Could not be loaded: kept whole in the ledger with this reason and the path of the element."""

    reason: str
    path: str | None = None


Outcome = Loaded | Excluded | Dead


class RefusedError(Exception):
    """Raised where a part of a mapping settles the whole resource; `mapping` returns the outcome it carries."""

    def __init__(self, outcome: Excluded | Dead) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def slot_of(rank: int) -> str:
    """Return the slot of the `rank`-th target (from 1) of one coding: the first is `main`, the second `k2` (E34)."""
    return "main" if rank == 1 else f"k{rank}"
