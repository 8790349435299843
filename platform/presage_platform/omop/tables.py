"""The 39 tables of the OMOP CDM 5.4, declared once: migrations, loaders and readers all take them from here."""

from __future__ import annotations

from sqlalchemy import Table

from presage_platform.omop import clinical, system, terminology
from presage_platform.omop.columns import cdm_metadata

__all__ = ["CLINICAL_TABLES", "TABLES", "VOCABULARY_TABLES", "cdm_metadata"]


def _declared_in(module: object) -> dict[str, Table]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Table)}


CLINICAL_TABLES: dict[str, Table] = _declared_in(clinical)
VOCABULARY_TABLES: dict[str, Table] = _declared_in(terminology)
TABLES: dict[str, Table] = CLINICAL_TABLES | _declared_in(system) | VOCABULARY_TABLES
