"""A small OMOP database with linked studies, for labeling on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg

FIRST_DAY = datetime(2015, 1, 1)
CONCEPTS = (
    # id, name, domain, vocabulary, class, standard, code
    (1000, "Disorder of lung", "Condition", "SNOMED", "Disorder", "S", "L"),
    (1001, "Pleural effusion", "Condition", "SNOMED", "Disorder", "S", "L1"),
    (1002, "Malignant pleural effusion", "Condition", "SNOMED", "Disorder", "S", "L11"),
    (1003, "Pneumonia", "Condition", "SNOMED", "Disorder", "S", "L2"),
    (1004, "Heart failure", "Condition", "SNOMED", "Disorder", "S", "H"),
    (1005, "Furosemide", "Drug", "RxNorm", "Ingredient", "S", "D1"),
    (1006, "Creatinine", "Measurement", "LOINC", "Lab Test", "S", "M1"),
    (2001, "Old code of pneumonia", "Condition", "ICD9CM", "3-dig billing code", None, "486"),
    (9201, "Inpatient Visit", "Visit", "Visit", "Visit", "S", "IP"),
    (9202, "Outpatient Visit", "Visit", "Visit", "Visit", "S", "OP"),
    (4306655, "Death", "Observation", "SNOMED", "Event", "S", "419620001"),
    (8507, "MALE", "Gender", "Gender", "Gender", "S", "M"),
    (8527, "White", "Race", "Race", "Race", "S", "5"),
)
ABOVE = ((1000, 1001, 1), (1000, 1002, 2), (1001, 1002, 1), (1000, 1003, 1))
EVENTS = (
    ("condition_occurrence", "condition", "condition_start_date", "condition_start_datetime", (1001, 1002, 1003, 1004)),
    ("drug_exposure", "drug", "drug_exposure_start_date", "drug_exposure_start_datetime", (1005,)),
    ("measurement", "measurement", "measurement_date", "measurement_datetime", (1006,)),
)


@dataclass(frozen=True)
class Hospital:
    """What was put into the database, for brute-force readings."""

    events: Sequence[tuple[int, int, datetime, bool]]  # person, concept, when, bare date
    scans: Sequence[tuple[int, int, datetime]]  # study, person, t0
    data_cut: datetime


def fill(connection: psycopg.Connection[Any], *, persons: int = 40, seed: int = 7) -> Hospital:
    """Fill an empty database: persons, periods, visits, coded events, deaths, studies, a vocabulary."""
    rng = np.random.default_rng(seed)
    cut = datetime(2021, 12, 31)
    _vocabulary(connection, cut)
    events: list[tuple[int, int, datetime, bool]] = []
    scans: list[tuple[int, int, datetime]] = []
    for person in range(1, persons + 1):
        _person(connection, person, cut)
        for _ in range(int(rng.integers(5, 30))):
            table, stem, day, moment, concepts = EVENTS[int(rng.choice([0, 0, 1, 2]))]
            concept = int(rng.choice(concepts))
            when = FIRST_DAY + timedelta(minutes=int(rng.integers(0, 7 * 365 * 1440)))
            bare = bool(rng.random() < 0.3)
            when = datetime(when.year, when.month, when.day) if bare else when
            events.append((person, concept, when, bare))
            connection.execute(
                f"INSERT INTO {table} ({table}_id, person_id, {stem}_concept_id, {day}, {moment}, {stem}_type_concept_id"
                + (", drug_exposure_end_date" if stem == "drug" else "")
                + ") VALUES (%s, %s, %s, %s, %s, 32817"
                + (", %s)" if stem == "drug" else ")"),
                [len(events), person, concept, when.date(), None if bare else when]
                + ([when.date()] if stem == "drug" else []),
            )
        for _ in range(1 + (person % 5 == 0)):
            study, t0 = len(scans) + 1, datetime(2018, 1, 1, 10, 30) + timedelta(days=int(rng.integers(0, 700)))
            scans.append((study, person, t0))
            _study(connection, study, person, t0)
        if person % 9 == 0:
            connection.execute(
                "INSERT INTO death (person_id, death_date) VALUES (%s, %s)", [person, datetime(2021, 3, 4)]
            )
    connection.commit()
    return Hospital(events, scans, cut)


def _vocabulary(connection: psycopg.Connection[Any], cut: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO concept (concept_id, concept_name, domain_id, vocabulary_id, concept_class_id, standard_concept,"
            " concept_code, valid_start_date, valid_end_date) VALUES (%s,%s,%s,%s,%s,%s,%s,'1970-01-01','2099-12-31')",
            CONCEPTS,
        )
        rows = [(c[0], c[0], 0) for c in CONCEPTS if c[5] == "S"] + list(ABOVE)
        cursor.executemany(
            "INSERT INTO concept_ancestor (ancestor_concept_id, descendant_concept_id, min_levels_of_separation,"
            " max_levels_of_separation) VALUES (%s, %s, %s, %s)",
            [(*row, row[2]) for row in rows],
        )
    connection.execute(
        "INSERT INTO concept_relationship (concept_id_1, concept_id_2, relationship_id, valid_start_date, valid_end_date)"
        " VALUES (2001, 1003, 'Maps to', '1970-01-01', '2099-12-31')"
    )
    connection.execute(
        "INSERT INTO vocabulary (vocabulary_id, vocabulary_name, vocabulary_version, vocabulary_concept_id)"
        " VALUES ('None', 'OMOP', 'v5.0 test', 0)"
    )
    connection.execute(
        "INSERT INTO cdm_source (cdm_source_name, cdm_source_abbreviation, cdm_holder, source_release_date,"
        " cdm_release_date, cdm_version_concept_id, vocabulary_version) VALUES ('t', 't', 't', %s, %s, 756265, 'v')",
        [cut.date(), cut.date()],
    )


def _person(connection: psycopg.Connection[Any], person: int, cut: datetime) -> None:
    connection.execute(
        "INSERT INTO person (person_id, gender_concept_id, year_of_birth, race_concept_id, ethnicity_concept_id)"
        " VALUES (%s, 8507, %s, 8527, 0)",
        [person, 1940 + person % 40],
    )
    connection.execute(
        "INSERT INTO observation_period (observation_period_id, person_id, observation_period_start_date,"
        " observation_period_end_date, period_type_concept_id) VALUES (%s, %s, %s, %s, 32882)",
        [person, person, FIRST_DAY.date(), cut.date()],
    )
    connection.execute(
        "INSERT INTO visit_occurrence (visit_occurrence_id, person_id, visit_concept_id, visit_start_date, visit_end_date,"
        " visit_type_concept_id) VALUES (%s, %s, 9201, '2018-03-01', '2018-03-09', 32817)",
        [person, person],
    )


def _study(connection: psycopg.Connection[Any], study: int, person: int, t0: datetime) -> None:
    connection.execute("INSERT INTO image_study (study_id, study_uid) VALUES (%s, %s)", [study, f"1.2.{study}"])
    connection.execute(
        "INSERT INTO image_series (series_key, study_id, study_uid, series_uid, attributes, split_by, num_slices, image_dt,"
        " image_dt_source, image_dt_precision, manufacturer, verdict, verdict_stage, reasons, actions, rank)"
        " VALUES (%s, %s, %s, %s, %s, '{}', 40, %s, 'AcquisitionDateTime', 's', 'ACME', 'ok', 'pixels', '[]', '[]', 1)",
        [f"{study:032x}", study, f"1.2.{study}", f"1.2.{study}.1", json.dumps({}), t0],
    )
    connection.execute(
        "INSERT INTO study_link (study_id, person_id, link_class, confidence, evidence) VALUES (%s, %s, 'a', 'high', '{}')",
        [study, person],
    )
