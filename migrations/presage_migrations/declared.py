"""Everything that is declared, gathered: importing this module registers every table on its collection."""

from __future__ import annotations

from sqlalchemy import MetaData

import presage_platform.ledger.images
import presage_platform.ledger.tables
import presage_platform.omop.imaging  # noqa: F401 - registers its table
from presage_platform.ledger.metadata import ledger_metadata
from presage_platform.omop.tables import cdm_metadata

DECLARED: tuple[MetaData, ...] = (cdm_metadata, ledger_metadata)
