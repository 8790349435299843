"""Settings: precedence, unknown keys, secrets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from presage_platform.errors import ExitCode, SettingsError
from presage_platform.settings import find_workspace, parse_settings, read_settings


def test_p13_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key `etl\.sorce`: did you mean `source`") as raised:
        parse_settings(tmp_path, {"etl": {"sorce": "x"}}, environment={})
    assert raised.value.exit_code == ExitCode.USAGE


def test_p13_the_environment_wins(tmp_path: Path) -> None:
    found = parse_settings(
        tmp_path,
        {"etl": {"source": "file"}},
        environment={"PRESAGE_ETL__SOURCE": "environment", "PRESAGE_WORKSPACE": "x"},
    )
    assert found.etl.source == "environment"


def test_p13_a_wrong_type_is_one_line_without_the_value(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings(tmp_path, {"link": {"birth_year_tolerance": "Quillon"}}, environment={})
    assert "\n" not in str(raised.value) and "Quillon" not in str(raised.value)
    assert "link.birth_year_tolerance" in str(raised.value)


def test_p13_the_database_url_is_never_shown(tmp_path: Path) -> None:
    found = parse_settings(tmp_path, {"database": {"url": "postgresql://a:hushhush@h/d"}}, environment={})
    assert "hushhush" not in repr(found) + str(found)


def test_p13_settings_are_frozen(tmp_path: Path) -> None:
    found = parse_settings(tmp_path, {}, environment={})
    with pytest.raises(ValueError, match="frozen"):
        found.etl.source = "other"  # type: ignore[misc]


def test_p13_the_nearest_parent_with_a_platform_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "platform.toml").write_text("")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.delenv("PRESAGE_WORKSPACE", raising=False)
    assert find_workspace(None) == tmp_path
    monkeypatch.setenv("PRESAGE_WORKSPACE", str(below))
    assert find_workspace(None) == below


def test_p13_a_command_that_reads_needs_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no workspace"):
        read_settings(tmp_path / "nowhere")


def test_p51_the_workspace_and_its_key_are_private(tmp_path: Path) -> None:
    settings = read_settings(tmp_path / "w", create=True)
    key = settings.secret_key()
    assert settings.secret_key() == key and len(key) == 32
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o700
    for name in ("platform.toml", "secret.key"):
        assert stat.S_IMODE((tmp_path / "w" / name).stat().st_mode) == 0o600


def test_p51_a_kill_while_the_key_is_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next command makes it; half a key would lock the workspace for good."""
    settings = read_settings(tmp_path / "w", create=True)

    def killed(number: int) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as moment:
        moment.setattr("secrets.token_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            settings.secret_key()
    assert not (settings.workspace / "secret.key").exists()
    assert len(settings.secret_key()) == 32


def test_e69_a_damaged_key_is_refused(tmp_path: Path) -> None:
    settings = read_settings(tmp_path / "w", create=True)
    (settings.workspace / "secret.key").write_bytes(b"short")
    with pytest.raises(SettingsError, match="holds 5 bytes, expected 32"):
        settings.secret_key()


def test_e70_the_zone_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="timezone"):
        parse_settings(tmp_path, {"etl": {"policies": {"timezone": "Mars/Olympus"}}}, environment={})
