"""The pages on labels are true: each worked example is run, each setting has its values and default, each page is found."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any, get_args, get_origin

import numpy as np
import pytest
import yaml

from presage_platform.labeling import Event, Mask
from presage_platform.labeling.anchors import day_boundaries
from presage_platform.labeling.bins import base_rates, bin_of, clipped_exposure, explicit_edges, quantile_edges
from presage_platform.labeling.event import SECONDS_PER_DAY as DAY
from presage_platform.labeling.event import State
from presage_platform.labeling.exclusions import guarded
from presage_platform.labeling.first_occurrence import label_shard
from presage_platform.labeling.ontology import ancestry
from presage_platform.labeling.outcomes import Candidates, outcome_rows, states
from presage_platform.labeling.paper_labels import mask_without_events, paper_policy, paper_windows
from presage_platform.labeling.paper_selection import closure, select_paper_tasks, weights
from presage_platform.labeling.selection import Counts, select_tasks
from presage_platform.labeling.semantics import Policy, day_start, risk_windows
from presage_platform.labeling.tasks.front_matter import FrontMatter
from presage_platform.labeling.timeline import last_events
from presage_platform.labeling.views import view_mask
from presage_platform.settings import LabelingSettings
from tests.functional.test_documents import ROOT, fenced
from tests.lib.timelines import Happening, Person, Record, Scan, at, csr_row, day_end, is_date
from tests.spec.labeling.test_task_set import vocabulary

EXPLANATION = ROOT / "docs" / "explanation"
OVERVIEW = EXPLANATION / "label-semantics.md"
PAGES = sorted((EXPLANATION / "labels").glob("*.md"))
SETTING = re.compile(r"^\| `(?P<name>\w+)` \| (?P<values>[^|]+) \| (?P<default>[^|]+) \|$", re.MULTILINE)
SETTINGS_TABLE = re.compile(r"^\| setting \| values \| default \|\n(?:\|.*\n)+", re.MULTILINE)
ELSEWHERE = {
    "split_method", "split_fractions", "split_seed", "n_shards", "source_concepts", "type_concept", "status_concept",
    "value_bins", "connections", "refresh", "min_cell", "max_cost", "max_rows",
}  # fmt: skip
"""Settings that decide how records are read and written, not what a label means."""
DATA_CUT = "2029-12-31"


def examples() -> list[Any]:
    """Return every example; all values are text, as written."""
    found = []
    for page in PAGES:
        for block in fenced(page, "yaml"):
            cases = yaml.load(block, Loader=yaml.BaseLoader)  # texts only: dates stay as written
            found += [pytest.param(case, id=f"{page.stem}: {case['case']}") for case in cases]
    return found


def settings_rows() -> dict[str, tuple[str, str]]:
    """Return setting → (values, default) as the pages' tables state them."""
    tables = [table for page in PAGES for table in SETTINGS_TABLE.findall(page.read_text("utf-8"))]
    rows = [m for table in tables for m in SETTING.finditer(table)]
    assert len({m["name"] for m in rows}) == len(rows), "a setting is explained on one page"
    return {m["name"]: (m["values"].strip(), m["default"].strip()) for m in rows}


@pytest.mark.parametrize("case", examples())
def test_l18_every_example_of_the_pages_comes_out_as_written(case: dict[str, Any]) -> None:
    """One reader a kind of example; what an example does not expect is not compared."""
    given, expected = case["given"], case["expect"]
    settings = LabelingSettings.model_validate(case.get("settings", {}))
    found = READERS[next(key for key in READERS if key in given)](given, settings, case.get("task", "condition"))
    assert expected and {key: as_text(found[key]) for key in expected} == expected


def label_one_scan(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Label one scan of one person for one task, by the kernel and as an outcome task; both must agree."""
    happenings = [Happening(when) for when in given.get("events", [])]
    person = Person(
        happenings,
        [tuple(period) for period in given.get("periods", [["2015-01-01", "2025-12-31"]])],
        [tuple(visit) for visit in given.get("visits", [])],
        given.get("death"),
    )
    record = Record([person], [Scan(given["t0"])])
    facts = record.facts(bridge_days=settings.bridge_days, grace_days=settings.grace_days)
    policy = policy_of(settings, task)
    if settings.mode != "default":
        policy = paper_policy(policy)
        windows = paper_windows(facts, policy, last_events(record.shard(), raw=True)[1])
        shard = label_shard(record.shard(), facts, windows, record.ontology(), same_day=policy.same_day)
        windows = mask_without_events(windows, [shard])
    else:
        windows = risk_windows(facts, policy)
    times = [given["death"]] if task == "death" and "death" in given else given.get("events", [])
    candidates = Candidates(
        row=np.zeros(len(times), dtype=np.int64),
        time_s=np.array([at(time) for time in times], dtype=np.int64),
        is_date=np.array([is_date(time) for time in times], dtype=np.bool_),
        cause=np.full(len(times), Event.EVENT, dtype=np.uint8),
    )
    row = outcome_rows(facts, windows, candidates, policy).to_pylist()[0]
    if task != "death":
        shard = label_shard(record.shard(), facts, windows, record.ontology(), same_day=policy.same_day)
        prevalent = bool(shard.prevalent[0, 0] & 1)
        assert csr_row(shard.indptr, shard.task, shard.time, 0).get(0) == row["time_s"], "set and outcome task agree"
        assert prevalent == row["prevalent"], "set and outcome task agree"
    time_s = row["end_s"] if row["time_s"] is None else row["time_s"]
    next_state = states(
        view_mask(windows.mask, "next"), np.array([False]), np.array([row["time_s"] is not None]), windows.end_cause
    )[0]
    return {
        "state": row["state"],
        "next": State(int(next_state)).word,
        "days": time_s // DAY,
        "seconds": time_s,
        "entry_seconds": row["entry_s"],
        "entry_days": row["entry_s"] // DAY,
        "end_days": row["end_s"] // DAY,
        "death_end_days": int(windows.death_end_s[0]) // DAY,
        "mask": [str(bit.name).lower() for bit in Mask if int(windows.mask[0]) & bit],
    }


def policy_of(settings: LabelingSettings, task: str) -> Policy:
    """Return the policy of a task set, for the kind of task that an example names."""
    cut = day_end(DATA_CUT if settings.data_cut is None else settings.data_cut.isoformat())
    policy = Policy.of_task_set(settings, data_cut_s=cut)
    kinds = {
        "condition": {},
        "drug": {"fed_by_conditions": False},
        "death": {"follows_death": True, "death_competes": False},
    }
    return Policy(**(policy.to_json() | kinds[task]))


def fit_edges(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Fit bins to event times in days, and say in which bin some times fall."""
    times = np.array([int(day) * DAY for day in given["event_days"]], dtype=np.int32)
    bins = settings.bins
    edges = quantile_edges(times, num_bins=bins) if isinstance(bins, int) else explicit_edges(bins)
    return {
        "edges_days": [int(edge) // DAY if np.isfinite(edge) else "inf" for edge in edges],
        "bins": bin_of(edges, times).tolist(),
    }


def measure_exposure(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Count events and exposure of studies [entry, end, event or none], all in days."""
    rows = given["studies"]
    entry, end = (np.array([int(row[i]) * DAY for row in rows], dtype=np.int64) for i in (0, 1))
    happens = np.array([i for i, row in enumerate(rows) if row[2] != "none"], dtype=np.int64)
    time = np.array([int(rows[i][2]) * DAY for i in happens], dtype=np.int64)
    events, exposure = base_rates(np.zeros_like(happens), time, end, entry, happens, 1)
    until = end.copy()
    until[happens] = time
    assert not isinstance(settings.bins, int), "an example names its edges"
    parts = clipped_exposure(explicit_edges(settings.bins), entry, until)
    assert parts.sum(axis=1).tolist() == (until - entry).tolist()
    return {
        "events": events[0],
        "exposure_days": exposure[0] // DAY,
        "exposure_by_bin_days": (parts // DAY).tolist(),
        "per_1000_days": round(1000 * events[0] * DAY / exposure[0], 2),
    }


def list_anchors(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Return the anchors of one record as days."""
    days = np.array([at(day) // DAY for day in given["recorded_days"]], dtype=np.int64)
    anchors = day_boundaries(days, at(given["birth"]) // DAY)
    assert (anchors % DAY == DAY - 1).all(), "an anchor is the last second of its day"
    return {"anchors": [str(np.datetime64(int(day), "s"))[:10] for day in day_start(anchors)]}


def choose_default(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Choose tasks among candidates [incident events, prevalent studies] of a number of studies."""
    number = {name: i + 1 for i, name in enumerate(given["candidates"])}
    concepts = np.array(list(number.values()), dtype=np.int64)
    incident, prevalent = (np.array([int(row[i]) for row in given["candidates"].values()]) for i in (0, 1))
    words = vocabulary(list(number.values()), [(number[a], number[d]) for a, d in given.get("above", [])])
    chosen = select_tasks(
        concepts,
        Counts(incident, prevalent, incident, int(given["studies"])),
        ancestry(concepts, words),
        words,
        settings,
        excluded={number[name]: "exclusions.csv" for name in given.get("excluded", [])},
        guarded=guarded([number[name] for name in given.get("outcome", [])], words, settings.guard_scope),
        allow_fewer=True,
    )
    return {"tasks": [list(number)[concept - 1] for concept in chosen.concept_id]}


def choose_paper(given: dict[str, Any], settings: LabelingSettings, task: str) -> dict[str, Any]:
    """Choose tasks as the paper does, from the concepts of each person and the direct parent of each concept."""
    names = sorted({name for person in given["persons"] for name in person} | set(given["parents"].values()))
    number = {name: i + 1 for i, name in enumerate(names)}
    parents = {number[child]: (number[parent],) for child, parent in given["parents"].items()}
    pairs = closure(np.array(list(number.values())), parents)
    above = {c: set(pairs.ancestor[pairs.concept == c].tolist()) for c in number.values()}
    closed = [set().union(*(above[number[name]] for name in person)) for person in given["persons"]]
    candidates = np.array(list(number.values()), dtype=np.int64)
    num_with = np.array([sum(c in person for person in closed) for c in number.values()])
    chosen = select_paper_tasks(
        candidates,
        num_with,
        len(closed),
        parents,
        settings,
        guarded=set(),
        event_fraction=np.ones(len(candidates)) / 2,
        floor=settings.mode == "paper-floor",
        allow_fewer=True,
    )
    _, share = weights(candidates, num_with, len(closed), parents)
    return {
        "tasks": [names[concept - 1] for concept in chosen.concept_id],
        "weights": [round(float(weight), 3) for weight in chosen.weight],
        "shares": {name: round(float(q), 3) for name, q in zip(names, share, strict=True)},
    }


READERS: dict[str, Callable[[dict[str, Any], LabelingSettings, str], dict[str, Any]]] = {
    "t0": label_one_scan,
    "event_days": fit_edges,
    "candidates": choose_default,
    "studies": measure_exposure,
    "recorded_days": list_anchors,
    "persons": choose_paper,
}


def as_text(value: Any) -> Any:
    """Return a result as an example writes it."""
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    return [as_text(one) for one in value] if isinstance(value, list) else str(value)


def test_every_page_has_examples_a_question_and_its_rules() -> None:
    """A page says what it decides, why, names the rules it follows, and shows at least two examples."""
    assert len(PAGES) >= 14
    for page in PAGES:
        text = page.read_text("utf-8")
        assert "**Decides**" in text and "**Why**" in text, page.name
        assert re.search(r"^Rules L\d", text, re.MULTILINE), page.name
        assert sum(len(yaml.load(block, Loader=yaml.BaseLoader)) for block in fenced(page, "yaml")) >= 2, page.name
        assert len(text.splitlines()) <= 90, f"{page.name}: a page is short"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_is_linked_from_the_overview_and_the_index(page: Any) -> None:
    assert f"(labels/{page.name})" in OVERVIEW.read_text("utf-8")
    assert f"(explanation/labels/{page.name})" in (ROOT / "docs" / "index.md").read_text("utf-8")
    assert "(../label-semantics.md)" in page.read_text("utf-8")


def test_every_setting_that_decides_a_label_is_explained() -> None:
    """A new setting must be explained on a page, or be named as one that decides no label."""
    assert set(settings_rows()) == set(LabelingSettings.model_fields) - ELSEWHERE


@pytest.mark.parametrize("name", sorted(set(LabelingSettings.model_fields) - ELSEWHERE))
def test_values_and_default_of_a_setting_are_those_of_the_code(name: str) -> None:
    values, default = settings_rows()[name]
    field = LabelingSettings.model_fields[name]
    stated = "None" if default == "none" else default.strip("`")
    assert stated.replace(",", "") == str(field.default)
    if get_origin(field.annotation) is not None and all(isinstance(v, str) for v in get_args(field.annotation)):
        assert set(re.findall(r"`([\w-]+)`", values)) == set(get_args(field.annotation))


@pytest.mark.parametrize("name", ["same_day", "censor", "visit_guard", "min_prior_obs"])
def test_the_overview_states_the_defaults_of_both_kinds_of_task(name: str) -> None:
    """The table of defaults: of a task set, then of an outcome task (`the same` where they agree)."""
    row = re.search(rf"^\| `{name}` \| (?P<set>[^|]+) \| (?P<task>[^|]+) \|", OVERVIEW.read_text("utf-8"), re.MULTILINE)
    assert row is not None
    of_set = str(LabelingSettings.model_fields[name].default)
    field = {"min_prior_obs": "min_prior_obs_days"}.get(name, name)
    of_task = str(FrontMatter.model_fields[field].default)
    assert row["set"].strip("` ") == of_set
    stated = row["task"].partition(";")[0].strip("` ")
    assert (of_set if stated == "the same" else stated) == of_task


@pytest.mark.parametrize("name", ["same_day", "censor", "visit_guard", "mode", "guard_scope"])
def test_every_value_of_a_policy_has_an_example(name: str) -> None:
    shown = {case.values[0].get("settings", {}).get(name) for case in examples()} - {None}
    assert shown == set(get_args(LabelingSettings.model_fields[name].annotation))


def test_the_examples_show_every_state_and_the_masks_of_a_task_set() -> None:
    expected = [case.values[0]["expect"] for case in examples()]
    assert {e.get("state") for e in expected} >= {state.word for state in State}
    masks = {word for e in expected for word in e.get("mask", [])}
    assert masks == {
        "no_followup", "dead_at_index", "no_observation", "short_history", "paper_same_day", "paper_no_task_event"
    }  # fmt: skip


def test_the_picture_stands_alone_and_speaks() -> None:
    """A title and a description for who does not see it, both colour schemes, nothing fetched, no script."""
    path = EXPLANATION / "timeline.svg"
    text = path.read_text("utf-8")
    root = ET.fromstring(text)
    space = {"s": "http://www.w3.org/2000/svg"}
    named = (root.get("aria-labelledby") or "").split()
    for tag in ("title", "desc"):
        node = root.find(f"s:{tag}", space)
        assert node is not None and node.text and node.get("id") in named
    assert root.get("role") == "img" and "prefers-color-scheme: dark" in text
    assert not re.search(r"@import|url\(|<script|href=|<image", text)
    assert "(timeline.svg)" in OVERVIEW.read_text("utf-8")
