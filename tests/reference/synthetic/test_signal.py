"""What the picture shows and what it hides, by gradient boosting on simple features (rule S44e)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import read_parameters
from tests.lib.synthetic import volume_of

Floats = NDArray[np.float64]

NUM_PICTURES = 600
FITTED = 450
EDGES_HU = np.array([-960, -920, -880, -820, -700, -500, -200, -50, 5, 28, 48, 70, 130, 220, 400])
SHOWN = (1, 2, 3, 5)


def features(volume_zyx: NDArray[np.int16]) -> Floats:
    """Two hundred: shares of Hounsfield bands in all and by half, soft tissue on a grid of the middle, and its core."""
    bands = np.digitize(volume_zyx, EDGES_HU).astype(np.uint8)
    found: list[float] = []
    for part in (bands, *np.array_split(bands, 2)):
        found += list(np.bincount(part.ravel(), minlength=len(EDGES_HU) + 1) / part.size)
    rows, columns = volume_zyx.shape[1:]
    middle = volume_zyx[:, rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4] > -20
    for slab in np.array_split(middle, 8):
        for band in np.array_split(slab, 4, axis=1):
            found += [float(block.mean()) for block in np.array_split(band, 4, axis=2)]
    core = volume_zyx[:, rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3]
    for slab in np.array_split(core, 12):
        found += [float((slab > 20).mean()), float((slab > 100).mean())]
    return np.array(found)


@pytest.fixture(scope="module")
def pictures() -> tuple[Floats, Floats, Floats]:
    """Features, scores of what is shown, and the invisible latents, at the grid of the demonstration."""
    parameters = read_parameters("demo")
    persons = [person for index in range(NUM_PICTURES + 60) if (person := draw_person(parameters, index)).scans]
    persons = persons[:NUM_PICTURES]
    found = np.stack([features(volume_of(parameters, person)) for person in persons])
    return found, np.array([p.scans[0].score for p in persons]), np.array([p.u for p in persons])


def explained(found: Floats, wanted: Floats, **settings: float) -> float:
    """R² on pictures that the model has not seen."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(random_state=0, **settings).fit(found[:FITTED], wanted[:FITTED])
    seen = wanted[FITTED:]
    return float(1 - np.mean((seen - model.predict(found[FITTED:])) ** 2) / seen.var())


@pytest.mark.slow
def test_s44e_simple_features_foretell_the_visible_latents(pictures: tuple[Floats, Floats, Floats]) -> None:
    found, z, _ = pictures
    assert found.shape == (NUM_PICTURES, 200)
    shown = {
        place: explained(found, z[:, place - 1], max_iter=120, learning_rate=0.07, max_leaf_nodes=8) for place in SHOWN
    }
    print("S44e: R² of " + ", ".join(f"z{place} {value:.3f}" for place, value in shown.items()))
    assert min(shown.values()) >= 0.5


@pytest.mark.slow
def test_s44e_nothing_in_the_picture_tells_the_invisible_latents(pictures: tuple[Floats, Floats, Floats]) -> None:
    found, _, u = pictures
    hidden = [explained(found, u[:, n], max_iter=30, learning_rate=0.05, max_leaf_nodes=6) for n in range(4)]
    print("S44e: R² of " + ", ".join(f"u{n + 1} {value:.3f}" for n, value in enumerate(hidden)))
    assert max(hidden) < 0.02
