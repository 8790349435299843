"""Vocabulary, ontology, care and settings of the synthetic hospital (rules S18, S20, S40 to S42)."""

from __future__ import annotations

import csv
import gzip
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from presage_etl.synthetic.clock import DAY_S
from presage_etl.synthetic.lives import care
from presage_etl.synthetic.lives.events import NEVER
from presage_etl.synthetic.records.vocabulary import published_parents
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.errors import IntegrityError
from tests.lib.synthetic import keys_of, lives, resources, truth


def athena(hospital: Path, name: str) -> list[dict[str, str]]:
    with (hospital / "vocabulary" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_s40_every_published_concept_names_its_source_and_nothing_is_invented_below_two_billion(hospital: Path) -> None:
    with (hospital / "vocabulary" / "PROVENANCE.csv").open(encoding="utf-8", newline="") as file:
        source = {row["concept_id"]: row["source"] for row in csv.DictReader(file)}
    for concept in athena(hospital, "CONCEPT"):
        assert source[concept["concept_id"]]
        own = "project" in source[concept["concept_id"]]
        assert own == (int(concept["concept_id"]) >= 2_000_000_000)
        if concept["vocabulary_id"] == "PRESAGE_DEMO":
            assert int(concept["concept_id"]) >= 2_000_000_000


def test_s40_published_facts_are_those_of_the_public_tables(hospital: Path) -> None:
    concepts = {int(c["concept_id"]): (c["vocabulary_id"], c["concept_code"]) for c in athena(hospital, "CONCEPT")}
    assert concepts[254061] == ("SNOMED", "60046008")
    assert concepts[316139] == ("SNOMED", "84114007")
    assert concepts[3016723] == ("LOINC", "2160-0")
    assert concepts[9201] == ("Visit", "IP")
    assert concepts[8507] == ("Gender", "M")


def test_s40_about_three_hundred_published_concepts_of_every_kind_are_there(hospital: Path) -> None:
    published = [c for c in athena(hospital, "CONCEPT") if int(c["concept_id"]) < 2_000_000_000]
    assert 300 <= len(published) <= 400
    kinds = Counter((c["domain_id"], c["vocabulary_id"]) for c in published)
    wanted = {
        ("Condition", "SNOMED"): 80, ("Measurement", "LOINC"): 50, ("Drug", "RxNorm"): 30, ("Drug", "CVX"): 10,
        ("Procedure", "SNOMED"): 30, ("Unit", "UCUM"): 20, ("Race", "Race"): 5, ("Type Concept", "Type Concept"): 5,
    }  # fmt: skip
    assert all(kinds[kind] >= number for kind, number in wanted.items()), kinds


@pytest.mark.real_data
def test_s42_published_rows_and_parents_are_those_of_the_public_tables(hospital: Path, real_data: Path) -> None:
    def table(name: str) -> list[dict[str, str]]:
        with gzip.open(real_data / "vocabulary" / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

    public = {row["concept_id"]: row for row in table("CONCEPT")}
    facts = ("concept_name", "domain_id", "vocabulary_id", "concept_class_id", "standard_concept", "concept_code")
    with (hospital / "vocabulary" / "PROVENANCE.csv").open(encoding="utf-8", newline="") as file:
        source = {row["concept_id"]: row["source"] for row in csv.DictReader(file)}
    seen = [c for c in athena(hospital, "CONCEPT") if "vocabulary subset" in source[c["concept_id"]]]
    assert len(seen) > 250
    for concept in seen:
        assert {name: concept[name] for name in facts} == {
            name: public[concept["concept_id"]][name] for name in facts
        }, concept["concept_id"]
    above = {(r["ancestor_concept_id"], r["descendant_concept_id"]) for r in table("CONCEPT_ANCESTOR")}
    above |= {
        (r["concept_id_1"], r["concept_id_2"])
        for r in table("CONCEPT_RELATIONSHIP")
        if r["relationship_id"] == "Subsumes"
    }
    assert {(str(parent), str(child)) for parent, child in published_parents()} <= above


def test_s42_a_published_concept_without_a_source_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from presage_etl.synthetic.records import vocabulary

    row = ["254061", "Pleural effusion", "Condition", "SNOMED", "Clinical Finding", "S", "60046008", ""]
    whole = vocabulary._published
    monkeypatch.setattr(vocabulary, "_published", lambda given: whole(row if given[0] == "254061" else given))
    with pytest.raises(IntegrityError, match="254061 has no published source"):
        vocabulary.published_concepts()


def test_s41_the_files_are_athenas_with_their_traps(hospital: Path) -> None:
    concepts = athena(hospital, "CONCEPT")
    assert all(len(c["valid_start_date"]) == 8 and c["valid_start_date"].isdigit() for c in concepts)
    names = [c["concept_name"] for c in concepts]
    assert any('"' in name for name in names)
    assert "NA" in names
    assert any(c["invalid_reason"] == "D" for c in concepts)
    relations = athena(hospital, "CONCEPT_RELATIONSHIP")
    fan_out = Counter(r["concept_id_1"] for r in relations if r["relationship_id"] == "Maps to")
    assert max(fan_out.values()) == 2
    assert sum(r["relationship_id"] == "Maps to value" for r in relations) == 1
    release = {v["vocabulary_id"]: v["vocabulary_version"] for v in athena(hospital, "VOCABULARY")}
    assert release["None"] == "presage-demo 1"
    for name in ("CONCEPT_SYNONYM", "DOMAIN", "CONCEPT_CLASS", "RELATIONSHIP", "DRUG_STRENGTH"):
        assert athena(hospital, name)
    strengths = {row["drug_concept_id"]: row for row in athena(hospital, "DRUG_STRENGTH")}
    assert (strengths["1332419"]["amount_value"], strengths["1332419"]["ingredient_concept_id"]) == ("5", "1332418")
    named = {r["relationship_id"] for r in athena(hospital, "RELATIONSHIP")}
    assert {r["relationship_id"] for r in relations} <= named
    assert {c["domain_id"] for c in concepts} == {d["domain_id"] for d in athena(hospital, "DOMAIN")}
    assert {c["concept_class_id"] for c in concepts} == {
        d["concept_class_id"] for d in athena(hospital, "CONCEPT_CLASS")
    }
    ids = {c["concept_id"] for c in concepts}
    assert {r[side] for r in relations for side in ("concept_id_1", "concept_id_2")} <= ids


def test_s42_concept_ancestor_is_the_closure_of_the_hierarchy(hospital: Path) -> None:
    standard = sorted(int(c["concept_id"]) for c in athena(hospital, "CONCEPT") if c["standard_concept"] == "S")
    place = {concept: index for index, concept in enumerate(standard)}
    direct = np.zeros((len(standard), len(standard)), dtype=np.int64)
    for relation in athena(hospital, "CONCEPT_RELATIONSHIP"):
        if relation["relationship_id"] == "Subsumes":
            direct[place[int(relation["concept_id_1"])], place[int(relation["concept_id_2"])]] = 1
    levels: dict[tuple[int, int], list[int]] = defaultdict(list)
    power = np.eye(len(standard), dtype=np.int64)
    for level in range(8):  # powers of the adjacency matrix count the paths of each length
        for row, column in np.argwhere(power):
            levels[standard[row], standard[column]].append(level)
        power = power @ direct
    assert not power.any()
    written = {
        (int(r["ancestor_concept_id"]), int(r["descendant_concept_id"])): (
            int(r["min_levels_of_separation"]),
            int(r["max_levels_of_separation"]),
        )
        for r in athena(hospital, "CONCEPT_ANCESTOR")
    }
    assert written == {pair: (min(found), max(found)) for pair, found in levels.items()}


def test_s20_the_ontology_holds_the_shapes_that_selection_must_meet(hospital: Path) -> None:
    concepts = {int(c["concept_id"]): c for c in athena(hospital, "CONCEPT")}
    relations = athena(hospital, "CONCEPT_RELATIONSHIP")
    edges = [(int(r["concept_id_1"]), int(r["concept_id_2"])) for r in relations if r["relationship_id"] == "Subsumes"]
    children: dict[int, set[int]] = defaultdict(set)
    parents: dict[int, set[int]] = defaultdict(set)
    for parent, child in edges:
        children[parent].add(child)
        parents[child].add(parent)
    coefficients = {row["concept_id"]: row for row in truth(hospital, "coefficients") if row["concept_id"]}
    assert any(len(parents[leaf]) == 2 for leaf in coefficients)
    # A parent without records of its own, between the root and conditions that have some.
    assert 134057 not in coefficients
    assert children[134057] & set(coefficients)
    assert parents[134057]
    # A null code without children, and a code whose parent has no other child and no records: it says nothing more.
    assert any(row["kind"] == "null" and not children[concept] for concept, row in coefficients.items())
    only = [leaf for leaf in coefficients for p in parents[leaf] if children[p] == {leaf} and p not in coefficients]
    assert only
    depth = max(int(r["max_levels_of_separation"]) for r in athena(hospital, "CONCEPT_ANCESTOR"))
    assert depth in (3, 4)
    codes = {v["code"] for r in resources(hospital, "Condition") for v in r["code"].get("coding", [])}
    assert concepts[134057]["concept_code"] not in codes
    assert "childless" not in codes


def test_s18_treatment_follows_the_recorded_condition_and_tests_are_shifted_by_it() -> None:
    """Lisinopril is given after heart failure and, at the base rate, to anybody; renewals follow; BNP rises."""
    parameters, model, histories = lives("small", 500)
    place = model.place["heart_failure"]
    after, refills, clinical = [], 0, []
    labs: dict[tuple[str, bool], list[float]] = defaultdict(list)
    treated: Counter[bool] = Counter()
    for history in histories:
        first = history.first_recorded(len(model.leaves))
        drugs = care.prescriptions(parameters, model, history, stream(1, history.person.index, Stage.DRUGS))
        refills += sum(order.refill > 0 for order in drugs)
        clinical += [order.clinical for order in drugs]
        starts = [order.when for order in drugs if order.drug == "heart_failure" and order.refill == 0]
        if first[place] != NEVER:
            after += [start - first[place] for start in starts]
        treated[first[place] != NEVER] += any(start >= first[place] != NEVER for start in starts)
        rng = stream(1, history.person.index, Stage.LABS)
        for visit in history.visits:
            for lab, value in care.labs_at(model, visit, first, rng):
                time = first[model.place[lab.condition]]
                since = visit.start - time if time != NEVER else -1
                shown = since >= 0 and (lab.days is None or since <= lab.days * DAY_S)
                labs[lab.code, bool(shown)].append((value - lab.mean) / lab.sd)
    assert treated[True] > 20
    assert sum(0 <= lag <= 8 * DAY_S for lag in after) / treated[True] > 0.8
    assert refills > len(clinical) / 3
    assert 0.05 < 1 - np.mean(clinical) < 0.2
    for lab in care.LABS:
        assert len(labs[lab.code, True]) > 0, lab.code
        gap = np.mean(labs[lab.code, True]) - np.mean(labs[lab.code, False])
        error = 4 / np.sqrt(len(labs[lab.code, True])) + 0.1
        assert gap == pytest.approx(lab.shift, abs=max(error, 0.05 * abs(lab.shift))), lab.code


def test_s18_every_visit_of_the_default_record_has_vitals(hospital: Path) -> None:
    weights = (r for r in resources(hospital, "Observation") if r["code"]["text"] == "Body weight")
    weighed = {key for weight in weights for key in keys_of(weight["encounter"], hospital)}
    visits = {f"Encounter/{r['id']}" for r in resources(hospital, "Encounter") if "partOf" not in r}
    assert weighed == visits


def test_the_site_declares_what_its_records_and_images_need(hospital: Path) -> None:
    from presage_platform.settings import parse_settings

    settings = parse_settings(hospital, tomllib.loads((hospital / "site.toml").read_text()), environment={})
    assert settings.timezone == "America/New_York"
    issuer = next(p["identifier"][0]["system"] for p in resources(hospital, "Patient"))
    assert settings.link.issuers["SYNTHETIC-HOSPITAL"] == issuer
    assert settings.labeling.k < 8192


def test_every_headline_task_has_a_fixture_for_each_state(hospital: Path) -> None:
    import yaml

    tasks = sorted((hospital / "tasks").glob("*.sql"))
    assert len(tasks) == 8
    for task in tasks:
        cases = yaml.safe_load((hospital / "tasks" / "tests" / f"{task.stem}.yaml").read_text())
        states = {row["state"] for case in cases for row in case["expect"]}
        wanted = {"event", "censored"} if "death" in task.read_text() and task.stem == "all_cause_mortality" else {
            "event", "censored", "prevalent", "competing"
        }  # fmt: skip
        assert states == wanted
