"""Random streams: each person (or study) and each stage has its own, so that nothing depends on the order of work."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class Stage(IntEnum):
    """Fixed numbers: a new stage takes a new number and never changes another's draws."""

    DEMOGRAPHY = 1
    LATENTS = 2
    SCANS = 3
    ONSETS = 4
    VISITS = 5
    RECORDING = 6
    LABS = 7
    DRUGS = 8
    CODING = 9
    DRIFT = 10
    GEOMETRY = 11
    NOISE = 12
    SCANNER = 13
    NAMES = 14
    LEAVES = 20
    REFERENCE = 21
    ORACLE = 22
    CEILING = 23
    SITE = 24
    PLANTED_FHIR = 38
    CODES = 30
    DATES = 31
    CARE = 32
    REFERENCES = 33
    BUNDLES = 34
    REFILLS = 40
    LEAF_RECORDING = 41
    STORAGE = 42
    DETECTOR = 43
    SHORTCUT = 44
    PLANTED_DICOM = 50
    TIMELINE = 60
    ONTOLOGY = 61
    SAMPLE = 62
    DERIVED = 63
    STRENGTH = 64


def stream(seed: int, index: int, stage: Stage, *within: int) -> np.random.Generator:
    """Return the generator of one person in one stage; `within` tells their scans apart."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, int(stage), *within])))
