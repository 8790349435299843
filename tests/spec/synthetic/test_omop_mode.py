"""The mode `omop`: what is derived from rows, how rows are numbered, and what the mode leaves out (S39)."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from presage_etl.synthetic.clock import wall
from presage_etl.synthetic.identifiers import ICD10CM, LOCAL_SYSTEM, RXNORM, SNOMED
from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.records.codebook import Codebook, Meaning
from presage_etl.synthetic.records.omop import ALGORITHM, EHR, SELF_REPORT, Row, When, event
from presage_etl.synthetic.records.omop_derived import condition_eras, drug_eras, observation_period
from presage_etl.synthetic.records.omop_files import keyed_tables, write_omop
from presage_etl.synthetic.records.vocabulary import build_vocabulary
from presage_platform.errors import IntegrityError, UsageError
from tests.lib.synthetic import make, tiny_parameters


@pytest.fixture(scope="module")
def codes() -> Codebook:
    return Codebook(build_vocabulary(build_model(tiny_parameters())))


def exposure(start: str, end: str) -> Row:
    values = {"drug_concept_id": 7, "drug_exposure_start_date": date.fromisoformat(start)}
    return Row("drug_exposure", start, values | {"drug_exposure_end_date": date.fromisoformat(end)})


def condition(day: str) -> Row:
    values = {"condition_concept_id": 5, "condition_start_date": date.fromisoformat(day)}
    return Row("condition_occurrence", day, values)


def test_s39_a_condition_era_goes_on_for_thirty_days() -> None:
    days = ["2020-01-01", "2020-01-31", "2020-03-01", "2020-04-01"]
    eras = [row.values for row in condition_eras("Patient/p", [condition(day) for day in days])]
    assert [(e["condition_era_start_date"], e["condition_era_end_date"]) for e in eras] == [
        (date(2020, 1, 1), date(2020, 3, 1)),
        (date(2020, 4, 1), date(2020, 4, 1)),
    ]
    assert [e["condition_occurrence_count"] for e in eras] == [3, 1]


def test_s39_a_drug_era_counts_the_days_that_no_exposure_covers() -> None:
    rows = [
        exposure("2020-01-01", "2020-01-10"),
        exposure("2020-01-05", "2020-01-12"),
        exposure("2020-01-20", "2020-01-21"),
    ]
    (era,) = [row.values for row in drug_eras("Patient/p", rows, {7: 70})]
    assert (era["drug_concept_id"], era["drug_exposure_count"], era["gap_days"]) == (70, 3, 7)
    assert (era["drug_era_start_date"], era["drug_era_end_date"]) == (date(2020, 1, 1), date(2020, 1, 21))
    assert list(drug_eras("Patient/p", rows, {})) == []


def test_s39_an_observation_period_begins_with_the_year_of_birth_at_the_earliest() -> None:
    days = [wall(day) // 86_400 for day in (date(1949, 5, 5), date(2001, 1, 1))]
    (period,) = [row.values for row in observation_period("Patient/p", 1950, days)]
    assert period["observation_period_start_date"] == date(1950, 1, 1)
    assert period["observation_period_end_date"] == date(2001, 1, 1)
    assert list(observation_period("Patient/p", 1950, [])) == []


def test_s39_one_coding_is_chosen_as_the_rules_say(codes: Codebook) -> None:
    both = {"coding": [{"system": ICD10CM, "code": "I50.9"}, {"system": SNOMED, "code": "84114007"}]}
    assert codes.meaning(both) == Meaning("84114007", 316139, ((316139, "Condition"),), None)
    billing = codes.meaning({"coding": both["coding"][:1]})
    assert (billing.source_value, billing.targets) == ("I50.9", ((316139, "Condition"),))
    assert billing.source_concept_id not in (0, 316139)
    local = {"coding": [{"system": LOCAL_SYSTEM, "code": "X"}, {"system": RXNORM, "code": "197361"}]}
    assert codes.meaning(local, "drug").source_value == "197361"
    assert codes.meaning({"text": "words"}) == Meaning("words")
    assert codes.literal(4013886) == 0
    assert codes.literal(8536) == 8536


def test_s39_a_code_of_two_meanings_gives_two_rows_and_a_date_of_a_month_is_imputed(codes: Codebook) -> None:
    person = draw_person(tiny_parameters(), 0)
    when = When(wall(date(2020, 3, 17)), "month")
    demo = {"coding": [{"system": "https://synthetic.example/demonstration-codes", "code": "combined"}]}
    rows = list(event("condition_occurrence", "Condition/x", person, codes.meaning(demo), when, EHR))
    assert [row.key for row in rows] == ["Condition/x", "Condition/x#k2"]
    assert {row.values["condition_start_date"] for row in rows} == {date(2020, 3, 1)}
    assert {row.values["condition_start_datetime"] for row in rows} == {None}
    assert {row.values["condition_type_concept_id"] for row in rows} == {ALGORITHM}
    assert when.type_concept(SELF_REPORT) == SELF_REPORT


def test_s39_a_row_with_an_unknown_column_or_reference_fails(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no column shoe_size"):
        keyed_tables([Row("person", "Patient/p", {"shoe_size": 43})])
    lost = keyed_tables([Row("death", "Patient/p#death", {"person_id": "Patient/p"})])
    with pytest.raises(IntegrityError, match="rows of person that do not exist"):
        write_omop(tmp_path / "omop", tmp_path, [lost])


def test_s39_without_the_mode_nothing_is_written_and_other_modes_can_be_left_out(
    hospital: Path, tmp_path: Path
) -> None:
    assert not (hospital / "omop").exists()
    made = make(tmp_path / "h", modes=("omop",), patients=4)
    assert not (made / "fhir").exists()
    assert not (made / "dicom").exists()
    assert pq.read_table(made / "omop" / "person.parquet").num_rows == 4
    expected = pq.read_table(made / "truth" / "expected_counts.parquet").to_pylist()
    assert {row["stage"] for row in expected} == {"etl"}
    with pytest.raises(UsageError, match="modes"):
        read_parameters("small", modes=["fhir", "paper"])


def test_s39_numbers_are_dense_and_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    one = make(tmp_path / "one", modes=("omop",), workers=1)
    two = make(tmp_path / "two", modes=("omop",), workers=2)
    for path in sorted((one / "omop").iterdir()):
        assert path.read_bytes() == (two / "omop" / path.name).read_bytes()
    visits = pq.read_table(one / "omop" / "visit_occurrence.parquet")
    assert visits["visit_occurrence_id"].to_pylist() == list(range(1, visits.num_rows + 1))
