"""What the scanner adds to a picture, and whom it is drawn for (rule S25)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, pearsonr

from presage_etl.synthetic.lives.latents import gaussian_of, natural
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import parse_confound, read_parameters
from presage_etl.synthetic.pictures.anatomy import PLAIN, draw_anatomy
from presage_etl.synthetic.pictures.detector import Detector, expose
from presage_etl.synthetic.pictures.grid import Grid, centred
from presage_etl.synthetic.pictures.scanner import Acquisition, draw_acquisition
from presage_etl.synthetic.streams import Stage, stream
from presage_platform.errors import UsageError
from tests.lib.synthetic import make, truth

WATER = 0.0
COARSE = centred((4.0, 4.0, 6.5), (96, 96, 32), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
NATIVE = centred((0.7, 0.7, 5.0), (256, 256, 4), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CLEAN = Detector(noise_hu=15.0, blur_mm=0.8, cup_hu=0.0, ring_share=0.0, ring_seed=1)


@cache
def acquisitions(number: int = 400) -> list[Acquisition]:
    parameters = read_parameters("small", grid=(96, 96, 48))
    return [draw_acquisition(parameters, index, 0, male=True) for index in range(number)]


def exposed(detector: Detector, grid: Grid, hu: float = WATER) -> NDArray[np.float64]:
    """A uniform block of tissue."""
    volume = np.full(grid.size[::-1], hu, dtype=np.float32)
    anatomy = draw_anatomy(stream(1, 1, Stage.GEOMETRY), male=True, contrast=PLAIN)
    return expose(volume, detector, anatomy, grid, stream(1, 1, Stage.NOISE)).astype(np.float64)


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("grid", [COARSE, NATIVE], ids=["coarse", "native"])
def test_s25_noise_in_uniform_tissue_has_the_sd_of_its_kernel(grid: Grid, *, sharp: bool) -> None:
    low, high = (30, 60) if sharp else (12, 20)
    drawn = [one.detector for one in acquisitions() if one.sharp == sharp]
    assert all(low <= one.noise_hu <= high for one in drawn)
    for detector in drawn[:3]:
        blur = max(0.4 if sharp else 0.8, (0.3 if sharp else 0.45) * grid.spacing[0])
        measured = exposed(replace(detector, blur_mm=blur, cup_hu=0.0), grid).std()
        assert measured == pytest.approx(detector.noise_hu, rel=0.03)


def test_s25_noise_is_correlated_as_the_blur_of_its_kernel_makes_it() -> None:
    """White noise through a Gaussian of sd s pixels: neighbours correlate by exp(-1 / (4 s^2)) where s is not small."""

    def neighbours(detector: Detector, grid: Grid, axis: int) -> float:
        noise = exposed(detector, grid)
        one, other = (
            np.take(noise, range(noise.shape[axis] - 1), axis),
            np.take(noise, range(1, noise.shape[axis]), axis),
        )
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    sd = CLEAN.blur_mm / NATIVE.spacing[0]
    for axis in (1, 2):
        assert neighbours(CLEAN, NATIVE, axis) == pytest.approx(np.exp(-1 / (4 * sd**2)), abs=0.02)
    assert abs(neighbours(CLEAN, NATIVE, 0)) < 0.01  # slices are exposed one after the other
    soft, sharp = replace(CLEAN, blur_mm=0.45 * 4.0), replace(CLEAN, blur_mm=0.3 * 4.0)
    assert neighbours(soft, COARSE, 2) > 0.12
    assert neighbours(sharp, COARSE, 2) < 0.05


def test_s25_an_edge_is_blurred_and_no_mass_is_lost() -> None:
    volume = np.full(NATIVE.size[::-1], -1000.0, dtype=np.float32)
    volume[:, :, 128:] = 0.0
    anatomy = draw_anatomy(stream(1, 1, Stage.GEOMETRY), male=True)
    silent = replace(CLEAN, noise_hu=0.0)
    seen = expose(volume, silent, anatomy, NATIVE, stream(1, 1, Stage.NOISE)).astype(float)
    assert seen[0, 100, 120:136].tolist() == sorted(seen[0, 100, 120:136])
    rise = np.diff(seen[0, 100])
    middle = np.average(np.arange(len(rise)), weights=rise)
    sd = np.sqrt(np.average((np.arange(len(rise)) - middle) ** 2, weights=rise)) * NATIVE.spacing[0]
    assert sd == pytest.approx(silent.blur_mm, rel=0.05)
    assert seen.mean() == pytest.approx(volume.mean(), abs=0.5)


def test_s25_the_cup_is_mild_and_spares_air() -> None:
    cupped = replace(CLEAN, noise_hu=0.0, cup_hu=8.0)
    seen = exposed(cupped, COARSE)
    assert seen.min() == -8
    assert seen[0, 0, 0] == 0
    assert exposed(cupped, COARSE, hu=-1000.0).min() == -1000
    assert all(3 <= one.detector.cup_hu <= 9 for one in acquisitions())


def test_s25_rings_have_a_thousandth_of_the_attenuation_and_turn_about_the_axis() -> None:
    ringed = replace(CLEAN, noise_hu=0.0, ring_share=0.001)
    bone = exposed(ringed, COARSE, hu=1000.0) - 1000
    assert bone.std() == pytest.approx(2.0, rel=0.35)  # of an attenuation of 2000
    np.testing.assert_array_equal(bone[0], bone[-1])
    np.testing.assert_array_equal(bone[0], bone[0].T)
    assert all(one.detector.ring_share == 0.001 for one in acquisitions())


def test_s25_scanner_kernel_and_contrast_know_nothing_of_the_latents() -> None:
    parameters = read_parameters("small")
    persons = [draw_person(parameters, index) for index in range(600)]
    made = [draw_acquisition(parameters, one.index, 0, male=one.male, biomarkers=one.biomarkers) for one in persons]
    latent = np.array([np.concatenate([one.z, one.u]) for one in persons])
    for name in ("sharp", "contrast", "feet_first"):
        drawn = np.array([getattr(one, name) for one in made], dtype=float)
        assert min(pearsonr(drawn, column).pvalue for column in latent.T) > 0.001, name
    scanners = np.unique([one.manufacturer for one in made], return_inverse=True)[1]
    for column in latent.T:
        table = np.histogram2d(scanners, column > np.median(column), bins=(4, 2))[0]
        assert chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize(("latent", "kept"), [(1, 0.734), (2, 0.0)])
def test_s25_a_planted_shortcut_has_the_correlation_that_was_asked_for_and_nothing_else(
    latent: int, kept: float
) -> None:
    plain = read_parameters("small")
    planted = read_parameters("small", scanner={"confound": f"siemens=z{latent}:0.8"})
    persons = [draw_person(plain, index) for index in range(1500)]
    made = [draw_acquisition(planted, one.index, 0, male=one.male, biomarkers=one.biomarkers) for one in persons]
    is_siemens = np.array([one.manufacturer == "SIEMENS" for one in made])
    assert is_siemens.mean() == pytest.approx(0.25, abs=0.045)
    z = np.array([gaussian_of(one.biomarkers) for one in persons])[:, latent - 1]
    if kept:  # a normal variable cut at its upper quarter keeps this share of a correlation
        assert np.corrcoef(is_siemens, z)[0, 1] == pytest.approx(0.8 * kept, abs=0.05)
    else:  # six in ten show nothing at all; the others go with the scanner
        assert is_siemens[z > z.min()].mean() > 4 * is_siemens[z == z.min()].mean()
    for one, shortcut in zip(persons[:50], made[:50], strict=True):
        without = draw_acquisition(plain, one.index, 0, male=one.male)
        assert (without.grid, without.anatomy, without.stored) == (shortcut.grid, shortcut.anatomy, shortcut.stored)


def test_s25_a_shortcut_is_told_in_truth_and_in_the_summary(tmp_path: Path) -> None:
    hospital = make(tmp_path / "confounded", patients=4, scanner={"confound": "philips=z5:-0.5"})
    assert {row["confound"] for row in truth(hospital, "scans")} == {"philips=z5:-0.5"}
    summary = json.loads((hospital / "synth.json").read_text())
    assert summary["parameters"]["scanner"]["confound"] == "philips=z5:-0.5"


def test_s25_gaussians_are_found_again_from_their_biomarkers() -> None:
    gaussian = np.array([[0.3, 1.1, -0.7, 0.9, -1.2, 1.0, 1.4, 0.2]])
    np.testing.assert_allclose(
        gaussian_of(natural(gaussian)[0])[[0, 1, 2, 3, 4, 6, 7]], gaussian[0][[0, 1, 2, 3, 4, 6, 7]], atol=0.01
    )


@pytest.mark.parametrize("text", ["siemens", "acme=z1:0.8", "siemens=z9:0.8", "siemens=z1:1.5", "siemens=u1:0.5"])
def test_s55_a_shortcut_that_cannot_be_read_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"siemens=z1:0\.8"):
        read_parameters("small", scanner={"confound": text})
    assert parse_confound("") is None
