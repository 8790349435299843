"""Concordance and curves against published numbers and against scikit-survival, lifelines and scikit-learn.

The data sets ship inside the wheels of scikit-survival and lifelines; nothing is downloaded. Train equals test for G.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from presage_modeling.evaluation import pairs
from presage_modeling.evaluation.curves import censoring_distribution, cumulative_incidence, kaplan_meier
from presage_modeling.evaluation.outcome import Outcome

Data = tuple[Outcome, NDArray[np.float64]]


def load(name: str) -> Data:
    from sksurv import datasets

    risk_of = {
        "whas500": lambda x: x["age"],
        "gbsg2": lambda x: x["pnodes"],
        "veteran": lambda x: -x["Karnofsky_score"],
        "flchain": lambda x: x["age"],
    }
    loaders: dict[str, Any] = {
        "whas500": datasets.load_whas500,
        "gbsg2": datasets.load_gbsg2,
        "veteran": datasets.load_veterans_lung_cancer,
        "flchain": datasets.load_flchain,
    }
    x, y = loaders[name]()
    event_field, time_field = y.dtype.names
    outcome = Outcome(y[time_field].astype(float), y[event_field].astype(np.uint8))
    return outcome, risk_of[name](x).to_numpy(dtype=np.float64)


HARRELL = [
    ("whas500", 0.7312339485555364, 0.0177080535, (54226, 19472, 1451)),
    ("gbsg2", 0.6452446795719611, 0.0163773813, (78870, 40214, 13988)),
    ("veteran", 0.7092798727850976, 0.0225587172, (5674, 1989, 1141)),
    ("flchain", 0.7788174282612096, 0.0051147607, (10313790, 2832892, 268724)),
]


@pytest.mark.parametrize(("name", "expected", "error", "counts"), HARRELL, ids=[row[0] for row in HARRELL])
def test_v76_harrell_c_its_error_and_its_pairs(
    name: str, expected: float, error: float, counts: tuple[int, int, int]
) -> None:
    outcome, risk = load(name)
    statistic = pairs.harrell(outcome, risk)
    assert statistic.estimate() == pytest.approx(expected, abs=1e-12)
    assert statistic.standard_error(np.arange(len(outcome))) == pytest.approx(error, abs=1e-9)
    concordant, comparable, _, _ = statistic.sums()
    won, lost, tied = counts
    assert comparable == won + lost + tied
    assert concordant == won + tied / 2


UNO = [
    ("whas500", 365.0, 0.7294446037341249),
    ("gbsg2", 1825.0, 0.6298304981001723),
    ("veteran", 180.0, 0.7087769941375165),
    ("flchain", 3650.0, 0.779517459861096),
]


@pytest.mark.parametrize(("name", "tau", "expected"), UNO, ids=[row[0] for row in UNO])
def test_v17_uno_c(name: str, tau: float, expected: float) -> None:
    outcome, risk = load(name)
    assert pairs.uno(outcome, risk, censoring_distribution(outcome), tau).estimate() == pytest.approx(
        expected, abs=1e-10
    )


AUC = [
    ("whas500", 30.0, 0.736762900479189),
    ("whas500", 365.0, 0.7659540395548082),
    ("gbsg2", 730.0, 0.675958486539255),
    ("veteran", 180.0, 0.7123386095772744),
    ("flchain", 1825.0, 0.794915408465895),
]


@pytest.mark.parametrize(("name", "horizon", "expected"), AUC)
def test_v19_auc_at_a_horizon(name: str, horizon: float, expected: float) -> None:
    outcome, risk = load(name)
    found = pairs.auc_at(outcome, risk, censoring_distribution(outcome), horizon).estimate()
    assert found == pytest.approx(expected, abs=1e-10)


def test_v17_uno_weights_come_from_train() -> None:
    from sksurv.metrics import concordance_index_ipcw

    outcome, risk = load("flchain")
    train, test = outcome.take(np.arange(0, len(outcome), 2)), outcome.take(np.arange(1, len(outcome), 2))
    test_risk = risk[1::2]
    expected = concordance_index_ipcw(train.survival(), test.survival(), test_risk, tau=3000.0)[0]
    found = pairs.uno(test, test_risk, censoring_distribution(train), 3000.0).estimate()
    assert found == pytest.approx(expected, abs=1e-10)
    assert found != pairs.uno(test, test_risk, censoring_distribution(test), 3000.0).estimate()


SURVIVAL = [
    ("whas500", 365.0, 0.724),
    ("gbsg2", 1825.0, 0.4916448702940053),
    ("veteran", 180.0, 0.22241141369914624),
    ("flchain", 3650.0, 0.7650465098523478),
]


@pytest.mark.parametrize(("name", "time", "expected"), SURVIVAL, ids=[row[0] for row in SURVIVAL])
def test_v77_kaplan_meier(name: str, time: float, expected: float) -> None:
    outcome, _ = load(name)
    assert float(kaplan_meier(outcome).at(time)) == pytest.approx(expected, abs=1e-12)


def test_v77_aalen_johansen_of_the_transplant_data() -> None:
    from sksurv.datasets import load_bmt
    from sksurv.nonparametric import cumulative_incidence_competing_risks

    _, y = load_bmt()
    event_field, time_field = y.dtype.names
    cause = y[event_field].astype(np.int64)
    first = Outcome(y[time_field].astype(float), cause.astype(np.uint8))
    second = Outcome(y[time_field].astype(float), np.array([0, 2, 1], dtype=np.uint8)[cause])
    assert cumulative_incidence(first).at(np.array([5.0, 10.0, 20.0])) == pytest.approx(
        [0.20492611, 0.23771164, 0.27283899], abs=1e-8
    )
    assert cumulative_incidence(second).at(np.array([5.0, 10.0, 20.0])) == pytest.approx(
        [0.1757917, 0.34076015, 0.41101485], abs=1e-8
    )
    times, _, limits = cumulative_incidence_competing_risks(
        cause, y[time_field], conf_level=0.95, conf_type="log-log", var_type="Aalen"
    )
    ours = [cumulative_incidence(first).interval_at(float(time)) for time in times[3:40]]
    theirs = np.sort(limits[1][:, 3:40].T, axis=1)
    assert np.sort(ours, axis=1) == pytest.approx(theirs, abs=1e-6)


def test_v16_censoring_distribution_is_that_of_scikit_survival() -> None:
    from sksurv.nonparametric import CensoringDistributionEstimator

    outcome, _ = load("veteran")
    theirs = CensoringDistributionEstimator().fit(outcome.survival())
    times = np.unique(outcome.time_days)
    ours = censoring_distribution(outcome)
    positive = ours.at(times) > 0
    assert ours.at(times)[positive] == pytest.approx(theirs.predict_proba(times)[positive], abs=1e-12)


def test_v80_auroc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    outcome, risk = load("whas500")
    label = outcome.window(365.0)
    known = label >= 0
    found = pairs.auroc(outcome, risk, 365.0).estimate()
    assert found == pytest.approx(roc_auc_score(label[known], risk[known]), abs=1e-12)


def test_v79_lifelines_agrees_on_its_own_data() -> None:
    from lifelines.datasets import load_rossi
    from lifelines.utils import concordance_index

    rossi = load_rossi()
    outcome = Outcome(rossi["week"].to_numpy(float), rossi["arrest"].to_numpy(np.uint8))
    risk = rossi["prio"].to_numpy(float)
    expected = concordance_index(rossi["week"], -risk, rossi["arrest"])
    assert pairs.harrell(outcome, risk).estimate() == pytest.approx(expected, abs=1e-12)
