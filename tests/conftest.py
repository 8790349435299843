"""Fixtures that every category shares: the network off, a workspace, a real PostgreSQL, the public data folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REAL_DATA = Path(os.environ.get("PRESAGE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot show, each with its reason."""
    absent = pytest.mark.skip(reason=f"real data absent: set PRESAGE_TEST_DATA (looked in {REAL_DATA.name}/)")
    for item in items:
        if item.get_closest_marker("real_data") and not REAL_DATA.is_dir():
            item.add_marker(absent)
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the public real data (read in place)."""
    return REAL_DATA


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError("a test tried to reach the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty workspace folder with a platform.toml."""
    folder = tmp_path / "workspace"
    folder.mkdir(mode=0o700)
    (folder / "platform.toml").write_text("")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """One PostgreSQL server for the whole session (embedded)."""
    from tests.lib.database import session_server

    with session_server() as running:
        yield running


@pytest.fixture
def settings(workspace: Path, server: Any) -> Iterator[Any]:
    """Settings of a workspace whose database is fresh, empty and has the schema."""
    from presage_platform.settings import parse_settings
    from tests.lib.database import fresh_database

    with fresh_database(server) as url:
        yield parse_settings(workspace, {"database": {"url": url}}, environment={})
