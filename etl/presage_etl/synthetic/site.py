"""site.toml: what the site would declare; it becomes the workspace's platform.toml."""

from __future__ import annotations

from presage_etl.synthetic.identifiers import (
    ACCESSION_ISSUER,
    ACCESSION_SYSTEM,
    BASE_URL,
    DEMO_SYSTEM,
    LOCAL_SYSTEM,
    MRN_SYSTEM,
    PATIENT_ISSUER,
)
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.vocabulary import DEMO

FEWEST_EVENTS, PERSONS_AN_EVENT = 3, 40
"""A small hospital has few events: a task then needs one event in forty persons, and never fewer than three."""

SITE = """# Settings of a synthetic hospital (synthetic: true).

[etl]
bases = ["{base}"]

[etl.policies]
timezone = "{zone}"

[etl.code_systems."{demo_system}"]
vocabularies = ["{demo}"]

[etl.code_systems."{local_system}"]
local = "SYNTH_LOCAL"

[etl.cdm_source]
name = "Synthetic hospital"
abbreviation = "synthetic"
holder = "presage demonstration"

[link.issuers]
"{patient_issuer}" = "{mrn_system}"
"{accession_issuer}" = "{accession_system}"

[imaging]
recipes = ["tiny"]

[labeling]
k = {k}
min_events = {min_events}

[eval]
synthetic = true
"""


def site_toml(parameters: Parameters) -> str:
    """Return the text of site.toml."""
    return SITE.format(
        base=BASE_URL,
        zone=parameters.calendar.zone,
        demo_system=DEMO_SYSTEM,
        demo=DEMO,
        local_system=LOCAL_SYSTEM,
        patient_issuer=PATIENT_ISSUER,
        mrn_system=MRN_SYSTEM,
        accession_issuer=ACCESSION_ISSUER,
        accession_system=ACCESSION_SYSTEM,
        k=parameters.labeling.k,
        min_events=min_events(parameters),
    )


def min_events(parameters: Parameters) -> int:
    """Events that a task needs in a hospital of this size."""
    return max(FEWEST_EVENTS, min(parameters.labeling.min_events, parameters.patients // PERSONS_AN_EVENT))
