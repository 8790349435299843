"""What a right load must count: rows of each table, excluded and dead resources, after each export.

Counted from the charts by the rules of the mapping, never by the code that loads them: an entry gives the rows that
its chart says, once its Patient is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from presage_etl.synthetic.lives.events import History
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.changes import split
from presage_etl.synthetic.records.chart_entries import Chart, Entry
from presage_etl.synthetic.records.fhir_site import NUM_CARE_SITES, NUM_PROVIDERS, PLACES
from presage_etl.synthetic.records.omop import Row

LAST, FIRST = "etl", "etl-1"
"""Stages: after the last export, and after the first of two."""


@dataclass
class RecordCounts:
    """Counts by stage, kind and name; and the states in which Patients live, one location each."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    states: dict[str, set[str]] = field(default_factory=dict)

    def add(self, parameters: Parameters, history: History, chart: Chart) -> None:
        """Count one person's chart."""
        self._count(LAST, chart, chart.entries)
        self.counts[LAST, "table", "observation_period"] += bool(chart.days)
        unreadable = sum(not diagnosis.readable for diagnosis in history.diagnoses)
        self.counts[LAST, "unmapped", "condition_occurrence"] += unreadable
        if parameters.exports == 2:
            first = split(parameters, chart)[0]
            self._count(FIRST, chart, first)
            present = {str(entry.resource["id"]) for entry in first if entry.kind == "Patient"}
            seen = {entry.patient for entry in first if entry.days and entry.tables} & present
            self.counts[FIRST, "table", "observation_period"] += len(seen)

    def plant(self, parameters: Parameters, tables: Counter[str], refused: Counter[tuple[str, str]]) -> None:
        """Count what was planted in the first export: rows by table, and what is refused by (state, reason)."""
        for stage in (FIRST, LAST)[2 - parameters.exports :]:
            for table, number in tables.items():
                self.counts[stage, "table", table] += number
            for (state, reason), number in refused.items():
                self.counts[stage, state, reason] += number
                self.counts[stage, "dead", "all"] += number * (state == "dead")

    def derive(self, rows: Iterable[Row]) -> None:
        """Count the eras among rows that are derived from others, as they stand at the end."""
        for row in rows:
            if row.table.endswith("_era"):
                self.counts[LAST, "table", row.table] += 1

    def update(self, other: RecordCounts) -> None:
        """Add the counts of another shard."""
        self.counts.update(other.counts)
        for stage, states in other.states.items():
            self.states.setdefault(stage, set()).update(states)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of expected_counts."""
        found = Counter(self.counts)
        for stage, states in self.states.items():
            found[stage, "table", "care_site"] = NUM_CARE_SITES
            found[stage, "table", "provider"] = NUM_PROVIDERS
            found[stage, "table", "location"] = len(states) + len(PLACES)
            found[stage, "table", "cdm_source"] = 1
            found[stage, "dead", "all"] += 0
        return [
            {"stage": stage, "kind": kind, "name": name, "expected": int(number)}
            for (stage, kind, name), number in sorted(found.items())
        ]

    def tables(self) -> Counter[str]:
        """Rows of each table after the last export."""
        return Counter(
            {name: number for (stage, kind, name), number in self.counts.items() if (stage, kind) == (LAST, "table")}
        )

    def _count(self, stage: str, chart: Chart, entries: list[Entry]) -> None:
        present = {str(entry.resource["id"]) for entry in entries if entry.kind == "Patient"}
        self.states.setdefault(stage, set())
        if present:
            self.states[stage].add(chart.person.state)
        standing = [entry for entry in entries if entry.patient in present]
        self.counts[stage, "dead", "all"] += sum(bool(e.tables) for e in entries if e.patient not in present)
        for entry in standing:
            for table, number in entry.tables.items():
                self.counts[stage, "table", table] += number
        for entry in entries:
            if entry.excluded:
                self.counts[stage, "excluded", entry.excluded] += 1
