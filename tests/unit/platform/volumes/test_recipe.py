"""The recipe as data: its hash, its file, its errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from presage_platform.errors import ExitCode, VolumeRecipeError
from presage_platform.volumes.recipe import find_recipe, named_recipe, parse_recipe, recipe_names

TEXT = 'name = "x"\nspacing_mm = [6, 6, 10]\ncrop = "centre"\nshape = [6, 5, 4]\n'


def test_i55_comments_order_and_name_do_not_change_the_hash() -> None:
    lines = TEXT.splitlines()
    other = "# a comment\n" + "\n".join(reversed(lines[1:])) + '\nname = "y"\n'
    assert parse_recipe(other, origin="y").recipe_hash == parse_recipe(TEXT, origin="x").recipe_hash


@pytest.mark.parametrize(
    "line",
    ["antialias = true", "pad_value = -2000", 'missing = "interpolate"', "clip_hu = [-1024, 3071]", "version = 2"],
)
def test_i55_everything_else_changes_the_hash(line: str) -> None:
    assert parse_recipe(TEXT + line, origin="y").recipe_hash != parse_recipe(TEXT, origin="x").recipe_hash


def test_i55_the_hash_is_sha256_of_the_canonical_json() -> None:
    recipe = named_recipe("native")
    assert recipe.canonical_json == (
        '{"antialias":false,"clip_hu":null,"code_version":1,"crop":"none","dtype":"int16","interpolation":"linear",'
        '"missing":"reject","orientation":"RAS","pad_value":-1024,"scaling":"none","shape":null,"spacing_mm":null,'
        '"version":1,"window_hu":null}'
    )
    assert recipe.recipe_hash.startswith(recipe.short_hash) and len(recipe.short_hash) == 16


@pytest.mark.parametrize("name", recipe_names())
def test_i55_a_recipe_written_and_read_back_is_the_same(name: str) -> None:
    recipe = named_recipe(name)
    assert parse_recipe(recipe.to_toml(), origin=name) == recipe


def test_i59_the_shipped_recipes_are_named() -> None:
    assert recipe_names() == ["native", "presage", "tiny"]
    presage = named_recipe("presage")
    assert (presage.shape_zyx, presage.spacing_mm, presage.crop) == ((160, 224, 224), (1.5, 1.5, 2.0), "body")


def test_i24_a_policy_that_invents_voxels_makes_another_recipe() -> None:
    recipe = named_recipe("tiny")
    assert recipe.under_policy(missing="reject").recipe_hash == recipe.recipe_hash
    assert recipe.under_policy(missing="interpolate").recipe_hash != recipe.recipe_hash


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT + "spaceing_mm = 1", "unknown key 'spaceing_mm'; the nearest known key is 'spacing_mm'"),
        (TEXT + "version = 0", "version"),
        (TEXT + 'orientation = "LPS"', "orientation"),
        (TEXT + 'scaling = "window"', "window_hu"),
        (TEXT + "code_version = 2", "code_version"),
        (TEXT.replace('crop = "centre"', ""), "crop and shape go together"),
        ("name = ", "is not TOML"),
    ],
)
def test_i55_a_wrong_recipe_is_one_line_that_names_the_key(text: str, words: str) -> None:
    with pytest.raises(VolumeRecipeError, match=words) as caught:
        parse_recipe(text, origin="x.toml")
    assert "\n" not in str(caught.value) and caught.value.exit_code is ExitCode.RECIPE


def test_i55_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(VolumeRecipeError, match="native, presage, tiny"):
        find_recipe("merlin")
    with pytest.raises(VolumeRecipeError, match="cannot be read"):
        find_recipe(str(tmp_path / "absent.toml"))
