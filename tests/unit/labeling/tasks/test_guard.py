"""The static guard: every attack is refused by the rule meant for it, and honest queries pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from presage_platform.errors import ExitCode, TaskError, UsageError
from presage_platform.labeling.tasks.compile import compile_task, number_parameters, relations_of
from presage_platform.labeling.tasks.definition import Task, parse_task, read_task
from presage_platform.labeling.tasks.front_matter import Parameter
from presage_platform.labeling.tasks.guard import TASK_INDEX, check_query, first_refusal
from presage_platform.labeling.tasks.library import copy_tasks, shipped_tasks
from presage_platform.labeling.tasks.locks import EDEMA_WARNING, Lock, warnings_of
from tests.lib.attacks import attacks

RELATIONS = {
    "task_index": TASK_INDEX,
    "death": {"person_id": "bigint", "death_date": "date"},
    "person": {"person_id": "bigint"},
}

HEADER = "/*---\ntask: t_probe\nversion: 1\ntitle: A probe\nrequires: [condition_occurrence]\n{}---*/\n"
BODY = (
    "select i.study_id, c.condition_start_date as event_date from task_index i "
    "join condition_occurrence c on c.person_id = i.person_id\n"
)


def task(extra: str = "", body: str = BODY) -> Task:
    return parse_task((HEADER.format(extra) + body).encode(), Path("t_probe.sql"))


@pytest.mark.parametrize(("rule", "query"), attacks())
def test_l69_every_attack_is_refused_by_its_rule(rule: str, query: str) -> None:
    found = first_refusal(query, block="body", relations=RELATIONS, parameters=set())
    assert found is not None and found.rule == rule, found


def test_l69_there_are_seventy_six_attacks() -> None:
    assert len(attacks()) == 76


HONEST = [
    "select study_id, t0_date as event_date from task_index",
    "select i.study_id, min(d.death_date) as event_date from task_index i join death d on d.person_id = i.person_id "
    "group by i.study_id having count(*) > 1",
    "with x as (select person_id, death_date from death) select i.study_id, x.death_date as event_date "
    "from task_index i join x on x.person_id = i.person_id where x.death_date between date '2000-01-01' and i.t0_date",
    "select study_id, t0_date as event_date from task_index union all select study_id, t0_date from task_index",
    "select study_id, cast(t0 as date) as event_date, t0 as event_datetime, 1 as cause from task_index "
    "where site is not null and site in ('a', 'b') or site like 'x%'",
    "select study_id, event_date from (select study_id, t0_date as event_date, row_number() over "
    "(partition by person_id order by t0) as n from task_index) s where n = 1",
    "select i.study_id, i.t0_date + interval '30 days' as event_date from task_index i where exists "
    "(select 1 from death d where d.person_id = i.person_id)",
    "select study_id, case when site = 'a' then t0_date else null end as event_date from task_index",
    "select study_id, coalesce(t0_date, date '2020-01-01') as event_date, 2 as cause from task_index",
]


@pytest.mark.parametrize("query", HONEST)
def test_l67_honest_queries_pass(query: str) -> None:
    assert first_refusal(query, block="body", relations=RELATIONS, parameters=set()) is None


def test_l67_a_refusal_names_rule_line_and_column() -> None:
    with pytest.raises(TaskError, match=r"^Q6 2:\d+ table `nowhere`") as raised:
        check_query(
            "select study_id, t0_date as event_date\nfrom nowhere", block="body", relations=RELATIONS, parameters=set()
        )
    assert raised.value.exit_code == ExitCode.TASK


def test_l67_a_column_that_does_not_exist_is_q9() -> None:
    found = first_refusal(
        "select study_id, t0_day as event_date from task_index", block="body", relations=RELATIONS, parameters=set()
    )
    assert found is not None and found.rule == "Q9"


def test_l60_parameters_are_numbered_and_never_become_text() -> None:
    params = {"n": Parameter(type="integer", value=3), "word": Parameter(type="text", value="x'; drop table person")}
    block, used = number_parameters("select :n, ':n', a::text, :word, :n", params)
    assert block.sql == "select CAST($1 AS integer), ':n', a::text, CAST($2 AS text), CAST($1 AS integer)"
    assert block.values == (3, "x'; drop table person") and used == {"n", "word"}


def test_l60_an_undeclared_and_an_unused_parameter_are_errors() -> None:
    with pytest.raises(TaskError, match=r"task t_probe: Q10 .*`:n` is not declared"):
        compile_task(task(body=BODY + "where c.condition_concept_id = :n"))
    with pytest.raises(TaskError, match="parameter `n` is declared and never used"):
        compile_task(task("params: {n: {type: integer, value: 3}}\n"))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("censoor: last_event\n", "unknown key `censoor`, did you mean `censor`"),
        ("kind: recurrent_count\n", "go together"),
        ("kind: sometimes\n", "kind"),
        ("era_gap: 7 days\n", "`era_gap` belongs to `kind: recurrent_count`"),
        ("threshold: {below: 8, unit: 'UCUM:g/dL'}\n", "`threshold` belongs to"),
        ("cohort_definition_id: 7\n", "`cohort_definition_id` belongs to"),
        ("kind: measurement_threshold\n", "needs `threshold`"),
        ("kind: cohort\n", "needs `cohort_definition_id`"),
        ("kind: concept\n", "needs `concept_sets`"),
        ("kind: concept\nconcept_sets: {a: {include: ['SNOMED:1']}}\n", "has no body"),
        ("kind: measurement_threshold\nthreshold: {unit: 'UCUM:g/dL'}\n", "needs one of `below` and `above`"),
        ("kind: measurement_threshold\nthreshold: {below: 1, unit: g/dL}\n", "expected VOCABULARY:code"),
        ("kind: measurement_threshold\nthreshold: {below: 1, unit: 'UCUM:a', factors: {'UCUM:a': 2}}\n", "unit itself"),
        ("kind: measurement_threshold\nthreshold: {below: 1, unit: 'UCUM:a', factors: {'UCUM:b': 0}}\n", "above 0"),
        ("kind: binary_window\n", "go together"),
        ("window: 30 days\n", "go together"),
        ("lookback: soon\n", "expected a duration"),
        ("eras: {stay: {table: visit_occurrence, concepts: inpatient, gap: 1 day}}\n", "not declared"),
        ("concept_sets: {a: {include: [60046008]}}\n", "include"),
        ("task: other\n", "names itself"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_l57_front_matter_is_strict(extra: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        task(extra)


def test_l57_file_rules() -> None:
    with pytest.raises(TaskError, match="no front matter"):
        parse_task(b"select 1", Path("t_probe.sql"))
    with pytest.raises(TaskError, match="expected at most 65536"):
        parse_task(b"x" * 70_000, Path("t_probe.sql"))
    with pytest.raises(TaskError, match="UTF-8"):
        parse_task(HEADER.format("").encode() + b"\xff", Path("t_probe.sql"))
    with pytest.raises(TaskError, match="without free text"):
        relations_of(
            parse_task(
                (HEADER.format("") + BODY).replace("[condition_occurrence]", "[note]").encode(), Path("t_probe.sql")
            )
        )


def test_l57_defaults_that_depend_on_what_is_read() -> None:
    assert task().min_lag_days == 1 and not task().follows_death
    source = HEADER.format("").replace("condition_occurrence", "death") + BODY
    assert parse_task(source.encode(), Path("t_probe.sql")).min_lag_days == 0
    assert parse_task(source.encode(), Path("t_probe.sql")).follows_death


def test_l58_blocks_are_split_and_each_is_checked(tmp_path: Path) -> None:
    block = BODY + "\n-- @at_risk\nselect study_id, t0_date as risk_start_date from task_index\n"
    compiled = compile_task(task(body=block))
    assert compiled.at_risk is not None and compiled.at_risk.sql.startswith("select study_id")
    with pytest.raises(TaskError, match="Q10"):
        compile_task(task(body=BODY + "\n-- @censor\nselect study_id from task_index\n"))


def test_l63_shipped_tasks_pass_the_guard_and_have_fixtures(tmp_path: Path) -> None:
    copied = copy_tasks("all", tmp_path)
    assert len(copied) == 2 * len(shipped_tasks()) == 24
    assert copy_tasks("all", tmp_path) == [], "what is there is kept"
    for name in shipped_tasks():
        shipped = read_task(tmp_path / f"{name}.sql")
        assert compile_task(shipped).task.name == name
        assert shipped.fixture_path.is_file()


SUBSTITUTED = {
    "pulmonary_embolism": ("pulmonary embolism", "59282003", ", expect_concept_id: 440417", ""),
    "pleural_effusion": ("pleural effusion", "60046008", ", expect_concept_id: 254061", ""),
    "atelectasis": ("atelectasis", "46621007", ", expect_concept_id: 261880", ""),
    "lung_consolidation": ("lung consolidation", "95436008", ", expect_concept_id: 4318404", ""),
    "pulmonary_edema": ("pulmonary edema", "19242006", ", expect_concept_id: 4078925", f"warn: {EDEMA_WARNING}\n"),
    "cardiomegaly": ("cardiomegaly", "8186001", "", ""),
}


@pytest.mark.parametrize("name", SUBSTITUTED)
def test_l63_the_other_diagnosis_files_are_the_first_with_substitutions(tmp_path: Path, name: str) -> None:
    copy_tasks("all", tmp_path)
    words, code, concept, warn = SUBSTITUTED[name]
    expected = (tmp_path / "pulmonary_hypertension.sql").read_text()
    for old, new in (
        ("task: pulmonary_hypertension", f"task: {name}"),
        ("First pulmonary hypertension", f"First {words}"),
        ("SNOMED:70995007", f"SNOMED:{code}"),
        (", expect_concept_id: 4322024", concept),
        ("---*/\n", f"{warn}---*/\n"),
    ):
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert (tmp_path / f"{name}.sql").read_bytes() == expected.encode()


def test_l63_the_second_laboratory_file_is_the_first_with_substitutions(tmp_path: Path) -> None:
    copy_tasks("all", tmp_path)
    expected = (tmp_path / "haemoglobin_below_8.sql").read_text()
    for old, new in (
        ("task: haemoglobin_below_8", "task: nt_probnp_above_900"),
        ("Haemoglobin below 8 g/dL", "NT-proBNP above 900 pg/mL"),
        ("below: 8.0", "above: 900.0"),
        ("UCUM:g/dL", "UCUM:pg/mL"),
        ('"UCUM:g/L": 0.1', '"UCUM:ng/L": 1.0'),
        ("LOINC:718-7", "LOINC:33762-6"),
        ("lookback: 30 days", "lookback: all"),
    ):
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert (tmp_path / "nt_probnp_above_900.sql").read_bytes() == expected.encode()


def test_l63_a_parity_variant_changes_four_rules_and_the_name(tmp_path: Path) -> None:
    assert copy_tasks("cardiomegaly_parity", tmp_path) == ["cardiomegaly_parity.sql", "tests/cardiomegaly_parity.yaml"]
    copy_tasks("cardiomegaly", tmp_path)
    plain, parity = (
        read_task(tmp_path / "cardiomegaly.sql").front,
        read_task(tmp_path / "cardiomegaly_parity.sql").front,
    )
    changed = {key for key, value in parity.model_dump().items() if value != plain.model_dump()[key]}
    assert changed == {"task", "risk", "min_prior_obs_days", "visit_guard", "censor"}
    assert (parity.risk, parity.min_prior_obs_days, parity.visit_guard, parity.censor) == (
        "next",
        0,
        "none",
        "last_event",
    )
    for name in ("all_cause_mortality_parity", "nowhere", "nowhere_parity"):
        with pytest.raises(UsageError, match="no shipped task"):
            copy_tasks(name, tmp_path)


@pytest.mark.parametrize(
    ("sets", "warned"),
    [
        ('{include: ["SNOMED:267038008"]}', True),
        ('{include: ["SNOMED:19242006", "SNOMED:267038008"]}', True),
        ('{include: ["SNOMED:1"], expect_concept_id: 433595}', True),
        ('{include: ["SNOMED:19242006"], exclude: ["SNOMED:267038008"]}', False),
    ],
)
def test_l63_generalised_edema_as_a_root_is_a_warning(sets: str, warned: bool) -> None:
    assert (EDEMA_WARNING in warnings_of(task(f"concept_sets: {{a: {sets}}}\n"))) == warned


def test_l63_a_root_that_resolves_to_generalised_edema_is_a_warning_too() -> None:
    plain = task('concept_sets: {a: {include: ["ICD10CM:R60.1"]}}\n')
    lock = Lock({"concept_sets": {"a": {"concept_ids": [433595], "roots": [{"concept_id": 433595}]}}})
    assert warnings_of(plain) == [] and warnings_of(plain, lock) == [EDEMA_WARNING]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (BODY.replace("i.study_id,", "i.study_id, pg_sleep(1) as value,"), "Q7 7:20"),
        ("\n" + BODY.replace("c.condition_start_date", "\n pg_sleep(1)"), "Q7 9:2"),
        (BODY + "\n-- @at_risk\n\nselect study_id, nowhere as risk_start_date\nfrom task_index", "Q9 11:"),
        (BODY + "\n-- @at_risk\nselect study_id, t0_date as risk_start_date from task_index\n"
         "-- @censor\nselect study_id, t0_date as censor_date\nfrom other", "Q6 13:6"),
    ],
)  # fmt: skip
def test_l67_a_refusal_names_the_line_of_the_file(text: str, place: str) -> None:
    with pytest.raises(TaskError, match=rf"^task t_probe: {place}"):
        compile_task(task(body=text))
