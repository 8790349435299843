"""The Eunomia GiBleed record: loaded into a CDM for tests, and read a second time by pandas alone.

The second reading shares no code with the product: it opens the same files, compares calendar days, and knows the rules
of labeling only as sentences. All dates of this record are days without a time.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

VOCABULARY = ("vocabulary", "domain", "concept", "relationship", "concept_ancestor")
CLINICAL = ("cdm_source", "person", "observation_period", "visit_occurrence", "condition_occurrence",
            "drug_exposure", "procedure_occurrence", "measurement", "observation", "death")  # fmt: skip
CONVERTED = re.compile(r"date\((\w+),'unixepoch'\)")
# What is known only to the hospital: rows that point to it would hang in the air.
ELSEWHERE = {"visit_occurrence_id", "visit_detail_id", "provider_id", "care_site_id", "location_id",
             "preceding_visit_occurrence_id"}  # fmt: skip
EVENTS = {
    "condition_occurrence": ("condition_concept_id", "condition_start_date"),
    "drug_exposure": ("drug_concept_id", "drug_exposure_start_date"),
    "procedure_occurrence": ("procedure_concept_id", "procedure_date"),
    "measurement": ("measurement_concept_id", "measurement_date"),
    "observation": ("observation_concept_id", "observation_date"),
    "visit_occurrence": ("visit_concept_id", "visit_start_date"),
}


def load(folder: Path, url: str) -> dict[str, int]:
    """Copy the files into an empty CDM 5.4; return rows by table. Rows of persons without a row stay out."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # this record points to rows that it does not hold
        persons = {row["person_id"] for row in rows(folder, "person")}
        return {table: _copy(connection, folder, table, persons) for table in (*VOCABULARY, *CLINICAL)}


def rows(folder: Path, table: str) -> Iterator[dict[str, str]]:
    """Rows of one file under their CDM 5.4 names."""
    with gzip.open(folder / f"{table}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        names = [CONVERTED.sub(r"\1", name).lower() for name in next(reader)]
        for row in reader:
            yield dict(zip(names, row, strict=True))


def _copy(connection: psycopg.Connection[Any], folder: Path, table: str, persons: set[str]) -> int:
    schema = "vocab" if table in VOCABULARY and _has(connection, "vocab", table) else "cdm"
    known = {name for (name,) in connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s", (schema, table)
    )}  # fmt: skip
    buffer, number, columns = io.StringIO(), 0, []
    writer = csv.writer(buffer)
    for row in rows(folder, table):
        if "person_id" in row and row["person_id"] not in persons:
            continue
        columns = columns or [name for name in row if name in known]
        writer.writerow(["" if _hangs(table, name) else row[name] for name in columns])
        number += 1
    if number:
        statement = sql.SQL("COPY {}.{} ({}) FROM STDIN WITH (FORMAT csv)").format(
            sql.Identifier(schema), sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with connection.cursor().copy(statement) as copy:
            copy.write(buffer.getvalue())
    return number


def _hangs(table: str, name: str) -> bool:
    return name in ELSEWHERE and name != f"{table}_id"


def _has(connection: psycopg.Connection[Any], schema: str, table: str) -> bool:
    found = connection.execute("SELECT to_regclass(%s)", (f"{schema}.{table}",)).fetchone()
    return found is not None and found[0] is not None


@dataclass
class Reading:
    """The record as pandas reads it: days since 1970, persons who exist, dates up to the end of the record."""

    events: pd.DataFrame  # person, table, concept, day
    period: pd.DataFrame  # person → first, last
    visits: pd.DataFrame  # person, first, last
    birth: pd.Series  # person → date
    descendants: pd.Series  # ancestor → set of descendants
    cut: int

    @classmethod
    def of(cls, folder: Path) -> Reading:
        """Read the files."""
        person = pd.DataFrame(rows(folder, "person")).set_index("person_id")
        cut = _days(pd.Series([next(rows(folder, "cdm_source"))["source_release_date"]]))[0]
        parts = []
        for table, (concept, date) in EVENTS.items():
            frame = pd.DataFrame(rows(folder, table))
            parts.append(
                pd.DataFrame(
                    {
                        "person": frame["person_id"],
                        "table": table,
                        "concept": frame[concept].astype(int),
                        "day": _days(frame[date]),
                    }
                )
            )
        events = pd.concat(parts)
        first_day = _days(pd.Series(["1900-01-01"]))[0]
        events = events[events.person.isin(person.index) & (events.concept > 0) & events.day.between(first_day, cut)]
        period = pd.DataFrame(rows(folder, "observation_period")).set_index("person_id")
        visits = pd.DataFrame(rows(folder, "visit_occurrence"))
        ancestor = pd.DataFrame(rows(folder, "concept_ancestor")).astype(int)
        return cls(
            events=events,
            period=pd.DataFrame(
                {
                    "first": _days(period["observation_period_start_date"]),
                    "last": _days(period["observation_period_end_date"]),
                },
            ),
            visits=pd.DataFrame(
                {
                    "person": visits["person_id"],
                    "first": _days(visits["visit_start_date"]),
                    "last": _days(visits["visit_end_date"]),
                }
            ),
            birth=pd.to_datetime(person["birth_datetime"]),
            descendants=ancestor.groupby("ancestor_concept_id")["descendant_concept_id"].agg(set),
            cut=int(cut),
        )

    def fortieth_birthdays(self, first: str, last: str) -> dict[str, int]:
        """Day of each person's 40th birthday, where it lies between two dates."""
        birthday = self.birth.map(lambda born: born + pd.DateOffset(years=40))
        day = _days(birthday.dt.strftime("%Y-%m-%d"))
        bounds = _days(pd.Series([first, last]))
        return {str(person): int(d) for person, d in day[day.between(bounds[0], bounds[1])].items()}

    def of_concept(self, concept: int, tables: tuple[str, ...] = tuple(EVENTS)) -> pd.DataFrame:
        """Events of a concept and everything below it."""
        wanted = self.descendants.get(concept, set()) | {concept}
        return self.events[self.events.concept.isin(wanted) & self.events.table.isin(tables)]

    def end(self, person: str) -> int:
        """Last day of follow-up."""
        return int(min(self.period.loc[person, "last"], self.cut))

    def observed(self, person: str, day: int) -> bool:
        """Whether a day lies in the person's observation period."""
        return bool(
            person in self.period.index and self.period.loc[person, "first"] <= day <= self.period.loc[person, "last"]
        )

    def stay_until(self, person: str, day: int) -> int:
        """Last day of the visits around a day, joined where at most a day lies between them; the day itself if none."""
        mine = self.visits[self.visits.person == person].sort_values("first")
        end, inside = day, False
        for first, last in zip(mine["first"], mine["last"], strict=True):
            if first <= day <= last or (inside and first <= end + 1):
                end, inside = max(end, last), True
        return end


def _days(text: pd.Series) -> pd.Series:
    return (pd.to_datetime(text) - pd.Timestamp("1970-01-01")).dt.days
