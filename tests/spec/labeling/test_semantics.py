"""The semantics of a label, rule by rule, on timelines of one person."""

from __future__ import annotations

import numpy as np
import pytest

from presage_platform.errors import IntegrityError
from presage_platform.labeling import Mask
from presage_platform.labeling.event import SECONDS_PER_DAY as DAY
from presage_platform.labeling.semantics import risk_windows
from tests.lib.timelines import Happening, Person, Record, Scan, at, day_end, one, policy

SCAN = "2020-03-01 10:00"
T0 = at(SCAN)


def test_l18_equal_time_is_history() -> None:
    """`t_e > r >= t0`; equal timestamps are history."""
    labels = one(Happening(SCAN, concept=0), Happening("2020-03-01 10:00:01", concept=1))
    assert labels.prevalent() == {0}
    assert labels.times() == {1: 1}


@pytest.mark.parametrize(
    ("scan", "changes", "entry_s"),
    [
        (SCAN, {}, 0),
        ("2020-03-01", {}, DAY - 1),
        (SCAN, {"min_lag_s": 30 * DAY}, 30 * DAY),
        (SCAN, {"same_day": "strict_day"}, 14 * 3600 - 1),
        (SCAN, {"visit_guard": "all"}, day_end("2020-03-04") - T0),
        ("2020-03-01", {"min_lag_s": 3600}, DAY - 1),
    ],
)
def test_l19_entry(scan: str, changes: dict[str, object], entry_s: int) -> None:
    """r = max(t0, end of day(t0) if t0 has day precision, t0 + min_lag, guard end); `entry_s = r - t0`."""
    labels = one(scan=scan, under=policy(**changes), visits=[("2020-02-28", "2020-03-04")])
    assert labels.windows.entry_s.tolist() == [entry_s]
    assert labels.windows.risk_start_s[0] == at(scan) + entry_s


@pytest.mark.parametrize(
    ("same_day", "prevalent", "times"),
    [
        ("exclude", {0}, {1: 3600, 2: 14 * 3600}),
        ("strict_day", {0, 1}, {2: 14 * 3600}),
        ("include", set(), {0: 14 * 3600 - 1, 1: 3600, 2: 14 * 3600}),
    ],
)
def test_l20_same_day(same_day: str, prevalent: set[int], times: dict[int, int]) -> None:
    """Date-only events of the index day: history, whole day history, or counted at the day's end. Never a zero time."""
    labels = one(
        Happening("2020-03-01", concept=0),
        Happening("2020-03-01 11:00", concept=1),
        Happening("2020-03-02", concept=2),
        under=policy(same_day=same_day),
    )
    assert (labels.prevalent(), labels.times()) == (prevalent, times)


def test_l20_include_at_midnight_gives_no_zero_time() -> None:
    """A scan at midnight of a day with a bare date: the event counts at the day's end, not at time 0."""
    labels = one(Happening("2020-03-01", concept=0), scan="2020-03-01 00:00", under=policy(same_day="include"))
    assert labels.times() == {0: DAY - 1}


def test_l21_two_views() -> None:
    """The store holds the next time *and* the prevalent bit: the views are chosen by the reader."""
    labels = one(Happening("2019-01-01", concept=0), Happening("2020-04-01", concept=0))
    assert labels.prevalent() == {0}
    assert labels.times() == {0: at("2020-04-01") - T0}


@pytest.mark.parametrize(
    ("censor", "end"),
    [
        ("observation_period_end", day_end("2022-06-30")),
        ("last_event", day_end("2023-05-05")),
        ("last_visit_end", at("2021-02-03 16:00")),
        ("data_cut", day_end("2029-12-31")),
        ("hybrid", at("2021-02-03 16:00")),
    ],
)
def test_l22_censor(censor: str, end: int) -> None:
    """C = min(policy end, data_cut): each policy has its own end, a bare date at the end of its day."""
    labels = one(
        Happening("2023-05-05"),
        under=policy(censor=censor),
        periods=[("2018-01-01", "2022-06-30")],
        visits=[("2021-02-01 08:00", "2021-02-03 16:00"), ("2019-02-01", "2019-02-02")],
    )
    assert labels.windows.end_s.tolist() == [end - T0]
    assert labels.windows.end_cause.tolist() == [0]


def test_l22_the_data_cut_ends_every_follow_up() -> None:
    """A period that runs beyond the data cut ends there."""
    labels = one(periods=[("2018-01-01", "2030-12-31")], under=policy(data_cut_s=day_end("2021-01-31")))
    assert labels.windows.end_s.tolist() == [day_end("2021-01-31") - T0]


@pytest.mark.parametrize(("bridge_days", "end"), [(0, "2020-12-31"), (30, "2020-12-31"), (31, "2021-12-31")])
def test_l22_small_gaps_between_periods_are_bridged(bridge_days: int, end: str) -> None:
    """Periods with at most `bridge_days` uncovered days between them are one; 31 days of January are missing here."""
    record = Record(
        [Person(periods=[("2019-01-01", "2020-12-31"), ("2021-02-01", "2021-12-31")])],
        [Scan(SCAN)],
    )
    assert record.label(policy(), bridge_days=bridge_days).windows.end_s.tolist() == [day_end(end) - T0]


def test_l22_periods_on_following_days_leave_no_gap() -> None:
    """One period ends on 31 December, the next starts on 1 January: no uncovered day, one period."""
    labels = one(periods=[("2019-01-01", "2020-12-31"), ("2021-01-01", "2021-12-31")])
    assert labels.windows.end_s.tolist() == [day_end("2021-12-31") - T0]


def test_l23_hybrid() -> None:
    """Clinical tasks end at the last visit, death at the registry's date: two columns."""
    under = policy(censor="hybrid", death_cut_s=day_end("2024-12-31"))
    labels = one(under=under, visits=[("2021-02-01", "2021-02-03")], death="2023-01-01")
    assert labels.windows.end_s.tolist() == [day_end("2021-02-03") - T0]
    assert labels.windows.end_cause.tolist() == [0]
    assert labels.windows.death_end_s.tolist() == [day_end("2024-12-31") - T0]


@pytest.mark.parametrize(
    ("death", "end", "cause"),
    [
        ("2021-06-01", day_end("2021-06-01"), 2),
        ("2022-02-01", day_end("2021-12-31"), 2),
        ("2022-03-01", day_end("2021-12-31"), 2),
        ("2022-03-02", day_end("2021-12-31"), 0),
        (None, day_end("2021-12-31"), 0),
    ],
)
def test_l24_death_once(death: str | None, end: int, cause: int) -> None:
    """A death up to 60 days after C still ends follow-up as death, at min(C, D); later ones are unknown to it."""
    labels = one(periods=[("2018-01-01", "2021-12-31")], death=death)
    assert (labels.windows.end_s[0], labels.windows.end_cause[0]) == (end - T0, cause)
    assert labels.windows.death_s[0] == (-1 if death is None else day_end(death) - T0)
    assert labels.windows.death_end_s[0] == day_end("2021-12-31") + 60 * DAY - T0, "dead or alive alike"


def test_l24_a_death_task_follows_into_the_pad() -> None:
    """A task whose event is death follows everyone to min(C + death_pad, data_cut), and death is no competitor."""
    labels = one(periods=[("2018-01-01", "2021-12-31")], death="2022-02-01", under=policy(follows_death=True))
    assert labels.windows.end_s.tolist() == [day_end("2021-12-31") + 60 * DAY - T0]
    assert labels.windows.end_cause.tolist() == [0]


@pytest.mark.parametrize(("when", "counts"), [("2021-06-01 09:30", True), ("2021-06-01 09:30:01", False)])
def test_l25_ties(when: str, counts: bool) -> None:
    """Event before death before censor, at second resolution."""
    labels = one(Happening(when, concept=0), death="2021-06-01 09:30")
    assert (0 in labels.times()) == counts
    tied = one(periods=[("2018-01-01", "2021-06-01")], death="2021-06-01")
    assert tied.windows.end_cause.tolist() == [2], "death at the instant of censoring is death"


def test_l25_a_bare_date_on_the_day_of_a_bare_death_counts() -> None:
    """The event stands at the start of its day, the death at the end."""
    assert one(Happening("2021-06-01", concept=0), death="2021-06-01").times() == {0: at("2021-06-01") - T0}


def test_l26_posthumous() -> None:
    """Events after death never count, however soon."""
    labels = one(Happening("2021-06-02", concept=0), Happening("2022-01-01", concept=1), death="2021-06-01")
    assert labels.times() == {} and labels.prevalent() == set()


def test_l27_index_day_death() -> None:
    """A bare date of death on the index day is an outcome at the day's end; a death dated earlier masks the row."""
    same_day = one(Happening("2020-03-01 12:00", concept=0), death="2020-03-01").windows
    assert (same_day.end_s[0], same_day.end_cause[0], same_day.mask[0]) == (day_end("2020-03-01") - T0, 2, 0)
    earlier = one(death="2020-02-29").windows
    assert earlier.mask[0] & Mask.DEAD_AT_INDEX and earlier.death_s[0] == 0
    assert one(death="2020-03-01 09:59").windows.mask[0] & Mask.DEAD_AT_INDEX


def test_l28_all_censored_kept() -> None:
    """F <= r masks the row, which stays; a study with follow-up and no event is kept and unmasked."""
    record = Record([Person(), Person(periods=[("2018-01-01", "2020-02-29")])], [Scan(SCAN, 0), Scan(SCAN, 1)])
    labels = record.label(policy(), grace_days=5)
    assert labels.windows.mask.tolist() == [0, Mask.NO_FOLLOWUP]
    assert labels.shard.indptr.tolist() == [0, 0, 0]


def test_l28_follow_up_that_ends_at_the_risk_start_is_none() -> None:
    """F = r: there is no instant at which an event could count."""
    labels = one(under=policy(censor="last_event"), scan="2020-03-01")
    assert labels.windows.mask[0] & Mask.NO_FOLLOWUP
    tight = one(Happening("2020-03-01", concept=0), under=policy(censor="last_event", same_day="strict_day"))
    assert tight.windows.follow_up_end_s[0] == tight.windows.risk_start_s[0]
    assert tight.windows.mask[0] & Mask.NO_FOLLOWUP


def test_l29_no_zero_time() -> None:
    """Presence in the CSR row is the event: stored times are positive whatever the policy."""
    events = [Happening(when, concept=i) for i, when in enumerate(["2020-03-01", SCAN, "2020-03-01 10:00:01"])]
    for same_day in ("exclude", "strict_day", "include"):
        assert all(time > 0 for time in one(*events, under=policy(same_day=same_day)).times().values())


@pytest.mark.parametrize(
    ("guard", "death_task", "entry"),
    [
        ("none", False, T0),
        ("condition", False, at("2020-03-06 12:00")),
        ("all", False, at("2020-03-06 12:00")),
        ("all", True, T0),
    ],
)
def test_l30_visit_guard(guard: str, death_task: bool, entry: int) -> None:
    """r moves to the end of the visits around t0, joined where at most a day apart; never for death."""
    labels = one(
        Happening("2020-03-03 08:00", concept=0),
        Happening("2020-03-20", concept=1),
        visits=[
            ("2020-02-28 07:00", "2020-03-02 09:00"),
            ("2020-03-03 09:00", "2020-03-06 12:00"),
            ("2020-03-09", "2020-03-09"),
        ],
        under=policy(visit_guard=guard, follows_death=death_task),
    )
    assert labels.windows.risk_start_s.tolist() == [entry]
    assert (0 in labels.times()) == (entry == T0) and 1 in labels.times()


def test_l30_the_condition_guard_spares_tasks_that_no_condition_feeds() -> None:
    """`condition` moves r only for tasks fed by condition_occurrence."""
    visits = [("2020-02-28", "2020-03-06")]
    assert one(visits=visits, under=policy(visit_guard="condition", fed_by_conditions=False)).windows.entry_s[0] == 0


@pytest.mark.parametrize(("lookback_days", "prevalent"), [(None, {0, 1}), (30, {1}), (10, set())])
def test_l31_lookback(lookback_days: int | None, prevalent: set[int]) -> None:
    """Prevalence looks back `lookback` from r; all history by default."""
    under = policy(lookback_s=None if lookback_days is None else lookback_days * DAY)
    labels = one(Happening("2016-01-01", concept=0), Happening("2020-02-10", concept=1), under=under)
    assert labels.prevalent() == prevalent


def test_l31_the_first_second_of_the_lookback_belongs_to_it() -> None:
    """The history is closed at both ends."""
    assert one(Happening("2020-02-29 10:00"), under=policy(lookback_s=DAY)).prevalent() == {0}
    assert one(Happening("2020-02-29 09:59:59"), under=policy(lookback_s=DAY)).prevalent() == set()


@pytest.mark.parametrize(("days", "masked"), [(0, False), (425, False), (426, True)])
def test_l32_short_history(days: int, masked: bool) -> None:
    """`prior_obs_days < min_prior_obs` masks the incident view; from 1 January 2019 to 1 March 2020 are 425 days."""
    labels = one(periods=[("2019-01-01", "2022-01-01")], under=policy(min_prior_obs_days=days))
    assert bool(labels.windows.mask[0] & Mask.SHORT_HISTORY) == masked


def test_l33_gap() -> None:
    """t0 in no period masks the row; the person's other periods never lengthen C."""
    periods = [("2015-01-01", "2020-02-20"), ("2020-06-01", "2025-01-01")]
    outside = one(Happening("2020-07-01", concept=0), periods=periods)
    assert outside.windows.mask[0] & Mask.NO_OBSERVATION and outside.times() == {}
    inside = one(Happening("2020-07-01", concept=0), scan="2020-02-01 08:00", periods=periods)
    assert inside.windows.end_s[0] == day_end("2020-02-20") - at("2020-02-01 08:00") and inside.times() == {}


@pytest.mark.parametrize(("grace_days", "masked"), [(0, True), (9, True), (10, False)])
def test_l33_grace_days(grace_days: int, masked: bool) -> None:
    """t0 within `grace_days` of a period belongs to it: 1 March 10:00 is in the tenth day after 20 February."""
    record = Record([Person(periods=[("2015-01-01", "2020-02-20"), ("2020-08-01", "2021-01-01")])], [Scan(SCAN)])
    windows = record.label(policy(), grace_days=grace_days).windows
    assert bool(windows.mask[0] & Mask.NO_OBSERVATION) == masked


def test_l34_int32() -> None:
    """int32 seconds relative to t0; 68 years are the limit, beyond is an error and never a wrapped number."""
    long = Record([Person(periods=[("1950-01-01", "2030-01-01")])], [Scan("1960-01-01 00:00")])
    labels = long.label(policy(data_cut_s=day_end("2028-01-01")))
    assert labels.windows.end_s.dtype == np.int32 and labels.windows.end_s[0] > 2_140_000_000
    with pytest.raises(IntegrityError, match="68 years"):
        long.label(policy())


def test_l33_prior_observation_is_minus_one_outside() -> None:
    """`prior_obs_days` counts calendar days within the period that holds t0; -1 = none."""
    from presage_platform.labeling.semantics import prior_observation_days

    record = Record(
        [Person(periods=[("2020-02-01", "2021-01-01")]), Person(periods=[("2021-01-01", "2022-01-01")])],
        [Scan(SCAN, 0), Scan(SCAN, 1)],
    )
    assert prior_observation_days(record.facts()).tolist() == [29, -1]


def test_l57_an_at_risk_block_delays_entry_and_leaves_others_out() -> None:
    """Studies that the block does not list, or that died by its date, are not at risk."""
    record = Record([Person(), Person(), Person(death="2020-03-03")], [Scan(SCAN, i) for i in range(3)])
    starts = np.array([day_end("2020-03-05"), np.iinfo(np.int64).max, day_end("2020-03-05")])
    windows = risk_windows(record.facts(), policy(), risk_start_s=starts)
    assert windows.mask.tolist()[0] == 0
    assert [bool(mask & Mask.NOT_ELIGIBLE) for mask in windows.mask] == [False, True, True]
    assert windows.entry_s[0] == day_end("2020-03-05") - T0
