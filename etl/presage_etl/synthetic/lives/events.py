"""One person's life as the simulation knows it: onsets, visits, what was recorded and when, loss, death.

An onset is not observed: it is recorded at an encounter of its own, or at a later routine visit that codes it, with a
billing delay. What labels can see is the recorded time; both are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from presage_etl.synthetic.clock import DAY_S, HOUR_S, MINUTE_S, YEAR_S, quiet, wall
from presage_etl.synthetic.lives.hazards import Model, onset_years
from presage_etl.synthetic.lives.persons import Person, Scan
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.streams import Stage, stream

Floats = NDArray[np.float64]

NEVER = -1
BLACKOUT_S = 3 * DAY_S  # no other encounter starts this close to the encounter of a scan
CARE_SEEKING = 3  # place of care-seeking in u
SYMPTOMS = ("cough", "dyspnea", "fever", "headache", "fatigue")
CODING_FORMS = ("both", "one", "local", "text")
SYMPTOM_AT_SCAN, SYMPTOM_AT_VISIT = 0.8, 0.08


@dataclass(slots=True)
class Visit:
    """One encounter; times are wall-clock seconds."""

    number: int
    start: int
    end: int
    kind: str  # AMB, EMER, IMP
    scan: int = NEVER  # number of the scan that it was made for


@dataclass(slots=True)
class Diagnosis:
    """One recorded condition: of a leaf, or a symptom by name."""

    leaf: int
    symptom: str
    visit: int  # NEVER after death
    recorded: int
    day_only: bool
    at_start: bool
    again: bool
    form: str = "both"  # how it is coded: both, one, local or text

    @property
    def readable(self) -> bool:
        """Whether a reader of the record can tell the condition: local codes and texts have no concept."""
        return self.form in ("both", "one")


@dataclass(slots=True)
class History:
    """Everything that happened to one person within the record."""

    person: Person
    end: int
    death: int  # NEVER when alive or unknown at the end of the record
    death_day_only: bool
    visits: list[Visit]
    diagnoses: list[Diagnosis]
    onset: NDArray[np.int64]  # of each leaf, whether recorded or not
    scan_visits: dict[int, int] = field(default_factory=dict)  # scan number → visit number

    def first_recorded(self, num_leaves: int) -> NDArray[np.int64]:
        """First recorded time of each leaf as a reader sees it; NEVER where it is not in the record."""
        first = np.full(num_leaves, np.iinfo(np.int64).max)
        for diagnosis in self.diagnoses:
            if diagnosis.leaf >= 0 and diagnosis.readable:
                first[diagnosis.leaf] = min(first[diagnosis.leaf], label_time(diagnosis))
        return np.where(first == np.iinfo(np.int64).max, NEVER, first)


def label_time(diagnosis: Diagnosis) -> int:
    """The time that a reader of the record sees: a day without a time begins at its start."""
    return diagnosis.recorded // DAY_S * DAY_S if diagnosis.day_only else diagnosis.recorded


def simulate(parameters: Parameters, model: Model, person: Person) -> History:
    """Draw one person's life and record."""
    seed = parameters.seed
    onsets = stream(seed, person.index, Stage.ONSETS)
    z, u = person.z[None, :], person.u[None, :]
    age, male = np.array([person.age]), np.array([float(person.male)])
    eta = model.predictor(z, u, age, male)[0]
    years = onset_years(model, eta, onsets.exponential(size=len(eta)))
    onset = person.origin + (np.minimum(years, 200.0) * YEAR_S).astype(np.int64)
    death_years = onsets.exponential() / np.exp(model.death_log_rate + model.death_predictor(z, u, age)[0])
    death = quiet(person.index_time + int(min(death_years, 200.0) * YEAR_S))
    end, known_death, cut_short = _end(parameters, person, death, onsets)
    rng = stream(seed, person.index, Stage.VISITS)
    visits = _visits(parameters, model, person, end, rng)
    if cut_short and person.scanned:  # the record stops with the first scan's encounter
        end = next(visit.end for visit in visits if visit.scan == 0)
        visits = [visit for visit in visits if visit.start <= end]
        for place, visit in enumerate(visits):
            visit.number = place
        known_death = NEVER
    recording = stream(seed, person.index, Stage.RECORDING)
    diagnoses = _record(parameters, model, person, onset, end, visits, recording)
    visits.sort(key=lambda visit: (visit.start, visit.end, visit.number))
    renumbered = {visit.number: place for place, visit in enumerate(visits)}
    for visit in visits:
        visit.number = renumbered[visit.number]
    for diagnosis in diagnoses:
        diagnosis.visit = renumbered.get(diagnosis.visit, NEVER)
    history = History(
        person=person,
        end=end,
        death=known_death,
        death_day_only=bool(recording.random() < 0.4),
        visits=visits,
        diagnoses=sorted(diagnoses, key=lambda d: (d.recorded, d.leaf, d.symptom, d.visit)),
        onset=onset,
        scan_visits={visit.scan: visit.number for visit in visits if visit.scan >= 0},
    )
    _after_death(parameters, history, recording)
    _code(parameters, history)
    return history


def _end(parameters: Parameters, person: Person, death: int, rng: np.random.Generator) -> tuple[int, int, bool]:
    """End of the record, the death that it knows (or NEVER), and whether the record stops with the first scan."""
    hazard, cohort = parameters.hazard, parameters.cohort
    rate = np.exp(-0.2 * person.u[CARE_SEEKING] - 0.02 + hazard.informative_censoring * person.u[0])
    loss = person.index_time + int(rng.exponential(hazard.loss_years) / rate * YEAR_S)
    cut = wall(parameters.calendar.cut) + 23 * HOUR_S
    cut_short = bool(rng.random() < cohort.no_followup)
    registry = bool(rng.random() < cohort.registry_deaths)
    end = min(death, quiet(loss), cut)
    known = death <= cut and (death == end or registry)
    return end, death if known else NEVER, cut_short


def _visits(parameters: Parameters, model: Model, person: Person, end: int, rng: np.random.Generator) -> list[Visit]:
    visits: list[Visit] = []
    for scan in person.scans:
        if scan.number and scan.t0 >= end:
            continue
        visits.append(_scan_visit(len(visits), scan, end, rng))
    care = np.exp(0.35 * person.u[CARE_SEEKING] - 0.06)
    span = (end - person.origin) / YEAR_S
    routine = rng.uniform(0, 1, rng.poisson(parameters.record.visits_per_year * care * span))
    for share in np.sort(routine):
        day = int(person.origin + share * (end - person.origin)) // DAY_S
        start = day * DAY_S + int(rng.uniform(7.0, 22.0) * HOUR_S)
        if rng.random() < 0.9:
            _add(visits, start, start + int(rng.integers(20, 100)) * MINUTE_S, "AMB", person, end)
        else:
            _add(visits, start, start + int(rng.integers(60, 360)) * MINUTE_S, "EMER", person, end)
    eta = person.z @ model.admission_beta + person.u @ model.admission_gamma
    for _ in range(rng.poisson(parameters.record.recurrent_admissions * np.exp(eta) * span)):
        start = quiet(int(rng.uniform(person.origin, end)))
        _add(visits, start, quiet(start + _stay(rng)), "IMP", person, end)
    return visits


def _scan_visit(number: int, scan: Scan, end: int, rng: np.random.Generator) -> Visit:
    t0 = scan.t0
    kind = ("AMB", "EMER", "IMP")[int(np.searchsorted([0.6, 0.8], rng.random()))]
    before = int(rng.integers(70, 180)) * MINUTE_S
    after = int(rng.integers(60, 240)) * MINUTE_S
    if kind == "IMP":
        before += int(rng.integers(0, 2 * DAY_S))
        after += _stay(rng)
    # A visit never outlives its person; it does hold the scan.
    return Visit(number, quiet(t0 - before), max(min(quiet(t0 + after), end), t0 + 10 * MINUTE_S), kind, scan.number)


def _stay(rng: np.random.Generator) -> int:
    return int(min(float(np.exp(rng.normal(1.2, 0.6))), 30.0) * DAY_S)


def _add(visits: list[Visit], start: int, stop: int, kind: str, person: Person, end: int) -> int:
    """Add an encounter unless it falls outside the record or beside a scan; return its number or NEVER."""
    if start < person.origin or start >= end or _beside_scan(visits, start, min(stop, end)):
        return NEVER
    visits.append(Visit(len(visits), start, min(stop, end), kind))
    return visits[-1].number


def _beside_scan(visits: list[Visit], start: int, stop: int) -> bool:
    return any(
        visit.scan >= 0 and start <= visit.end + BLACKOUT_S and stop >= visit.start - BLACKOUT_S for visit in visits[:8]
    )


def _record(
    parameters: Parameters,
    model: Model,
    person: Person,
    onset: NDArray[np.int64],
    end: int,
    visits: list[Visit],
    rng: np.random.Generator,
) -> list[Diagnosis]:
    routine = sorted((v.start, v.number) for v in visits if v.scan < 0 and v.kind == "AMB")
    starts = np.array([start for start, _ in routine], dtype=np.int64)
    diagnoses: list[Diagnosis] = []
    for leaf in np.flatnonzero(onset < end):
        about = model.leaves[leaf]
        number = NEVER
        acute, lag = rng.random() < about.acute, rng.uniform(0, 2)
        wait = int(rng.geometric(about.coded)) - 1
        if acute:
            start = quiet(int(onset[leaf]) + int(lag * DAY_S))
            kind = ("AMB", "EMER", "IMP")[int(np.searchsorted([0.6, 0.85], rng.random()))]
            stop = quiet(start + _stay(rng)) if kind == "IMP" else start + int(rng.integers(30, 300)) * MINUTE_S
            number = _add(visits, start, stop, kind, person, end)
        place = int(np.searchsorted(starts, onset[leaf], side="right")) + wait
        if number == NEVER and place < len(routine):
            number = routine[place][1]
        if number != NEVER:
            diagnoses.append(_diagnose(parameters, int(leaf), visits[number], end, rng))
    diagnoses += _codes_again(parameters, model, diagnoses, visits, end, rng)
    diagnoses += _symptoms(parameters, visits, end, rng)
    return diagnoses


def _diagnose(
    parameters: Parameters,
    leaf: int,
    visit: Visit,
    end: int,
    rng: np.random.Generator,
    symptom: str = "",
    again: bool = False,
) -> Diagnosis:
    record = parameters.record
    at_start = bool(rng.random() < record.stamped_at_start)
    delay = int(rng.uniform(0, record.billing_days) * DAY_S)
    recorded = visit.start if at_start else quiet(min(visit.end + delay, max(end - 2 * HOUR_S, visit.start)))
    return Diagnosis(leaf, symptom, visit.number, recorded, bool(rng.random() < record.date_only), at_start, again)


def _codes_again(
    parameters: Parameters,
    model: Model,
    known: list[Diagnosis],
    visits: list[Visit],
    end: int,
    rng: np.random.Generator,
) -> list[Diagnosis]:
    """Chronic conditions coded again; at a scan's own encounter only those that no picture shows."""
    chronic = [d for d in known if model.leaves[d.leaf].chronic]
    more = []
    for visit in visits:
        pool = [d.leaf for d in chronic if d.recorded < visit.start]
        if visit.scan >= 0:
            pool = [leaf for leaf in pool if model.leaves[leaf].kind in ("clinical", "null")]
        coded = [leaf for leaf in pool if rng.random() < parameters.record.recode]
        for leaf in coded[: parameters.record.recode_limit]:
            more.append(_diagnose(parameters, leaf, visit, end, rng, again=True))
    return more


def _symptoms(parameters: Parameters, visits: list[Visit], end: int, rng: np.random.Generator) -> list[Diagnosis]:
    found = []
    for visit in visits:
        if rng.random() < (SYMPTOM_AT_SCAN if visit.scan >= 0 else SYMPTOM_AT_VISIT):
            symptom = SYMPTOMS[int(rng.integers(len(SYMPTOMS)))]
            found.append(_diagnose(parameters, NEVER, visit, end, rng, symptom=symptom))
    return found


def _code(parameters: Parameters, history: History) -> None:
    """Draw how each diagnosis is coded."""
    rng = stream(parameters.seed, history.person.index, Stage.CODES)
    shares = parameters.coding
    bounds = np.cumsum([shares.both, shares.one, shares.local])
    places = np.searchsorted(bounds, rng.random(len(history.diagnoses)), side="right")
    for diagnosis, place in zip(history.diagnoses, places, strict=True):
        diagnosis.form = CODING_FORMS[place]


def _after_death(parameters: Parameters, history: History, rng: np.random.Generator) -> None:
    """A late entry of the billing office: loaded, and never an outcome."""
    late = history.death + int(rng.uniform(5, 55) * DAY_S)
    if history.death == NEVER or rng.random() >= parameters.cohort.after_death:
        return
    if late < wall(parameters.calendar.cut):
        day = late // DAY_S * DAY_S + 10 * HOUR_S
        history.diagnoses.append(Diagnosis(NEVER, SYMPTOMS[0], NEVER, day, True, False, True))
