"""The simulated law against independent tools: Cox, Kaplan-Meier, calibration, concordance, another seed (rule S44)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from presage_etl.synthetic.answers import ceilings, oracle
from presage_etl.synthetic.clock import DAY_S, YEAR_S
from presage_etl.synthetic.lives.events import NEVER, History, label_time
from presage_etl.synthetic.lives.hazards import Model, build_model, onset_years
from presage_etl.synthetic.lives.latents import draw_gaussians, natural, score
from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.streams import Stage, stream
from tests.lib.synthetic import best_linear_auroc, lives

Floats = NDArray[np.float64]

NUM_TIMELINES = 20_000
NUM_LIVES = 3000
NAMES = [f"z{n + 1}" for n in range(8)] + [f"u{n + 1}" for n in range(4)] + ["age", "male"]
WORST_NULL = 0.15
ENOUGH = 45  # persons with a code, or its AUROC is noise
OFTEN = 150


@cache
def real_lives() -> tuple[Parameters, Model, list[History]]:
    return lives("demo", NUM_LIVES)


def cox(covariates: Floats, time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Coefficients and standard errors by lifelines."""
    from lifelines import CoxPHFitter
    from pandas import DataFrame

    frame = DataFrame(covariates, columns=NAMES)
    frame["time"], frame["event"] = time, event
    fitted = CoxPHFitter().fit(frame, "time", "event")
    return fitted.params_[NAMES].to_numpy(), fitted.standard_errors_[NAMES].to_numpy()


@pytest.mark.slow
def test_s44a_cox_on_the_true_scores_recovers_every_coefficient() -> None:
    """Twenty thousand timelines; the interval is family-wise 99 % over all coefficients of all conditions."""
    from scipy.stats import norm

    parameters = read_parameters("small")
    model = build_model(parameters)
    rng = stream(11, 0, Stage.REFERENCE)
    age = np.clip(rng.normal(61, 15, NUM_TIMELINES), 18, 95)
    z = score(natural(draw_gaussians(parameters, rng, (age - 61) / 15)))
    u = rng.standard_normal((NUM_TIMELINES, 4))
    male = (rng.random(NUM_TIMELINES) < 0.5).astype(float)
    eta = model.predictor(z, u, age, male)
    covariates = np.column_stack([z, u, (age - 60) / 10, male])
    years = np.stack([onset_years(model, row, rng.exponential(size=len(row))) for row in eta])
    stop = rng.uniform(2, 7, NUM_TIMELINES)
    null = [place for place, leaf in enumerate(model.leaves) if leaf.kind == "null"]
    named = [place for place, leaf in enumerate(model.leaves) if not leaf.name.startswith("leaf_")]
    chosen = named + null
    limit = norm.isf(0.01 / 2 / ((len(chosen) + 1) * len(NAMES)))
    death = np.exp(model.death_log_rate + model.death_predictor(z, u, age))
    death_years = rng.exponential(size=NUM_TIMELINES) / death
    worst, worst_null = 0.0, 0.0
    for place in (*chosen, NEVER):
        time = death_years if place == NEVER else years[:, place]
        event = time <= stop
        found, error = cox(covariates, np.minimum(time, stop), event)
        wanted = (
            np.concatenate([model.death_beta, model.death_gamma, [model.death_age, 0.0]])
            if place == NEVER
            else np.concatenate([model.beta[place], model.gamma[place], [model.age[place], model.male[place]]])
        )
        worst = max(worst, float(np.abs((found - wanted) / error).max()))
        if place in null and event.sum() >= 500:
            worst_null = max(worst_null, float(np.abs(found[:8]).max()))
    print(f"S44a: {len(chosen) + 1} conditions x {len(NAMES)}: worst {worst:.2f} SE (limit {limit:.2f});", end=" ")
    print(f"worst null coefficient on z {worst_null:.3f} (limit {WORST_NULL})")
    assert worst < limit
    assert 0 < worst_null < WORST_NULL


def test_s44b_onsets_of_simulated_lives_follow_the_closed_form() -> None:
    """Every leaf, by the unit exponential that its cumulative hazard must be; and Kaplan-Meier under real censoring."""
    from lifelines import KaplanMeierFitter
    from scipy.stats import kstest

    _, model, histories = real_lives()
    exponential, follow = unit_times(model, histories)
    p = np.array([kstest(exponential[:, place], "expon").pvalue for place in range(len(model.leaves))])
    print(f"S44b: smallest KS p of {len(p)} leaves {p.min():.4f}; share below 0.05: {(p < 0.05).mean():.3f}")
    assert p[: len(read_parameters("demo").condition)].min() > 0.001
    assert kstest(p, "uniform").pvalue > 0.001  # over all leaves: as many small values as chance brings
    pooled, seen = np.minimum(exponential, follow).ravel(), (exponential <= follow).ravel()
    curve = KaplanMeierFitter().fit(pooled, seen)
    times = np.array([0.05, 0.1, 0.2, 0.5, 1.0])
    gap = np.abs(curve.survival_function_at_times(times).to_numpy() - np.exp(-times))
    print(f"S44b: Kaplan-Meier of {seen.sum():,} onsets, largest distance from the closed form {gap.max():.4f}")
    assert gap.max() < 0.006


def unit_times(model: Model, histories: list[History]) -> tuple[Floats, Floats]:
    """Cumulative hazard at the onset and at the end of each record: exponential, and its censoring."""
    z, u, age, male = people(histories)
    rate = np.exp(model.log_rate + model.predictor(z, u, age, male))
    years = np.array([(history.onset - history.person.origin) / YEAR_S for history in histories])
    end = np.array([[(history.end - history.person.origin) / YEAR_S] for history in histories])
    return rate * years**model.kappa, rate * end**model.kappa


def people(histories: list[History]) -> tuple[Floats, Floats, Floats, Floats]:
    persons = [history.person for history in histories]
    return (
        np.array([person.z for person in persons]),
        np.array([person.u for person in persons]),
        np.array([person.age for person in persons]),
        np.array([float(person.male) for person in persons]),
    )


@pytest.mark.parametrize("arm", oracle.ARMS)
def test_s44c_on_onset_labels_both_oracles_are_calibrated(arm: str) -> None:
    """Integrated calibration index at one year, and D-calibration of the closed-form survival."""
    parameters = read_parameters("demo")
    model = build_model(parameters)
    rng = stream(21, 0, Stage.REFERENCE)
    cohort = ceilings.draw_cohort(parameters, model, rng, 60_000)
    for condition in ("pleural_effusion", "heart_failure", "atelectasis"):
        onset = ceilings.label_cohort(parameters, model, cohort, condition, rng).onset
        rows = np.flatnonzero(onset.at_risk)
        known, outcome = cohort.known.rows(rows), onset.outcome.rows(rows)
        _, risk = oracle.risk_of(arm, model, condition, known)
        # Loss and cut know nothing of the hazards: those who could be followed for the year stand for all.
        kept = np.flatnonzero(cohort.stop[rows] >= 1.0)
        happened = (outcome.event & (outcome.time <= 1.0))[kept]
        index = calibration_index(risk[kept, 2], happened)
        print(f"S44c: {arm}, {condition}: ICI {index:.4f}", end="")
        assert index < 0.01
        if arm == "oracle_risk":
            rates = oracle.rates_given_all(model, condition, known)
            a = known.origin_years
            survival = np.exp(-rates.mu[:, 0] * ((a + outcome.time) ** model.kappa - a**model.kappa))
            p = d_calibration(survival, outcome.event)
            print(f", D-calibration p {p:.3f}", end="")
            assert p > 0.01
        print()


def calibration_index(risk: Floats, happened: NDArray[np.bool_]) -> float:
    """Mean distance between the risk and a smooth curve of what happened (logistic, cubic splines of the logit)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    logit = np.log(risk / (1 - risk))[:, None]
    smooth = make_pipeline(SplineTransformer(n_knots=4, knots="quantile"), LogisticRegression(C=1e4, max_iter=500))
    return float(np.abs(smooth.fit(logit, happened).predict_proba(logit)[:, 1] - risk).mean())


def d_calibration(survival: Floats, event: NDArray[np.bool_]) -> float:
    """Chi-square p of the survival at the event over ten bins; censored persons are spread below theirs (Haider 2020)."""
    from scipy.stats import chi2

    edges = np.linspace(0, 1, 11)
    count = np.histogram(survival[event], edges)[0].astype(float)
    for value in survival[~event]:
        upper = np.minimum(edges[1:], value)
        count += np.maximum(upper - edges[:-1], 0.0) / value
    expected = len(survival) / 10
    return float(chi2.sf(((count - expected) ** 2 / expected).sum(), 9))


@pytest.mark.slow
def test_s44c_the_oracles_rank_simulated_lives_as_the_ceilings_say() -> None:
    """The ceilings come from a quick simulation; whole lives with visits and billing must give the same concordance."""
    from sksurv.metrics import concordance_index_censored

    parameters, model, histories = real_lives()
    scanned = [history for history in histories if 0 in history.scan_visits]
    z, u, age, male = people(scanned)
    origin = np.array([(h.person.index_time - h.person.origin) / YEAR_S for h in scanned])
    known = oracle.Covariates(z, u, age, male, origin, np.zeros(len(scanned)))
    gaps: dict[str, list[tuple[float, float]]] = {"harrell_c": [], "harrell_c_onset": []}
    smaller = parameters.model_copy(update={"ceiling_persons": 40_000})
    for place, headline in enumerate(parameters.headline):
        _, rows = ceilings.score_headline(ceilings.CeilingTask(smaller, model, place))
        ceiling = {(row["arm"], row["metric"]): row for row in rows}
        predictor = oracle.predictor_of("oracle_risk", model, headline.condition, known)
        for metric, label in (("harrell_c", recorded), ("harrell_c_onset", onset_of)):
            if headline.condition == "death":
                continue
            time, event, at_risk = label(model, scanned, headline.condition)
            here = concordance_index_censored(event[at_risk], time[at_risk], predictor[at_risk])[0]
            there = ceiling["oracle_risk", metric]
            error = np.hypot(there["se"], 0.55 / np.sqrt(event[at_risk].sum()))
            gaps[metric].append((here - there["value"], error))
            print(f"S44c: {headline.task} {metric}: lives {here:.4f}, ceiling {there['value']:.4f}")
            assert abs(here - there["value"]) < 4 * error, headline.task
    for metric, pairs in gaps.items():
        mean, error = np.mean([gap for gap, _ in pairs]), np.sqrt(np.sum([e**2 for _, e in pairs])) / len(pairs)
        print(f"S44c: {metric}: mean difference {mean:+.4f} (SE {error:.4f})")
        assert abs(mean) < 3 * error


def onset_of(model: Model, histories: list[History], condition: str) -> Any:
    members = model.members(condition)
    first = np.array([min(h.onset[member] for member in members) - h.person.index_time for h in histories])
    end = np.array([h.end - h.person.index_time for h in histories])
    return np.minimum(first, end).astype(float), first <= end, (first > 0) & (end > 0)


def recorded(model: Model, histories: list[History], condition: str) -> Any:
    members = model.members(condition)
    first, end = [], []
    for history in histories:
        times = history.first_recorded(len(model.leaves))[members]
        first.append(min((t for t in times if t != NEVER), default=2**62) - history.person.index_time)
        last = max([visit.end for visit in history.visits] + [label_time(d) for d in history.diagnoses])
        alive = history.death == NEVER or history.death > history.end
        end.append((min(last, history.end) if alive else history.end) - history.person.index_time)
    when, stop = np.array(first), np.array(end)
    return np.minimum(when, stop).astype(float), when <= stop, (when > DAY_S) & (stop > DAY_S)


@pytest.mark.slow
def test_s44d_codes_of_the_scans_visit_say_little_where_later_events_say_much() -> None:
    parameters, model, histories = real_lives()
    scanned = [history for history in histories if 0 in history.scan_visits]
    scores = np.array([history.person.z for history in scanned])
    present: dict[str, NDArray[np.bool_]] = {}
    for row, history in enumerate(scanned):
        own = [d for d in history.diagnoses if d.visit == history.scan_visits[0]]
        for name in {d.symptom or model.leaves[d.leaf].name for d in own}:
            present.setdefault(name, np.zeros(len(scanned), dtype=np.bool_))[row] = True
    known = {name: flags for name, flags in present.items() if flags.sum() >= ENOUGH}
    areas = {name: best_linear_auroc(scores, flags) for name, flags in known.items()}
    # The standard error of an AUROC without signal is 1 / sqrt(12 n) for n persons with the code (Hanley 1982).
    clear = {name: areas[name] - 2 / np.sqrt(12 * flags.sum()) for name, flags in known.items()}
    often = {name: areas[name] for name, flags in known.items() if flags.sum() >= OFTEN}
    smaller = parameters.model_copy(update={"ceiling_persons": 40_000})
    visible = [place for place, headline in enumerate(parameters.headline) if headline.condition != "death"]
    found = [ceilings.score_headline(ceilings.CeilingTask(smaller, model, place))[1] for place in visible]
    c = [r["value"] for rows in found for r in rows if (r["arm"], r["metric"]) == ("oracle_image", "harrell_c")]
    print(f"S44d: {len(areas)} codes of the scan's visit: AUROC of the best linear score of z, mean", end=" ")
    print(f"{np.mean(list(areas.values())):.3f}, worst {max(areas.values()):.3f} ", end="")
    print(f"(of those of {OFTEN} persons or more {max(often.values()):.3f}); ", end="")
    print(f"later visible tasks: mean oracle C {np.mean(c):.3f} (worst {min(c):.3f})")
    assert len(areas) >= 5
    assert max(often.values()) <= 0.60
    assert max(clear.values()) <= 0.60
    assert np.mean(list(areas.values())) <= 0.55
    assert np.mean(c) >= 0.72


@pytest.mark.slow
def test_s44f_another_seed_moves_every_statistic_within_its_sampling_error() -> None:
    def statistics(seed: int) -> Floats:
        parameters = read_parameters("small", seed=seed)
        model = build_model(parameters)
        named = len(parameters.condition)
        from presage_etl.synthetic.lives.events import simulate
        from presage_etl.synthetic.lives.persons import draw_person

        rows = []
        for index in range(1000):
            history = simulate(parameters, model, draw_person(parameters, index))
            person = history.person
            years = (history.end - person.origin) / YEAR_S
            first = history.first_recorded(len(model.leaves))[:named]
            rows.append(
                [
                    person.age, person.male, *person.z, *person.u, person.z[0] * person.z[1], len(person.scans),
                    years, len(history.visits) / max(years, 0.1), history.death != NEVER,
                    (history.onset[:named] <= person.index_time).sum(), (first != NEVER).sum(),
                    (first > person.index_time).sum(),
                ]
            )  # fmt: skip
        return np.array(rows, dtype=float)

    one, two = statistics(101), statistics(202)
    gap = (one.mean(axis=0) - two.mean(axis=0)) / np.sqrt(one.var(axis=0) / len(one) + two.var(axis=0) / len(two))
    print(f"S44f: {len(gap)} statistics of two seeds: largest difference {np.abs(gap).max():.2f} SE")
    assert np.abs(gap).max() < 3.5
    assert np.sqrt((gap**2).mean()) < 1.5
    assert not np.array_equal(one, two)
