"""pool.toml: what it says is used, and what it may not say is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavefold.pool.settings import ModelSettings, PoolSettings, read_settings


def test_without_a_file_the_defaults_apply(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == PoolSettings()
    assert PoolSettings().of("anything") == ModelSettings()


def test_what_it_says_is_used(tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text(
        'idle_seconds = 60\n[models.flash]\npin = true\nwidth = 4\n[models."a.b"]\npreload = true\nprofile = "v4"\n'
    )
    settings = read_settings(tmp_path)
    assert settings.idle_seconds == 60.0 and settings.max_wait_seconds == 30.0
    assert settings.of("flash") == settings.of("flash:cron") == ModelSettings(pin=True, width=4)
    assert settings.of("a.b") == ModelSettings(preload=True, profile="v4")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("idle_seconds = 0", r"idle_seconds = 0 is not allowed; expected a number from 1 to"),
        ("idle_seconds = nan", "idle_seconds = nan is not allowed"),
        ("idle_seconds = true", "idle_seconds = True is not allowed"),
        ("idle = 3", "idle is not known; expected one of idle_seconds, max_wait_seconds"),
        ("[models.x]\npin = 1", r"models\.x\.pin = 1 is not allowed; expected true or false"),
        ("[models.x]\nwidth = 0", r"models\.x\.width = 0 is not allowed"),
        ("[models.x]\nwidth = 2.0", r"models\.x\.width = 2\.0 is not allowed"),
        ("[models.x]\nprofile = 3", "expected a text"),
        ("models = 3", "models is not allowed; expected tables"),
        ("[models]\nx = 3", "models is not allowed; expected tables"),
        ("pin = ", "is no TOML"),
    ],
)
def test_what_is_not_allowed_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "pool.toml").write_text(text)
    with pytest.raises(ValueError, match=rf"pool\.toml: .*{fault}|pool\.toml: {fault}"):
        read_settings(tmp_path)
