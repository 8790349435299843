"""The index: where t0 comes from, how persons are split, and what proves that no split shares anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from presage_platform.errors import InputError, IntegrityError, UsageError
from presage_platform.labeling.index import DAY, MINUTE, SECOND, choose_t0, read_index_file
from presage_platform.labeling.preparation import _split
from presage_platform.labeling.splits import keep_split, persons_hash, prove_no_overlap, split_persons, unit_interval
from presage_platform.settings import LabelingSettings
from tests.lib.timelines import at, day_end

CUT = day_end("2024-12-31")
TIMES = ("image_s", "acquisition_s", "content_s", "series_s", "study_s", "procedure_s", "procedure_day_s")


def linked(*studies: dict[str, Any]) -> pa.Table:
    """Return rows of sql/linked_study.sql; times as text."""
    rows = []
    for number, study in enumerate(studies, start=1):
        row: dict[str, Any] = {"study_id": number, "person_id": number, "image_dt_source": "AcquisitionDateTime"}
        row |= {"image_dt_precision": "s", **{name: None for name in TIMES}, **study}
        rows.append({k: at(v) if k in TIMES and v is not None else v for k, v in row.items()})
    schema = pa.schema(
        [("study_id", pa.int64()), ("person_id", pa.int64()), ("image_dt_source", pa.string())]
        + [("image_dt_precision", pa.string())]
        + [(name, pa.int64()) for name in TIMES]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def t0(*studies: dict[str, Any]) -> Any:
    return choose_t0(linked(*studies), data_cut_s=CUT, num_linked=(len(studies), len(studies)))


def test_l02_the_image_time_goes_first_then_the_procedure() -> None:
    """Series' AcquisitionDateTime … StudyDate, then procedure_datetime, then procedure_date."""
    rows = t0(
        {"image_s": "2020-03-01 10:00:05", "procedure_s": "2020-03-01 09:00", "procedure_day_s": "2020-03-01"},
        {"content_s": "2020-03-01 11:30", "study_s": "2020-03-01 08:00"},
        {"procedure_s": "2020-03-01 09:00", "procedure_day_s": "2020-03-01"},
        {"procedure_day_s": "2020-03-01"},
        {},
    )
    assert rows.study_id.tolist() == [1, 2, 3, 4], "a study without any time is left out"
    assert rows.t0_source == ["AcquisitionDateTime", "ContentDate", "procedure_datetime", "procedure_date"]
    assert rows.t0_s.tolist() == [
        at(w) for w in ("2020-03-01 10:00:05", "2020-03-01 11:30", "2020-03-01 09:00", "2020-03-01")
    ]


@pytest.mark.parametrize(
    ("image", "words"),
    [("2025-03-01 10:00", "after the data cut"), ("2020-03-03 10:00", "more than a day from the procedure")],
)
def test_l02_an_impossible_time_is_passed_over_and_counted(image: str, words: str) -> None:
    """In the future of the record, or more than a day away from the linked procedure: the next source decides."""
    rows = t0({"image_s": image, "procedure_s": "2020-03-01 09:00", "procedure_day_s": "2020-03-01"})
    assert (rows.t0_source, rows.t0_s.tolist()) == (["procedure_datetime"], [at("2020-03-01 09:00")])
    assert rows.skipped == {f"image time {words}": 1}


def test_l02_a_time_on_the_next_day_is_near_enough() -> None:
    assert t0({"image_s": "2020-03-02 23:00", "procedure_day_s": "2020-03-01"}).t0_source == ["AcquisitionDateTime"]


def test_l03_precision_of_t0() -> None:
    """The series says how exactly its time was written; a date has day precision."""
    rows = t0(
        {"image_s": "2020-03-01 10:00", "image_dt_precision": "min"},
        {"image_s": "2020-03-01 10:00", "image_dt_precision": "day"},
        {"image_s": "2020-03-01 10:00:01"},
    )
    assert rows.t0_precision.tolist() == [MINUTE, DAY, SECOND]
    assert rows.t0_s[1] == at("2020-03-01"), "day precision stands at the day's midnight"


@pytest.mark.parametrize(("midnights", "precision"), [(2, DAY), (1, SECOND)])
def test_l03_midnights_are_bare_dates_where_most_rows_have_them(midnights: int, precision: int) -> None:
    times = ["2020-03-01 00:00"] * midnights + ["2020-03-01 10:00"] * (3 - midnights)
    assert t0(*({"image_s": time} for time in times)).t0_precision[0] == precision


def test_l01_a_duplicate_study_is_an_error(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "index.parquet"
    pq.write_table(pa.table({"study_id": [1, 2, 1], "person_id": [1, 2, 3], "t0": [1, 2, 3]}), path)
    with pytest.raises(InputError, match="index row 3"):
        read_index_file(path, data_cut_s=CUT, known_persons=np.array([1, 2, 3]))


def test_l73_an_index_file_may_hold_timestamps(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "index.parquet"
    stamp = pa.array([at("2020-03-01 10:00") * 1_000_000 + 999_999], pa.timestamp("us"))
    pq.write_table(pa.table({"study_id": [7], "person_id": [1], "t0": stamp}), path)
    rows = read_index_file(path, data_cut_s=CUT, known_persons=np.array([1]))
    assert rows.t0_s.tolist() == [at("2020-03-01 10:00")], "fractions of a second are floored"


@pytest.mark.parametrize("method", ["hash", "site", "date"])
def test_l04_every_study_of_a_person_is_kept_and_lies_in_one_part(method: str) -> None:
    """Ninety persons of three studies each, years and sites apart."""
    people = [
        {"person_id": 1 + k % 90, "image_s": f"20{10 + k // 90 * 5}-03-{1 + k % 28:02d} 10:00"} for k in range(270)
    ]
    rows = t0(*people)
    assert rows.study_id.tolist() == list(range(1, 271))
    rows = rows.take(np.lexsort((rows.t0_s, rows.person_id)))
    site: list[str | None] = [f"s{k % 40}" for k in range(270)]
    split = _split(rows, site, LabelingSettings(split_method=method, split_fractions=(0.5, 0.2, 0.3)))
    assert len(split.person_id) == 90
    parts = [set(split.of(rows.person_id)[rows.person_id == person].tolist()) for person in range(1, 91)]
    assert all(len(part) == 1 for part in parts) and len(set.union(*parts)) == 3


def test_l05_a_person_keeps_its_part_whoever_else_is_there() -> None:
    """int(sha256(f"{seed}:{person_id}")[:8], 16) / 2**32 against cumulative fractions."""
    assert unit_interval(20, 7) == int(hashlib.sha256(b"20:7").hexdigest()[:8], 16) / 2**32
    few = split_persons(np.arange(100), seed=20, fractions=(0.8, 0.05, 0.15))
    many = split_persons(np.arange(5_000), seed=20, fractions=(0.8, 0.05, 0.15))
    assert np.array_equal(few.part, many.part[:100])
    share = np.bincount(many.part, minlength=3) / 5_000
    assert share == pytest.approx([0.8, 0.05, 0.15], abs=0.02)


def test_l05_row_order_does_not_matter() -> None:
    persons = np.array([5, 3, 9, 1])
    one = split_persons(persons, seed=20, fractions=(0.5, 0.2, 0.3))
    other = split_persons(persons[::-1], seed=20, fractions=(0.5, 0.2, 0.3))
    assert one.split_id == other.split_id and np.array_equal(one.of(persons), other.of(persons))


def test_l05_split_id_is_the_hash_of_the_sorted_list() -> None:
    split = split_persons(np.array([2, 1]), seed=20, fractions=(1, 0, 0))
    assert split.split_id == hashlib.sha256(b"1:0\n2:0\n").hexdigest()[:16]


def test_l05_by_site_and_by_date() -> None:
    """Persons of one site, or of one first date, share a part; early dates train."""
    by_site = split_persons(np.arange(6), seed=1, fractions=(0.5, 0.25, 0.25), method="site", group=list("aabbcc"))
    assert by_site.part[0] == by_site.part[1] and by_site.part[4] == by_site.part[5]
    by_date = split_persons(np.arange(4), seed=1, fractions=(0.5, 0.25, 0.25), method="date", group=[30, 10, 20, 10])
    assert by_date.part.tolist() == [2, 0, 1, 0]


def test_l05_a_manifest_is_never_rewritten(tmp_path: Path) -> None:
    persons = np.arange(50)
    first = split_persons(persons, seed=20, fractions=(0.8, 0.05, 0.15))
    path = keep_split(tmp_path, first)
    stamp = path.stat().st_mtime_ns
    assert keep_split(tmp_path, first) == path and path.stat().st_mtime_ns == stamp
    second = split_persons(persons, seed=21, fractions=(0.8, 0.05, 0.15))
    with pytest.raises(UsageError, match="--new-split"):
        keep_split(tmp_path, second)
    keep_split(tmp_path, second, new_split=True)
    assert len(list(tmp_path.glob("*.json"))) == 2
    assert json.loads(path.read_text())["persons_sha256"] == persons_hash(persons)


def test_l06_an_overlap_is_an_error_that_counts() -> None:
    """No person, no image UID, no volume content in two parts."""
    part = np.array([0, 0, 1, 2])
    rows = np.arange(4)
    fine = {
        "persons": (rows, [1, 1, 2, 3]),
        "image UIDs": (rows, ["a", "a", "b", "c"]),
        "volume contents": (rows[:0], []),
    }
    assert prove_no_overlap(part, fine) == {"persons": 0, "image UIDs": 0, "volume contents": 0}
    for name, keys in (("persons", [1, 1, 1, 3]), ("image UIDs", ["a", "b", "c", "a"])):
        with pytest.raises(IntegrityError, match=f"1 {name}") as caught:
            prove_no_overlap(part, {**fine, name: (rows, keys)})
        assert caught.value.exit_code == 7
