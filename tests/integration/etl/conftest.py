"""A database with the schema and the tiny vocabulary, copied for each test that loads records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_platform.settings import Settings
from tests.lib.fhir_export import copy_of, small_hospital, tiny_template, write_ndjson


@pytest.fixture(scope="module")
def template(server: Any) -> Iterator[str]:
    """A database to be copied."""
    with tiny_template(server) as name:
        yield name


@pytest.fixture
def hospital(workspace: Path, server: Any, template: str) -> Iterator[Settings]:
    """A hospital without records."""
    with copy_of(server, template, workspace) as settings:
        yield settings


@pytest.fixture
def second(workspace: Path, server: Any, template: str) -> Iterator[Settings]:
    """Another database, to compare with."""
    with copy_of(server, template, workspace) as settings:
        yield settings


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder with the records of a few persons."""
    write_ndjson(tmp_path / "export" / "a.ndjson", small_hospital())
    return tmp_path / "export"
