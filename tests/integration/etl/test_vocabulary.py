"""The vocabulary in a real PostgreSQL: loading an Athena download, and resolving codes through it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from presage_etl.omop.athena import VocabularyReport, load_vocabulary
from presage_etl.omop.floor import read_floor
from presage_platform.errors import InputError, LockedError, VocabularyError
from presage_platform.omop.vocabulary import LeastRecentlyUsed, Resolution, Resolver, Target, existing, named, release
from presage_platform.postgres.connection import Database, open_database
from presage_platform.settings import Settings
from tests.lib.vocabulary import LOCAL_MAP, TinyVocabulary, concept_rows, relationship_rows, write_athena, zip_folder

ALL_PAIRS = [(row["vocabulary_id"], row["concept_code"]) for row in concept_rows()] + [
    ("SNOMED", "absent"),
    ("nowhere", "44054006"),
    ("concept_id", "201826"),
    ("concept_id", "7"),
    ("concept_id", "no number"),
    *((vocabulary, code) for vocabulary, code, _ in LOCAL_MAP),
]


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings, command="test") as opened:
        yield opened


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as opened:
        yield opened


def count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def load(connection: psycopg.Connection[Any], path: Path, **options: bool) -> VocabularyReport:
    report = load_vocabulary(path, connection, **options)
    connection.commit()
    return report


def test_e17_without_a_vocabulary_a_resolver_names_the_command(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(VocabularyError, match="platform etl vocabulary"):
        Resolver(connection)


@pytest.mark.parametrize("form", ["folder", "gzipped", "zip"])
def test_e14_a_download_loads_in_every_form(connection: psycopg.Connection[Any], tmp_path: Path, form: str) -> None:
    folder = write_athena(tmp_path / "download", compress=form == "gzipped")
    path = zip_folder(folder, tmp_path / "download.zip") if form == "zip" else folder
    report = load(connection, path)
    assert report.release == release(connection) == "v5.0 tiny"
    assert count(connection, "concept") == report.rows["concept"] == len(concept_rows())
    assert count(connection, "concept_relationship") == len(relationship_rows())


def test_e14_quotes_na_and_changed_column_order_are_data(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    folder = write_athena(tmp_path / "download")
    lines = (folder / "CONCEPT.csv").read_text().splitlines()
    order = list(reversed(range(len(lines[0].split("\t")))))
    changed = ["\t".join(line.split("\t")[place] for place in order) for line in lines]
    odd = {"invalid_reason": "", "valid_end_date": "20991231", "valid_start_date": "19700101", "concept_code": "q"}
    odd |= {"standard_concept": "S", "concept_class_id": "Unit", "vocabulary_id": "UCUM", "domain_id": "Unit"}
    odd |= {"concept_name": 'a "quoted" 12" name', "concept_id": "2000001000"}
    changed.append("\t".join(odd.values()))
    odd |= {"concept_name": "NA", "concept_id": "2000001001", "concept_code": "na"}
    changed.append("\t".join(odd.values()))
    (folder / "CONCEPT.csv").write_bytes(("\r\n".join(changed) + "\r\n").encode("utf-8-sig"))
    load(connection, folder)
    rows = connection.execute(
        "SELECT concept_name, invalid_reason FROM concept WHERE concept_id IN (2000001000, 2000001001) ORDER BY 1"
    ).fetchall()
    assert rows == [("NA", None), ('a "quoted" 12" name', None)]


def test_e14_only_mappings_are_loaded_unless_asked(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    folder = write_athena(tmp_path / "download")
    with (folder / "CONCEPT_RELATIONSHIP.csv").open("a") as file:
        file.write("201820\t201826\tSubsumes\t19700101\t20991231\t\n")
    assert load(connection, folder).rows["concept_relationship"] == len(relationship_rows())
    everything = load(connection, folder, all_relationships=True)
    assert everything.rows["concept_relationship"] == len(relationship_rows()) + 1


def test_e15_a_failed_load_leaves_the_old_vocabulary_in_use(
    connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    load(connection, write_athena(tmp_path / "old"))
    broken = write_athena(tmp_path / "new", release="v6")
    with (broken / "CONCEPT_ANCESTOR.csv").open("a") as file:
        file.write("1\t2\tx\t0\n")
    with pytest.raises(VocabularyError, match=r"CONCEPT_ANCESTOR.csv.*min_levels_of_separation.*whole number"):
        load_vocabulary(broken, connection)
    connection.rollback()
    assert release(connection) == "v5.0 tiny"
    assert count(connection, "concept") == len(concept_rows())


def test_e15_a_load_keeps_indexes_rights_and_comments(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    query = """
        SELECT c.relname, c.relacl::text, obj_description(c.oid, 'pg_class'),
               (SELECT array_agg(i.indexdef ORDER BY i.indexname) FROM pg_indexes AS i
                WHERE i.tablename = c.relname AND i.schemaname = n.nspname)
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname IN ('concept', 'vocabulary', 'concept_relationship', 'drug_strength') AND c.relkind = 'r'
        ORDER BY 1
    """
    before = connection.execute(query).fetchall()
    load(connection, write_athena(tmp_path / "download"))
    after = connection.execute(query).fetchall()
    assert [(name, comment, indexes) for name, _, comment, indexes in after] == [
        (name, comment, indexes) for name, _, comment, indexes in before
    ]
    assert [sorted((acl or "").strip("{}").split(",")) for _, acl, _, _ in after] == [
        sorted((acl or "").strip("{}").split(",")) for _, acl, _, _ in before
    ]


def test_e15_long_texts_orphans_and_repeated_keys_are_counted(
    connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    folder = write_athena(tmp_path / "download")
    with (folder / "CONCEPT.csv").open("a") as file:
        file.write(f"2000001000\t{'x' * 300}\tUnit\tUCUM\tUnit\tS\tlong\t19700101\t20991231\t\n")
        file.write("201826\tsecond row of one id\tCondition\tSNOMED\tX\tS\t1\t19700101\t20991231\t\n")
    with (folder / "CONCEPT_ANCESTOR.csv").open("a") as file:
        file.write("987654\t201826\t1\t1\n")
    with (folder / "VOCABULARY.csv").open("a") as file:
        file.write("None\tthe same key again\t\tv9\t0\n")
    report = load(connection, folder)
    assert report.release == "v5.0 tiny"
    assert [remark for remark in report.remarks if "no file" not in remark] == [
        "1 texts of concept were longer than their column and are cut",
        "1 rows of concept repeat a key: the first of each is kept",
        "1 rows of vocabulary repeat a key: the first of each is kept",
        "1 rows of concept_ancestor name a concept that is absent (a subset)",
    ]
    row = connection.execute("SELECT concept_name FROM concept WHERE concept_id = 201826").fetchone()
    assert row == ("Type 2 diabetes mellitus",)


def test_e15_a_release_is_made_up_from_the_content(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    first = load(connection, write_athena(tmp_path / "a", release=None)).release
    again = load(connection, write_athena(tmp_path / "b", release=None, compress=True)).release
    assert first == again == release(connection)
    assert first.startswith("unversioned-")
    assert len(first) == len("unversioned-") + 8


def test_e16_a_subset_gets_the_concepts_that_it_lacks(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    report = load(connection, write_athena(tmp_path / "download", floor=False))
    ids = [int(row["concept_id"]) for row in read_floor()]
    assert existing(connection, ids) == set(ids)
    assert f"{len(ids) - 1} OMOP concepts" in " ".join(report.remarks)  # 8870 is in the tiny vocabulary itself
    assert named(connection, [("Type Concept", "ehr"), ("SNOMED", "44054006"), ("SNOMED", "absent")]) == {
        ("Type Concept", "ehr"): 32817,
        ("SNOMED", "44054006"): 201826,
    }


def test_e16_a_concept_that_contradicts_the_floor_stops_the_load(
    connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    folder = write_athena(tmp_path / "download")
    text = (folder / "CONCEPT.csv").read_text()
    (folder / "CONCEPT.csv").write_text(text.replace("8507\tMALE\tGender\tGender\tGender\tS", "8507\tMALE\tX\tX\tX\tS"))
    with pytest.raises(VocabularyError, match="concept 8507 is of vocabulary X"):
        load_vocabulary(folder, connection)


def test_e16_another_name_is_a_remark(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    folder = write_athena(tmp_path / "download")
    text = (folder / "CONCEPT.csv").read_text()
    (folder / "CONCEPT.csv").write_text(text.replace("8507\tMALE\t", "8507\tMan\t"))
    assert "concept 8507 is named 'Man' here, 'MALE' before" in load(connection, folder).remarks


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("concept_id,concept_name\n1,x\n", "separated by a comma, expected tabs"),
        ('"concept_id"\t"concept_name"\n', "lacks the column concept_id"),
        ("concept_id\tconcept_name\n", "lacks the column domain_id"),
    ],
)
def test_e106_a_wrong_file_is_named(
    connection: psycopg.Connection[Any], tmp_path: Path, content: str, words: str
) -> None:
    folder = write_athena(tmp_path / "download")
    (folder / "CONCEPT.csv").write_text(content)
    with pytest.raises(VocabularyError, match=words):
        load_vocabulary(folder, connection)


def test_e106_a_path_without_a_vocabulary_is_an_input_error(
    connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_vocabulary(tmp_path / "absent", connection)
    with pytest.raises(InputError, match="no vocabulary file"):
        load_vocabulary(tmp_path, connection)
    (tmp_path / "text.md").write_text("no zip")
    with pytest.raises(InputError, match="neither a folder nor"):
        load_vocabulary(tmp_path / "text.md", connection)


def test_e15_a_truncated_file_is_said(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    folder = write_athena(tmp_path / "download", compress=True)
    whole = (folder / "CONCEPT.csv.gz").read_bytes()
    (folder / "CONCEPT.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VocabularyError, match="cannot be read to its end"):
        load_vocabulary(folder, connection)
    (folder / "CONCEPT.csv.gz").write_bytes(gzip.compress(b"concept_id\n"))
    with pytest.raises(VocabularyError, match="lacks the column"):
        load_vocabulary(folder, connection)


@pytest.mark.parametrize("local_map", ["fallback", "override", "none"])
def test_e32_the_database_and_the_plainest_python_agree(
    connection: psycopg.Connection[Any], tmp_path: Path, local_map: Any
) -> None:
    load(connection, write_athena(tmp_path / "download"))
    for vocabulary, code, target in LOCAL_MAP:
        _add_local(connection, vocabulary, code, target)
    found = Resolver(connection, local_map=local_map).resolve(ALL_PAIRS)
    assert found == TinyVocabulary(local_map).resolve(ALL_PAIRS)


def test_e32_local_maps_must_be_valid_on_the_day(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    load(connection, write_athena(tmp_path / "download"))
    _add_local(connection, "HOSP_LAB", "old", 3000963, until="2001-01-01")
    _add_local(connection, "HOSP_LAB", "bad", 3000963, invalid="D")
    _add_local(connection, "HOSP_LAB", "non-standard", 2000000201)
    found = Resolver(connection).resolve([("HOSP_LAB", word) for word in ("old", "bad", "non-standard")])
    assert set(found.values()) == {Resolution()}


def _add_local(
    connection: psycopg.Connection[Any],
    vocabulary: str,
    code: str,
    target: int,
    *,
    until: str = "2099-12-31",
    invalid: str | None = None,
) -> None:
    connection.execute(
        """
        INSERT INTO source_to_concept_map (source_code, source_concept_id, source_vocabulary_id, target_concept_id,
            target_vocabulary_id, valid_start_date, valid_end_date, invalid_reason)
        VALUES (%s, 0, %s, %s, 'LOINC', '1970-01-01', %s, %s)
        """,
        [code, vocabulary, target, until, invalid],
    )


def test_e33_ancestry_is_asked_among_the_given_concepts(connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    load(connection, write_athena(tmp_path / "download"))
    resolver = Resolver(connection)
    assert resolver.ancestry([201820, 201826, 255848]) == {(201820, 201826)}
    assert resolver.ancestry([201826]) == set()


def test_e38_many_pairs_are_one_query_and_are_remembered(
    connection: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(connection, write_athena(tmp_path / "download"))
    resolver = Resolver(connection)
    asked: list[int] = []
    ask = resolver._ask
    monkeypatch.setattr(resolver, "_ask", lambda pairs: (asked.append(len(pairs)), ask(pairs))[1])
    resolver.resolve(ALL_PAIRS)
    resolver.resolve(ALL_PAIRS)
    assert asked == [len(set(ALL_PAIRS))]


def test_e38_a_vocabulary_swapped_during_a_run_ends_it(database: Database, tmp_path: Path) -> None:
    folder = write_athena(tmp_path / "download")
    with database.connect() as writer, database.connect(autocommit=True) as reader:
        load(writer, folder)
        resolver = Resolver(reader)
        assert resolver.resolve([("SNOMED", "44054006")])[("SNOMED", "44054006")].targets == (
            Target(201826, "Condition"),
        )
        load(writer, folder)
        with pytest.raises(VocabularyError, match="replaced while this run"):
            resolver.resolve([("SNOMED", "233604007")])


def test_e38_memory_forgets_what_was_asked_longest_ago() -> None:
    memory: LeastRecentlyUsed[str, int] = LeastRecentlyUsed(2)
    memory["a"], memory["b"] = 1, 2
    assert memory.recall("a") == 1
    memory["c"] = 3
    assert (memory.recall("a"), memory.recall("b"), memory.recall("c")) == (1, None, 3)


def test_e92_the_command_waits_for_nobody_and_loads_when_it_may(
    database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from presage_etl.fhir.ledger import writer_lock
    from presage_etl.omop.cli import etl_vocabulary

    with pytest.raises(InputError, match="does not exist"):
        etl_vocabulary(tmp_path / "absent", workspace=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert settings.database.url is not None
    monkeypatch.setenv("PRESAGE_DATABASE__URL", settings.database.url.get_secret_value())
    folder = write_athena(tmp_path / "download")
    with writer_lock(database), pytest.raises(LockedError, match="another load is at work"):
        etl_vocabulary(folder, workspace=settings.workspace)
    etl_vocabulary(folder, workspace=settings.workspace)
    assert capsys.readouterr().out.startswith("vocabulary v5.0 tiny\n")
    with database.connect() as connection:
        assert count(connection, "concept") == len(concept_rows())
