"""Recipes: shipped names, inheritance, --set, refusals that name the nearest key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from presage_modeling.encoders.resnet_recipe import ResNetRecipe
from presage_modeling.recipe import parse_recipe, read_recipe, recipe_names
from presage_platform.errors import ExitCode, RecipeError


def refusal(name: str, *assignments: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(name, assignments)
    assert caught.value.exit_code == ExitCode.RECIPE and "\n" not in str(caught.value)
    return str(caught.value)


OWNERS = {
    "encoder": "encoders",
    "input": "data",
    "augmentation": "augment",
    "head": "time_to_event",
    "objective": "objectives",
    "optimiser": "optimisation",
    "schedule": "optimisation",
    "precision": "hardware",
    "memory": "hardware",
    "loader": "data",
    "checkpoint": "checkpoint",
    "validation": "optimisation",
}


def test_m2_each_table_belongs_to_the_module_that_uses_it() -> None:
    tables = {name: value for name, value in read_recipe("tiny") if isinstance(value, BaseModel)}
    assert {name: type(table).__module__.split(".")[1] for name, table in tables.items()} == OWNERS


def test_m2_every_table_declares_its_defaults() -> None:
    """A recipe that names an encoder and nothing else is whole."""
    recipe = parse_recipe({"name": "bare", "encoder": {"name": "resnet10"}}, "bare")
    assert recipe.encoder == ResNetRecipe(name="resnet10")
    for name in OWNERS.keys() - {"encoder"}:
        assert getattr(recipe, name) == type(getattr(recipe, name))()
    tables = tomllib.loads(recipe.to_toml())
    assert {name for name, table in tables.items() if isinstance(table, dict)} == set(OWNERS)


@pytest.mark.parametrize("name", recipe_names())
def test_m3_every_shipped_recipe_parses(name: str) -> None:
    assert read_recipe(name).name == name


def test_m8_tiny_is_what_the_table_says() -> None:
    tiny = read_recipe("tiny")
    assert tiny.encoder.name == "resnet10" and tiny.encoder.widths == (16, 32, 64, 128) and tiny.encoder.norm == "batch"
    assert len(tiny.input.windows) == 4 and tiny.input.volume_recipe == "any"
    assert (tiny.schedule.effective_batch, tiny.schedule.epochs, tiny.optimiser.lr) == (16, 14, 2e-3)
    assert (tiny.precision.device, tiny.precision.dtype) == ("cpu", "fp32")


def test_m6_the_written_recipe_reads_back_with_the_same_hash(tmp_path: Path) -> None:
    recipe = read_recipe("swinunetr", ["seed=7", "memory.micro_batch=8"])
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    again = read_recipe(str(tmp_path / "recipe.toml"))
    assert again == recipe and again.recipe_hash == recipe.recipe_hash
    assert "beta2 = 0.999" in recipe.to_toml()


def test_m4_set_takes_toml_values_then_bare_strings() -> None:
    recipe = read_recipe("tiny", ["schedule.epochs=2", "encoder.norm=group", "input.windows=['full']"])
    assert (recipe.schedule.epochs, recipe.encoder.norm, recipe.input.windows) == (2, "group", ("full",))


def test_m5_a_base_is_inherited_one_level(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "tiny"\n[schedule]\nepochs = 3\n')
    recipe = read_recipe(str(path))
    assert (recipe.name, recipe.schedule.epochs, recipe.schedule.effective_batch) == ("mine", 3, 16)
    path.write_text('base = "mine"\n')
    assert "base must be a shipped recipe" in refusal(str(path))


REFUSED = [
    (["schedule.epocs=3"], "schedule.epochs|epochs"),
    (["shedule.epochs=3"], "schedule"),
    (["schedule=3"], "is a table"),
    (["schedule.epochs"], "expected a.b=value"),
    (["schedule.epochs=many"], "schedule.epochs"),
    (["encoder.norm=frozen_batch"], "frozen_batch"),
    (["memory.micro_batch=2"], "at least 4 studies"),
    (["memory.micro_batch=5"], "not a multiple"),
    (["input.shape_xyz=[64, 64, 40]"], "multiple of the encoder's stride"),
    (["objective.horizons_days=[0]"], "above 0"),
    (["objective.arm=tte"], "objective.arm"),
    (["input.windows=['bones']"], "input.windows"),
    (["encoder.widths=[0, 1, 2, 3]"], "above 0"),
]


def test_m27_an_unknown_network_is_refused_with_the_names_of_all() -> None:
    said = refusal("tiny", "encoder.name=vit")
    assert all(name in said for name in ("resnet10", "resnet152", "swinunetr", "densenet121"))


@pytest.mark.parametrize(("assignments", "said"), REFUSED, ids=[case[0][0] for case in REFUSED])
def test_m7_what_does_not_fit_is_refused_in_one_line(assignments: list[str], said: str) -> None:
    assert any(word in refusal("tiny", *assignments) for word in said.split("|"))


def test_m1_an_unknown_key_in_a_file_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "tiny"\n[optimiser]\nweight_decy = 0.1\n')
    assert "unknown key `optimiser.weight_decy`: did you mean `weight_decay`?" in refusal(str(path))
    path.write_text('base = "tiny"\n[encoder]\nwidth = 3\n')
    assert "did you mean `widths`?" in refusal(str(path))


def test_m1_an_unknown_recipe_names_the_nearest() -> None:
    assert "did you mean `tiny`?" in refusal("tinny")
    assert "cannot be read" in refusal("nowhere/recipe.toml")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("seed = = 3")
    assert "not TOML" in refusal(str(tmp_path / "x.toml"))
