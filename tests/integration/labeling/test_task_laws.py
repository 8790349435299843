"""Metamorphic laws: every shipped task obeys them, and each law can be broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_platform.errors import ExitCode, TaskTestError
from presage_platform.labeling.tasks import engine, metamorphic
from presage_platform.labeling.tasks.engine import prepare_in
from presage_platform.labeling.tasks.library import copy_tasks, shipped_tasks
from presage_platform.labeling.tasks.locks import DatabaseConcepts
from presage_platform.labeling.tasks.metamorphic import LAWS, run_laws
from presage_platform.labeling.tasks.testing import run_cases, run_fixture
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.task_vocabulary import fill_task_vocabulary

FROM = "from task_index i\njoin condition_occurrence c on c.person_id = i.person_id\n"
EFFUSION = "join cs_outcome o on o.concept_id = c.condition_concept_id\n"
DATE = "c.condition_start_date as event_date"
CHEATS = {
    # A first diagnosis ever: what lies before the scan hides what comes after it.
    "a": f"select i.study_id, min(c.condition_start_date) as event_date {FROM}{EFFUSION}group by i.study_id",
    # An own limit counted from the scan.
    "b": f"select i.study_id, {DATE} {FROM}{EFFUSION}where c.condition_start_date <= i.t0_date + 92",
    # Only persons with a single code of the set.
    "c": f"select i.study_id, max(c.condition_start_date) as event_date {FROM}{EFFUSION}group by i.study_id",
    # Each code once.
    "e": f"select i.study_id, max(c.condition_start_date) as event_date {FROM}{EFFUSION}group by i.study_id "
    "having count(*) = 1",
    # A code that is confirmed by another one, whenever that is.
    "f": f"select i.study_id, {DATE} {FROM}{EFFUSION}where c.condition_start_date = "
    "(select max(l.condition_start_date) from condition_occurrence l where l.person_id = i.person_id)",
}


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        with opened.connect() as connection:
            fill_task_vocabulary(connection)
        yield opened


def ready(path: Path, database: Database) -> tuple[Any, Any]:
    with database.connect() as connection:
        engine.lock_tasks([path], DatabaseConcepts(connection))
    ((compiled, lock),) = prepare_in([path], database)
    return compiled, lock


@pytest.mark.parametrize("name", [*shipped_tasks(), "atelectasis_parity"])
def test_l72_every_shipped_task_obeys_every_law_that_applies(database: Database, tmp_path: Path, name: str) -> None:
    copy_tasks(name, tmp_path)
    compiled, lock = ready(tmp_path / f"{name}.sql", database)
    checked = run_laws(compiled, lock, database)
    if name.endswith("_parity"):
        assert run_fixture(compiled, lock, database) == 4
    never = (
        {"f"}
        if name.endswith("_parity")
        else {"a", "c"}
        if name == "all_cause_mortality"
        else {"c"}
        if name.startswith("readmission")
        else set()
    )
    assert {law for law, number in checked.items() if number == 0} == never


def cheat(folder: Path, law: str) -> Path:
    """A shipped diagnosis task whose body is replaced by one that breaks a law."""
    copy_tasks("pleural_effusion", folder)
    path = folder / "pleural_effusion.sql"
    head = path.read_text().split("---*/")[0]
    path.write_text(f"{head}---*/\n{CHEATS[law]}\n")
    return path


@pytest.mark.parametrize("law", sorted(CHEATS))
def test_l72_a_body_that_cheats_breaks_the_law(database: Database, tmp_path: Path, law: str) -> None:
    compiled, lock = ready(cheat(tmp_path, law), database)
    with pytest.raises(TaskTestError) as raised:
        run_laws(compiled, lock, database)
    assert raised.value.exit_code == ExitCode.TASK_TEST
    assert "test of law (" in str(raised.value)


@pytest.mark.parametrize("law", LAWS)
def test_l72_an_engine_that_errs_where_a_law_looks_is_found_by_that_law(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, law: str
) -> None:
    copy_tasks("pleural_effusion", tmp_path)
    compiled, lock = ready(tmp_path / "pleural_effusion.sql", database)
    law_of: dict[int, str] = {}
    variants = metamorphic._variants

    def marked(*arguments: Any) -> Any:
        made = list(variants(*arguments))
        law_of.update({id(variant.case): variant.law for variant in made})
        return made

    def erring(compiled: Any, lock: Any, cases: Any, database: Any) -> Any:
        found = run_cases(compiled, lock, cases, database)
        for case, rows in zip(cases, found, strict=True):
            for row in rows.values():
                if law_of.get(id(case)) == law and row["time_s"] is not None:
                    row["time_s"] += 600 * 86_400
        return found

    monkeypatch.setattr(metamorphic, "_variants", marked)
    with pytest.raises(TaskTestError, match=rf"law \({law}\)"):
        run_laws(compiled, lock, database, run=erring)
