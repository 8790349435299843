"""The generator makes the same bytes on every machine, in every order of work (rules S3, S45)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from presage_etl.synthetic.golden import make_golden
from presage_etl.synthetic.parameters import PRESETS, read_parameters
from tests.lib.synthetic import make

GOLDEN = Path(__file__).with_name("golden.json")


@pytest.mark.slow
def test_s45_the_small_hospital_of_seed_one_has_the_golden_hash() -> None:
    """Changed on purpose? Raise `version` in parameters.toml, say so in CHANGELOG.md, and write the hash anew:
    python -m presage_etl.synthetic.golden tests/reference/synthetic/golden.json
    """
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = make_golden(workers=2)
    if found["written_with"] != golden["written_with"]:
        pytest.skip(f"golden bytes were written with {golden['written_with']}")
    differing = {
        part for part in golden["parts"] | found["parts"] if golden["parts"].get(part) != found["parts"].get(part)
    }
    assert not differing, "these parts changed; see the words above"
    assert found == golden


def test_s54_the_golden_hash_is_that_of_these_defaults_and_the_change_log_names_their_version() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["generator"] == read_parameters().version
    assert golden["defaults"] == {preset: read_parameters(preset).digest() for preset in PRESETS}
    assert golden["generator"] in (Path(__file__).resolve().parents[3] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_s3_one_two_and_four_workers_make_the_same_bytes(tmp_path: Path) -> None:
    made = [make(tmp_path / str(n), workers=n, patients=12, persons_per_shard=3, studies_per_task=2) for n in (1, 2, 4)]
    summaries = {(folder / "synth.json").read_bytes() for folder in made}
    assert len(summaries) == 1
