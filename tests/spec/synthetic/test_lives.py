"""Persons, latents, onsets, visits and recording (rules S4, S6 to S17, S19)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from presage_etl.synthetic.clock import DAY_S, YEAR_S, wall
from presage_etl.synthetic.lives.events import NEVER, History, label_time
from presage_etl.synthetic.lives.hazards import Model, build_model
from presage_etl.synthetic.lives.latents import draw_gaussians, natural, score
from presage_etl.synthetic.parameters import Parameters, read_parameters
from presage_etl.synthetic.streams import Stage, stream
from tests.lib.synthetic import best_linear_auroc, lives

NUM_LIVES = 700


@cache
def dense() -> tuple[Parameters, Model, list[History]]:
    return lives("demo", NUM_LIVES)


def test_s6_age_sex_and_unknown_race_follow_their_law() -> None:
    _, _, histories = dense()
    ages = np.array([history.person.age for history in histories])
    assert 18 <= ages.min() <= ages.max() <= 95
    assert abs(ages.mean() - 60.5) < 2
    assert abs(np.mean([history.person.male for history in histories]) - 0.5) < 0.06
    assert 0.02 < np.mean([not history.person.races for history in histories]) < 0.11


def test_s7_biomarkers_keep_their_ranges_zeros_and_correlations() -> None:
    parameters = read_parameters("demo")
    rng = stream(3, 0, Stage.LATENTS)
    biomarkers = natural(draw_gaussians(parameters, rng, rng.standard_normal(20_000)))
    low = np.array([0.38, 0, 0, 0, 21, 0, 0, 0.6])
    high = np.array([0.70, 1500, 45, 3000, 44, 12, 600, 1.4])
    assert np.all(biomarkers >= low - 1e-9)
    assert np.all(biomarkers <= high + 1e-9)
    np.testing.assert_allclose((biomarkers == 0).mean(axis=0)[[1, 3, 6]], [0.6, 0.4, 0.7], atol=0.02)
    np.testing.assert_allclose(np.median(biomarkers, axis=0)[[0, 2, 4]], [0.48, 3.0, 27.0], rtol=0.05)
    correlation = np.corrcoef(score(biomarkers).T)
    assert correlation[0, 1] > 0.2
    assert correlation[2, 4] > 0.15


def test_s9_scores_have_mean_zero_and_unit_deviation() -> None:
    rng = stream(4, 0, Stage.LATENTS)
    scores = score(natural(rng.standard_normal((50_000, 8))))
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.02)


def test_s8_invisible_latents_are_independent_of_age_and_of_the_visible_ones() -> None:
    _, _, histories = dense()
    u = np.array([history.person.u for history in histories])
    others = np.array([[*history.person.z, history.person.age] for history in histories])
    correlation = np.corrcoef(u.T, others.T)[:4, 4:]
    assert np.abs(correlation).max() < 4.5 / np.sqrt(NUM_LIVES)


def test_s10_base_rates_give_the_stated_one_year_risks() -> None:
    parameters, model, histories = dense()
    scale = parameters.hazard.onset_rate_scale
    stated, seen = [], []
    for leaf in range(len(model.leaves)):
        at_risk = [h for h in histories if h.onset[leaf] > h.person.index_time]
        seen.append(np.mean([h.onset[leaf] <= h.person.index_time + YEAR_S for h in at_risk]))
        stated.append(1 - (1 - model.leaves[leaf].risk) ** scale)
    error = np.abs(np.array(seen) - stated) / np.sqrt(np.array(stated) / NUM_LIVES)
    assert error.mean() < 1.2
    assert error.max() < 5


def test_s11_conditions_and_death_are_associated_by_shared_latents_alone() -> None:
    """What the latents do not explain of one onset says nothing about another, though the onsets go together."""
    _, model, histories = dense()
    people = [history.person for history in histories]
    z, u = np.array([person.z for person in people]), np.array([person.u for person in people])
    age, male = np.array([person.age for person in people]), np.array([float(person.male) for person in people])
    years = np.array([(history.onset - history.person.origin) / YEAR_S for history in histories])
    unit = np.exp(model.log_rate + model.predictor(z, u, age, male)) * years**model.kappa  # exponential, mean 1
    followed = np.array([history.end - history.person.index_time for history in histories]) / YEAR_S
    died = np.array([history.death != NEVER and history.death <= history.end for history in histories])
    deaths = died - np.exp(model.death_log_rate + model.death_predictor(z, u, age)) * followed
    correlation = np.corrcoef(np.column_stack([np.log(unit), deaths]).T)
    unexplained = correlation[np.triu_indices(len(model.leaves) + 1, 1)]
    assert abs(unexplained.mean()) < 0.002
    assert np.abs(unexplained).max() < 6 / np.sqrt(NUM_LIVES)
    assert np.abs(correlation[-1, :-1]).max() < 4 / np.sqrt(NUM_LIVES)  # deaths
    visible = [place for place, leaf in enumerate(model.leaves) if leaf.kind == "visible"]
    seen = np.corrcoef(np.log(years[:, visible]).T)[np.triu_indices(len(visible), 1)]
    assert np.abs(seen).max() > 0.3


def test_s12_the_named_conditions_have_their_codes_and_four_fifths_of_the_others_carry_signal() -> None:
    model = build_model(read_parameters("demo"))
    known = {leaf.name: (leaf.concept_id, leaf.snomed, leaf.icd10) for leaf in model.leaves}
    assert known["pleural_effusion"] == (254061, "60046008", "J90")
    assert known["heart_failure"] == (316139, "84114007", "I50.9")
    assert known["lung_consolidation"] == (4318404, "95436008", None)
    further = [place for place, leaf in enumerate(model.leaves) if leaf.name.startswith("leaf_")]
    assert len(further) == 240
    norms = np.linalg.norm(model.beta[further], axis=1)
    assert np.mean(norms > 0) == pytest.approx(0.8, abs=0.01)
    scaled = norms / read_parameters("demo").hazard.visible_scale
    assert np.all((norms == 0) | ((scaled > 0.79) & (scaled < 1.21)))
    assert np.count_nonzero(model.beta[further], axis=1).max() <= 3


def test_s13_nothing_is_recorded_before_it_began_and_labels_see_the_recorded_time() -> None:
    _, model, histories = dense()
    delays = []
    for history in histories[:200]:
        first = history.first_recorded(len(model.leaves))
        for leaf in np.flatnonzero(first != NEVER):
            # A day without a time begins at midnight, and a code may be stamped at the start of its visit.
            assert first[leaf] >= history.onset[leaf] // DAY_S * DAY_S
            delays.append(first[leaf] - history.onset[leaf])
    assert 10 * DAY_S < np.median(delays) < 150 * DAY_S


def test_s13_onsets_bring_an_encounter_within_two_days_or_wait_for_a_routine_visit() -> None:
    """Shares of each leaf lie in the range of the rule by default; a dense preset thins the encounters."""
    model = build_model(read_parameters("small"))
    acute = np.array([leaf.acute for leaf in model.leaves])
    further = [place for place, leaf in enumerate(model.leaves) if leaf.name.startswith("leaf_")]
    assert 0.199 <= acute.min() <= acute.max() <= 0.901
    assert np.ptp(acute[further]) > 0.4
    assert np.ptp([model.leaves[place].coded for place in further]) > 0.05
    _, model, histories = lives("small", 300)
    soon = {place: [] for place in range(len(model.leaves))}  # type: dict[int, list[bool]]
    for history in histories:
        first = history.first_recorded(len(model.leaves))
        for leaf in np.flatnonzero(history.onset < history.end - 100 * DAY_S):
            lag = first[leaf] - history.onset[leaf]
            soon[int(leaf)].append(bool(first[leaf] != NEVER and lag < 17 * DAY_S))  # two days and the billing
    many = [place for place, flags in soon.items() if len(flags) > 40]
    seen = np.array([np.mean(soon[place]) for place in many])
    assert np.corrcoef(seen, acute[many])[0, 1] > 0.7
    assert np.abs(seen - acute[many]).mean() < 0.15


def test_s13_chronic_conditions_are_coded_again_and_acute_ones_never() -> None:
    _, model, histories = lives("small", 200)
    again = [d for history in histories for d in history.diagnoses if d.again and d.leaf != NEVER]
    assert len(again) > 100
    assert all(model.leaves[d.leaf].chronic for d in again)


def test_s14_codes_are_stamped_at_the_start_or_billed_after_the_end_of_their_visit() -> None:
    parameters, _, histories = dense()
    at_start, stamped = 0, 0
    for history in histories[:200]:
        visits = {visit.number: visit for visit in history.visits}
        for diagnosis in history.diagnoses:
            if diagnosis.visit == NEVER:
                continue
            visit = visits[diagnosis.visit]
            stamped += 1
            at_start += diagnosis.at_start
            assert visit.start <= diagnosis.recorded <= visit.end + 15 * DAY_S
            assert not diagnosis.at_start or diagnosis.recorded == visit.start
    assert at_start / stamped == pytest.approx(parameters.record.stamped_at_start, abs=0.03)


def test_s15_the_record_ends_with_death_loss_or_the_cut() -> None:
    parameters, _, histories = dense()
    cut = wall(parameters.calendar.cut) + DAY_S
    for history in histories:
        assert history.end < cut
        assert all(visit.end <= max(history.end, visit.start + YEAR_S * (visit.scan >= 0)) for visit in history.visits)
        late = [d for d in history.diagnoses if label_time(d) > history.end]
        assert len(late) <= 1  # the billing office, after a death
        assert all(history.death != NEVER for _ in late)
    deaths = [h.death for h in histories if h.death != NEVER]
    assert 0.2 < len(deaths) / NUM_LIVES < 0.5


def test_s15_few_deaths_come_from_a_registry_few_events_after_death_and_some_records_end_with_the_scan() -> None:
    shares = []
    for preset in ("small", "demo"):
        _, _, histories = lives(preset, 1500)
        dead = [history for history in histories if history.death != NEVER]
        registry = np.mean([history.death > history.end for history in dead])
        late = np.mean([any(d.visit == NEVER for d in history.diagnoses) for history in histories])
        scanned = [history for history in histories if 0 in history.scan_visits]
        last = [max(label_time(d) for d in h.diagnoses) if h.diagnoses else 0 for h in scanned]
        ends = [max(h.visits[-1].start, time) for h, time in zip(scanned, last, strict=True)]
        none = np.mean([e <= h.person.index_time + DAY_S for e, h in zip(ends, scanned, strict=True)])
        shares.append((registry, late, none))
        print(
            f"{preset}: registry {registry:.4f} of deaths, after death {late:.4f}, no follow-up {none:.4f} of persons"
        )
    for registry, late, none in shares:
        assert registry == pytest.approx(0.02, abs=0.015)
        assert late == pytest.approx(0.01, abs=0.006)
        assert 0.02 < none < 0.06  # three per cent are cut short; death and loss within days add to them


def test_s16_about_a_quarter_of_visible_conditions_are_prevalent_at_the_scan() -> None:
    _, model, histories = dense()
    visible = [place for place, leaf in enumerate(model.leaves[:16]) if leaf.kind == "visible"]
    prevalent = np.mean([[h.onset[leaf] <= h.person.index_time for leaf in visible] for h in histories])
    print(f"prevalent share of the visible named conditions: {prevalent:.3f}")
    assert prevalent == pytest.approx(0.25, abs=0.05)


def test_s4_dense_presets_let_thirty_percent_of_visible_pairs_end_in_an_event() -> None:
    """Over the outcome tasks and all visible leaves: among pairs at risk at the scan."""
    _, model, histories = dense()
    visible = [place for place, leaf in enumerate(model.leaves) if leaf.kind == "visible"]
    events = at_risk = 0
    for history in histories:
        first = history.first_recorded(len(model.leaves))[visible]
        free = (first == NEVER) | (first > history.person.index_time)
        at_risk += int(free.sum())
        events += int((free & (first > 0) & (first <= history.end)).sum())
    assert events / at_risk >= 0.30


def test_s17_codes_of_the_scans_own_visit_are_nearly_blind_to_the_picture() -> None:
    _, model, histories = dense()
    scanned = [history for history in histories if 0 in history.scan_visits]
    scores = np.array([history.person.z for history in scanned])
    present: dict[str, list[bool]] = {}
    for row, history in enumerate(scanned):
        own = [d for d in history.diagnoses if d.visit == history.scan_visits[0]]
        for name in {d.symptom or model.leaves[d.leaf].name for d in own}:
            present.setdefault(name, [False] * len(scanned))[row] = True
    assert len(present) >= 5
    areas = {name: best_linear_auroc(scores, np.array(flags)) for name, flags in present.items() if sum(flags) >= 40}
    assert np.mean(list(areas.values())) <= 0.55
    assert max(areas.values()) <= 0.60


def test_s19_scans_are_a_month_apart_and_later_ones_show_a_small_drift() -> None:
    _, _, histories = dense()
    several = [history.person for history in histories if len(history.person.scans) > 1]
    assert several
    for person in several:
        times = [scan.t0 for scan in person.scans]
        assert np.diff(times).min() >= 29.5 * DAY_S
        assert np.array_equal(person.scans[0].biomarkers, person.biomarkers)
        assert not np.array_equal(person.scans[1].biomarkers, person.biomarkers)
    without = np.mean([not history.person.scanned for history in histories])
    assert 0.01 < without < 0.08
