"""How a diagnosis is coded: with one code or two, with a code of the hospital's own, or in words alone (S35)."""

from __future__ import annotations

from presage_etl.synthetic.identifiers import ICD10CM, LOCAL_SYSTEM, SNOMED, SYSTEM_OF
from presage_etl.synthetic.lives.events import SYMPTOMS, Diagnosis
from presage_etl.synthetic.lives.hazards import Leaf
from presage_etl.synthetic.records.fhir import SYMPTOM_CODES, Json, coding, concept
from presage_etl.synthetic.records.vocabulary import coding_of


def leaf_concept(diagnosis: Diagnosis, leaf: Leaf, draw: float) -> Json:
    """Code of a leaf condition; `draw` says which of two codes stands alone."""
    vocabulary, code = coding_of(leaf)
    standard = coding(SYSTEM_OF[vocabulary], code, leaf.title)
    if not diagnosis.readable:
        return _unreadable(diagnosis, f"DX-{leaf.name}", leaf.title)
    if leaf.icd10 is None:
        return concept(standard, text=leaf.title)
    billing = coding(ICD10CM, leaf.icd10, leaf.title)
    if diagnosis.form == "both":
        return concept(billing, standard, text=leaf.title)
    return concept(standard if draw < 0.5 else billing, text=leaf.title)


def symptom_concept(diagnosis: Diagnosis) -> Json:
    """Code of a symptom."""
    code, title = SYMPTOM_CODES[diagnosis.symptom]
    if not diagnosis.readable:
        return _unreadable(diagnosis, f"SY-{SYMPTOMS.index(diagnosis.symptom)}", title)
    return concept(coding(SNOMED, code, title), text=title)


def _unreadable(diagnosis: Diagnosis, code: str, title: str) -> Json:
    """A code that no vocabulary maps, or words: a row without concept, and a line of the list of unmapped codes."""
    if diagnosis.form == "local":
        return concept(coding(LOCAL_SYSTEM, code[:40], title), text=title)
    return {"text": title}
