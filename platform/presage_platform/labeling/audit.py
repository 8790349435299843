"""The leak audit: how each task's events lie around the scan, over the years, between sites and sexes.

A code that is billed for the stay of the scan, a vocabulary that changed, a site that never sends a table: each shows
in the distribution of events long before it shows as a result that is too good. Everything is of the incident view.

Shape suffixes: N = studies, K = tasks, E = events, G = groups (calendar years, sites).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import SECONDS_PER_DAY
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.views import TaskView

SECONDS_PER_YEAR = 31_557_600
LARGEST_SHARE_WITHIN_A_DAY = 0.20
LARGEST_CHANGE, FEWEST_EVENTS_A_YEAR = 3.0, 50
FEWEST_EXPECTED_AT_A_SITE = 5.0  # by chance a site with five expected events has none once in 150 sites
FEWEST_EVENTS_OF_ONE_SEX, LARGEST_STRAY_SHARE = 100, 0.01
ROWS_AT_ONCE = 4096

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Around:
    """What an audit knows of each study, shape = (N,); groups are numbers, -1 = unknown."""

    t0_s: NDArray[np.int64]
    visit_end_s: NDArray[np.int64]  # seconds from t0 to the end of the index visit; -1 = in no visit
    prior_obs_days: NDArray[np.int64]
    site: NDArray[np.int64]
    sex: NDArray[np.int64]
    sites: tuple[str, ...]
    first_year: int
    num_years: int

    @classmethod
    def of(cls, store: LabelStore) -> Around:
        """Read it from a store."""
        import pyarrow.parquet as pq

        studies, facts = store.studies, pq.read_table(store.path / "facts.parquet")
        t0 = np.asarray(studies.column("t0"), dtype=np.int64)
        in_visit = np.asarray(studies.column("visit_occurrence_id").is_valid())
        ends = t0 + store.scalar("end")
        years = 1970 + np.array([t0.min(initial=0), ends.max(initial=0)]).astype("datetime64[s]").astype(
            "datetime64[Y]"
        ).astype(np.int64)
        sites, site = _codes(store.covariates.column("site").to_pylist())
        _, sex = _codes(store.covariates.column("sex").to_pylist())
        return cls(
            t0_s=t0,
            visit_end_s=np.where(in_visit, np.asarray(facts.column("visit_end_s"), dtype=np.int64) - t0, -1),
            prior_obs_days=np.asarray(studies.column("prior_obs_days"), dtype=np.int64),
            site=site,
            sex=sex,
            sites=sites,
            first_year=int(years[0]),
            num_years=int(years[1] - years[0] + 1),
        )


@dataclass(frozen=True, slots=True)
class Labels:
    """The incident view of K tasks over N studies: who is at risk, from when to when, and the events."""

    task: NDArray[np.int64]  # of each event, shape = (E,)
    row: NDArray[np.int64]
    time_s: NDArray[np.int64]
    entry_s: NDArray[np.int64]  # of each study
    end_s: NDArray[np.int64]
    unmasked: NDArray[np.bool_]
    prevalent: NDArray[np.uint8]  # packed bits, shape = (N, ceil(K / 8)), little end first
    num_tasks: int

    def not_at_risk(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows, and 1 where an unmasked study has the task before its scan, shape = (rows, K)."""
        for first in range(0, len(self.entry_s), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            bits = np.unpackbits(self.prevalent[part], axis=1, bitorder="little", count=self.num_tasks)
            yield part, (bits * self.unmasked[part, None]).astype(np.float32)

    def at_risk(self, values_NG: Floats) -> Floats:
        """Sum per-study values over the studies at risk of each task, shape = (K, G)."""
        total = values_NG[self.unmasked].sum(axis=0)
        gone = np.zeros((self.num_tasks, values_NG.shape[1]))
        for part, out in self.not_at_risk():
            gone += out.T @ values_NG[part]
        return np.asarray(total[None, :] - gone)


def audit(store: LabelStore) -> list[dict[str, Any]]:
    """Return one row a task of the set and an outcome, with what raises an alarm under `alarms`."""
    around = Around.of(store)
    rows = _audit(store.task_names, _set_labels(store), around)
    for name in store.outcomes:
        rows += _audit([name], outcome_labels(store.task_view(name, risk="incident")), around)
    return rows


def alarms(rows: list[dict[str, Any]]) -> list[str]:
    """Return one line an alarm."""
    return [f"{row['task']}: {alarm}" for row in rows for alarm in row["alarms"]]


def outcome_labels(view: TaskView) -> Labels:
    """Return one outcome, whose risk window is its own."""
    event = np.flatnonzero(view.at_risk & (view.cause == 1))
    time_s = view.time_s.astype(np.int64)
    return Labels(
        task=np.zeros(len(event), dtype=np.int64),
        row=event,
        time_s=time_s[event],
        entry_s=view.entry_s.astype(np.int64),
        end_s=time_s,  # the exposure of a study without the event ends here; with it, at the event, which is here too
        unmasked=view.mask == 0,
        prevalent=np.packbits(view.prevalent[:, None], axis=1, bitorder="little"),
        num_tasks=1,
    )


def _set_labels(store: LabelStore) -> Labels:
    everyone = store.rows(np.arange(store.num_studies), risk="incident")
    row = np.repeat(np.arange(store.num_studies), np.diff(everyone.indptr))
    task = everyone.task.astype(np.int64)
    unmasked = everyone.mask == 0
    prevalent = (everyone.prevalent[row, task >> 3] >> (task & 7).astype(np.uint8)) & 1
    kept = unmasked[row] & (prevalent == 0)
    return Labels(
        task=task[kept],
        row=row[kept],
        time_s=everyone.time[kept].astype(np.int64),
        entry_s=everyone.entry.astype(np.int64),
        end_s=everyone.end.astype(np.int64),
        unmasked=unmasked,
        prevalent=everyone.prevalent,
        num_tasks=store.num_tasks,
    )


def _audit(names: list[str], labels: Labels, around: Around) -> list[dict[str, Any]]:
    number = np.bincount(labels.task, minlength=labels.num_tasks)
    at_risk = labels.at_risk(np.ones((len(labels.entry_s), 1)))[:, 0]
    unmasked = int(labels.unmasked.sum())
    year_of_event = _year(around.t0_s[labels.row] + labels.time_s) - around.first_year
    by_year = _rates(labels, around.num_years, year_of_event, lambda start, stop: _years(around, start, stop))
    by_site = _rates(
        labels, len(around.sites), around.site[labels.row], lambda start, stop: _sites(around, start, stop)
    )
    by_sex = _count(labels, around.sex[labels.row], 1 + int(around.sex.max(initial=0)))
    within = _share(labels, labels.time_s <= SECONDS_PER_DAY, number)
    inside = _share(labels, labels.time_s <= around.visit_end_s[labels.row], number)
    prior = _medians(labels, around.prior_obs_days[labels.row])
    return [
        {
            "task": name,
            "num_events": int(number[k]),
            "share_within_a_day": _rounded(within[k]),
            "share_inside_index_visit": _rounded(inside[k]),
            "share_prevalent": _rounded(1 - at_risk[k] / unmasked if unmasked else 0.0),
            "median_prior_obs_days": prior[k],
            "per_1000_years_by_year": _table(
                by_year, k, range(around.first_year, around.first_year + around.num_years)
            ),
            "per_1000_years_by_site": _table(by_site, k, around.sites),
            "alarms": [
                *_day_alarm(within[k], int(number[k])),
                *_year_alarms(by_year, k, around.first_year),
                *_site_alarms(by_site, k, around.sites),
                *_sex_alarm(by_sex[k]),
            ],
        }
        for k, name in enumerate(names)
    ]


def _day_alarm(share: float, num_events: int) -> list[str]:
    if num_events == 0 or share <= LARGEST_SHARE_WITHIN_A_DAY:
        return []
    limit = f"{100 * LARGEST_SHARE_WITHIN_A_DAY:.0f} %"
    return [f"{100 * share:.0f} % of {num_events} events lie within a day of the scan, expected at most {limit}"]


def _year_alarms(rates: _Rates, k: int, first_year: int) -> list[str]:
    found = []
    for year in range(rates.events.shape[1] - 1):
        events, exposure = rates.events[k, year : year + 2], rates.exposure_s[k, year : year + 2]
        if events.min() < FEWEST_EVENTS_A_YEAR or exposure.min() <= 0:
            continue
        first, second = events / exposure
        change = max(first / second, second / first)
        if change > LARGEST_CHANGE:
            found.append(f"incidence changes {change:.1f}-fold from {first_year + year} to {first_year + year + 1}")
    return found


def _site_alarms(rates: _Rates, k: int, sites: tuple[str, ...]) -> list[str]:
    if len(sites) < 2 or rates.exposure_s[k].sum() <= 0:
        return []
    expected = rates.exposure_s[k] * rates.events[k].sum() / rates.exposure_s[k].sum()
    silent = (rates.events[k] == 0) & (expected >= FEWEST_EXPECTED_AT_A_SITE)
    return [f"no event at site {sites[g]}, expected about {expected[g]:.0f}" for g in np.flatnonzero(silent)]


def _sex_alarm(events: NDArray[np.int64]) -> list[str]:
    total = int(events.sum())
    stray = total - int(events.max(initial=0))
    if total < FEWEST_EVENTS_OF_ONE_SEX or stray == 0 or stray > LARGEST_STRAY_SHARE * total:
        return []
    return [f"{stray} of {total} events are of the sex in which this hardly ever happens"]


@dataclass(frozen=True, slots=True)
class _Rates:
    """Events and exposure, shape = (K, G)."""

    events: NDArray[np.int64]
    exposure_s: Floats


def _rates(labels: Labels, num_groups: int, group_of_event: NDArray[np.int64], spread: Any) -> _Rates:
    """Events by group, and exposure: whole follow-up of those at risk, less what comes after an event."""
    everyone = spread(labels.entry_s, np.maximum(labels.end_s, labels.entry_s))(np.arange(len(labels.entry_s)))
    exposure = labels.at_risk(everyone)
    after = spread(labels.time_s, labels.end_s[labels.row])(labels.row)
    for group in range(num_groups):
        exposure[:, group] -= np.bincount(labels.task, weights=after[:, group], minlength=labels.num_tasks)
    return _Rates(_count(labels, group_of_event, num_groups), exposure)


def _years(around: Around, start_s: NDArray[np.int64], stop_s: NDArray[np.int64]) -> Any:
    """Seconds of (start, stop] from the scans of some rows within each calendar year, shape = (rows, years)."""
    edges = np.array(
        [f"{around.first_year + year}-01-01" for year in range(around.num_years + 1)], dtype="datetime64[s]"
    )
    limits = edges.astype(np.int64)

    def of(row: NDArray[np.int64]) -> Floats:
        t0 = around.t0_s[row]
        low = np.maximum((t0 + start_s)[:, None], limits[None, :-1])
        high = np.minimum((t0 + stop_s)[:, None], limits[None, 1:])
        return np.asarray(np.maximum(high - low, 0), dtype=np.float64)

    return of


def _sites(around: Around, start_s: NDArray[np.int64], stop_s: NDArray[np.int64]) -> Any:
    """Seconds of (start, stop] at each row's own site, shape = (rows, sites)."""

    def of(row: NDArray[np.int64]) -> Floats:
        mine = around.site[row][:, None] == np.arange(len(around.sites))[None, :]
        return np.asarray(np.where(mine, (stop_s - start_s)[:, None], 0), dtype=np.float64)

    return of


def _count(labels: Labels, group: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
    known = group >= 0
    flat = np.bincount(labels.task[known] * num_groups + group[known], minlength=labels.num_tasks * num_groups)
    return flat.reshape(labels.num_tasks, num_groups)


def _share(labels: Labels, chosen: NDArray[np.bool_], number: NDArray[np.int64]) -> Floats:
    found = np.bincount(labels.task, weights=chosen.astype(np.float64), minlength=labels.num_tasks)
    return np.asarray(found / np.maximum(number, 1))


def _medians(labels: Labels, value: NDArray[np.int64]) -> list[int | None]:
    order = np.lexsort((value, labels.task))
    start = np.searchsorted(labels.task[order], np.arange(labels.num_tasks + 1))
    return [
        int(value[order][(low + high - 1) // 2]) if high > low else None
        for low, high in zip(start[:-1].tolist(), start[1:].tolist(), strict=True)
    ]


def _table(rates: _Rates, k: int, names: Any) -> dict[str, float]:
    per_1000 = 1000 * SECONDS_PER_YEAR * rates.events[k] / np.maximum(rates.exposure_s[k], 1.0)
    return {str(name): _rounded(per_1000[g]) for g, name in enumerate(names) if rates.exposure_s[k, g] > 0}


def _year(time_s: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(1970 + time_s.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64))


def _codes(words: list[str | None]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    names = tuple(sorted({word for word in words if word is not None}))
    place = {word: number for number, word in enumerate(names)}
    return names, np.array([-1 if word is None else place[word] for word in words], dtype=np.int64)


def _rounded(value: float) -> float:
    return round(float(value), 6)
