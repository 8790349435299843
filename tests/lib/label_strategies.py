"""Hypothesis: small hospitals around t0: midnights, leap days, year ends, bare dates, deaths, gaps, any policy."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from presage_platform.labeling.semantics import Policy
from tests.lib.timelines import Happening, Person, Record, Scan, day_end

DAYS = (
    "2019-12-31",
    "2020-01-01",
    "2020-02-27",
    "2020-02-28",
    "2020-02-29",
    "2020-03-01",
    "2020-03-02",
    "2020-03-04",
    "2020-04-30",
    "2021-12-31",
    "2022-01-01",
)
CLOCKS = ("", "", " 00:00", " 10:00", " 10:00:01", " 09:59:59", " 23:59:59")
NUM_CONCEPTS, NUM_TASKS = 6, 11

days = st.sampled_from(DAYS)
moments = st.builds(str.__add__, days, st.sampled_from(CLOCKS))
happenings = st.builds(Happening, moments, st.integers(0, NUM_CONCEPTS - 1), st.integers(0, 7))
spans = st.tuples(days, days).map(lambda pair: (min(pair), max(pair)))
persons = st.builds(
    Person,
    events=st.lists(happenings, max_size=14),
    periods=st.lists(spans, max_size=3),
    visits=st.lists(st.tuples(moments, moments).map(lambda p: (min(p), max(p))), max_size=4, unique=True),
    death=st.none() | moments,
)
tasks = st.fixed_dictionaries(
    {c: st.lists(st.integers(0, NUM_TASKS - 1), max_size=4, unique=True) for c in range(NUM_CONCEPTS)}
)


@st.composite
def records(draw: Any) -> Record:
    """Return a hospital of at most five persons and six scans."""
    people = draw(st.lists(persons, min_size=1, max_size=5))
    scans = draw(st.lists(st.builds(Scan, moments, st.integers(0, len(people) - 1)), min_size=1, max_size=6))
    return Record(people, scans, tasks=draw(tasks), num_tasks=NUM_TASKS, num_concepts=NUM_CONCEPTS)


policies = st.builds(
    Policy,
    data_cut_s=st.sampled_from(["2029-12-31", "2021-12-31", "2020-03-01"]).map(day_end),
    death_cut_s=st.none() | st.just(day_end("2021-12-31")),
    same_day=st.sampled_from(["exclude", "strict_day", "include"]),
    censor=st.sampled_from(["observation_period_end", "last_event", "last_visit_end", "data_cut", "hybrid"]),
    death_pad_days=st.sampled_from([0, 1, 60]),
    lookback_s=st.none() | st.sampled_from([0, 86_400, 864_000]),
    min_lag_s=st.sampled_from([0, 86_400]),
    min_prior_obs_days=st.sampled_from([0, 30]),
    visit_guard=st.sampled_from(["none", "condition", "all"]),
)
