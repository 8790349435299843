"""What a right CDM derives from a person's rows: the period of observation, the order of visits, eras.

Plain readings of the rules, day by day and row by row: they are the oracle of SQL that does the same for everybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from itertools import pairwise

from presage_etl.synthetic.clock import DAY_S, day_of
from presage_etl.synthetic.records.omop import ALGORITHM, Row
from presage_etl.synthetic.records.vocabulary import Vocabulary, closure

PERSISTENCE = timedelta(days=30)
DAY = timedelta(days=1)

Span = tuple[date, date]


def derived_rows(person: str, birth_year: int, rows: list[Row], days: list[int], parts: Mapping[int, int]) -> list[Row]:
    """Rows derived from one person's rows; `parts` leads from a drug to its ingredient."""
    link_visits(rows)
    return [
        *observation_period(person, birth_year, days),
        *condition_eras(person, rows),
        *drug_eras(person, rows, parts),
    ]


def observation_period(person: str, birth_year: int, days: list[int]) -> Iterator[Row]:
    """From the first to the last recorded day, not before the year of birth; nothing for who has no event."""
    if days:
        values = {
            "person_id": person,
            "observation_period_start_date": max(day_of(min(days) * DAY_S), date(birth_year, 1, 1)),
            "observation_period_end_date": day_of(max(days) * DAY_S),
            "period_type_concept_id": ALGORITHM,
        }
        yield Row("observation_period", f"{person}#period", values)


def link_visits(rows: Iterable[Row]) -> None:
    """Name the visit before each visit of one person, in the order of start and end."""
    visits = [row for row in rows if row.table == "visit_occurrence"]
    visits.sort(key=lambda row: (row.values["visit_start_datetime"], row.values["visit_end_datetime"]))
    for before, after in pairwise(visits):
        after.values["preceding_visit_occurrence_id"] = before.key


def condition_eras(person: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Spans of one condition; an occurrence that starts within 30 days after the era's end so far joins it."""
    spans: dict[int, list[Span]] = defaultdict(list)
    for row in rows:
        if row.table == "condition_occurrence" and row.values["condition_concept_id"]:
            start = row.values["condition_start_date"]
            spans[row.values["condition_concept_id"]].append((start, row.values.get("condition_end_date") or start))
    for concept_id in sorted(spans):
        for number, era in enumerate(_eras(spans[concept_id])):
            values = {
                "person_id": person,
                "condition_concept_id": concept_id,
                "condition_era_start_date": era[0][0],
                "condition_era_end_date": max(end for _, end in era),
                "condition_occurrence_count": len(era),
            }
            yield Row("condition_era", f"{person}#condition_era:{concept_id}:{number}", values)


def drug_eras(person: str, rows: Iterable[Row], parts: Mapping[int, int]) -> Iterator[Row]:
    """Spans under one ingredient; days of the era on which no exposure lies are its gap."""
    spans: dict[int, list[Span]] = defaultdict(list)
    for row in rows:
        if row.table == "drug_exposure" and row.values["drug_concept_id"] in parts:
            span = (row.values["drug_exposure_start_date"], row.values["drug_exposure_end_date"])
            spans[parts[row.values["drug_concept_id"]]].append(span)
    for ingredient in sorted(spans):
        for number, era in enumerate(_eras(spans[ingredient])):
            start, end = era[0][0], max(end for _, end in era)
            covered = {first + n * DAY for first, last in era for n in range((last - first).days + 1)}
            values = {
                "person_id": person,
                "drug_concept_id": ingredient,
                "drug_era_start_date": start,
                "drug_era_end_date": end,
                "drug_exposure_count": len(era),
                "gap_days": (end - start).days + 1 - len(covered),
            }
            yield Row("drug_era", f"{person}#drug_era:{ingredient}:{number}", values)


def ingredients(vocabulary: Vocabulary) -> dict[int, int]:
    """Ingredient of each drug that has one."""
    wanted = {c.concept_id for c in vocabulary.concepts if c.concept_class == "Ingredient" and c.standard == "S"}
    return {drug: ancestor for ancestor, drug, *_ in closure(vocabulary) if ancestor in wanted}


def _eras(spans: list[Span]) -> Iterator[list[Span]]:
    era: list[Span] = []
    end = date.min
    for span in sorted(spans):
        if era and span[0] > end + PERSISTENCE:
            yield era
            era, end = [], date.min
        era.append(span)
        end = max(end, span[1])
    if era:
        yield era
