"""Options that many commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Workspace = Annotated[
    Path | None, typer.Option("--workspace", help="Workspace folder (default: the nearest platform.toml).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes (default: all cores).")]
