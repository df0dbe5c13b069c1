"""Where settings come from, which of them wins, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.settings import SettingsError, known_names, load, load_with_origins


def write(directory: Path, text: str) -> None:
    """A parallax.toml."""
    (directory / "parallax.toml").write_text(text, "utf-8")


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each layer is taken away in turn."""
    write(tmp_path, 'web_port = 1\napp_id = "file"\n')
    environ = {"PARALLAX_WEB_PORT": "2"}
    settings, given = load_with_origins({"web_port": "3", "instance_id": None}, environ, tmp_path)
    assert (settings.web_port, given["web_port"].name) == (3, "--web-port")
    settings, given = load_with_origins({}, environ, tmp_path)
    assert (settings.web_port, given["web_port"].name) == (2, "PARALLAX_WEB_PORT")
    settings, given = load_with_origins({}, {}, tmp_path)
    assert (settings.web_port, given["web_port"].name) == (1, "parallax.toml: web_port")
    assert settings.app_id == "file"
    assert "instance_id" not in given
    write(tmp_path, "")
    assert load({}, {}, tmp_path).web_port == 8080


def test_sections_are_merged_leaf_by_leaf(tmp_path: Path) -> None:
    """The environment may set one field of a section and the file another."""
    write(tmp_path, "[breaker]\nfailure_threshold = 9\n[retry]\njitter = false\n")
    settings = load({}, {"PARALLAX_BREAKER__RESET_TIMEOUT": "5s"}, tmp_path)
    assert (settings.breaker.failure_threshold, settings.breaker.reset_timeout) == (9, 5000)
    assert settings.retry.jitter is False


def test_durations_and_numbers_are_read_wherever_they_stand(tmp_path: Path) -> None:
    """`30s` in limits and breaker too, in the file and in the environment; a bare number is milliseconds."""
    write(tmp_path, '[limits]\nwindow_ms = "30s"\n[breaker]\nmonitoring_period = "2m"\n[cache]\nttl = "1h"\n')
    environ = {
        "PARALLAX_LIMITS__MAX_REQUESTS": "7",
        "PARALLAX_SESSION_TIMEOUT": "6000",
        "PARALLAX_CACHE__ENABLED": "false",
    }
    settings = load({}, environ, tmp_path)
    assert (settings.limits.window_ms, settings.limits.max_requests) == (30_000, 7)
    assert settings.breaker.monitoring_period == 120_000
    assert (settings.cache.ttl, settings.cache.enabled, settings.session_timeout) == (3_600_000, False, 6000)
    assert settings.limits.wire() == {"maxRequests": 7, "windowMs": 30_000, "maxConcurrency": 10}


@pytest.mark.parametrize(
    ("flags", "environ", "roles"),
    [
        ({"roles": "stats, dispatch"}, {}, ("stats", "dispatch")),
        ({}, {"PARALLAX_ROLES": "plans"}, ("plans",)),
        ({}, {"PARALLAX_ROLES": ""}, ("dispatch", "plans", "schedules", "stats")),
    ],
)
def test_roles_are_a_list_of_words(
    flags: dict[str, str], environ: dict[str, str], roles: tuple[str, ...], tmp_path: Path
) -> None:
    """Separated by commas; an empty variable is as good as none."""
    assert load(flags, environ, tmp_path).roles == roles


def test_roles_in_the_file_are_an_array(tmp_path: Path) -> None:
    """As TOML has them."""
    write(tmp_path, 'roles = ["stats"]')
    assert load({}, {}, tmp_path).roles == ("stats",)


@pytest.mark.parametrize(
    ("text", "environ", "flags", "message"),
    [
        ("web_prot = 1", {}, {}, "parallax.toml: web_prot: unknown setting; did you mean web_port?"),
        ("[breaker]\nfailure_treshold = 1", {}, {}, "did you mean breaker.failure_threshold?"),
        ("[breaker]\nx = {y = 1}", {}, {}, "parallax.toml: breaker.x: unknown setting"),
        ("breaker = 1", {}, {}, "parallax.toml: breaker: unknown setting"),
        ("web_port =", {}, {}, "parallax.toml: "),
        ("", {"PARALLAX_LIMTS__WINDOW_MS": "1"}, {}, "did you mean PARALLAX_LIMITS__WINDOW_MS?"),
        ("", {"PARALLAX_": "1"}, {}, "unknown setting"),
        ("", {}, {"web_prot": 1}, "--web-prot: unknown setting; did you mean --web-port?"),
        ("", {"PARALLAX_WEB_PORT": "http"}, {}, "PARALLAX_WEB_PORT: input should be a valid integer"),
        ("", {"PARALLAX_LIMITS__WINDOW_MS": "soon"}, {}, "PARALLAX_LIMITS__WINDOW_MS: is not a duration: 'soon'"),
        ("[limits]\nmax_requests = 0", {}, {}, "parallax.toml: limits.max_requests: input should be greater"),
        ("", {}, {"web_port": "70000"}, "--web-port: input should be less than or equal to 65535"),
        (
            "",
            {"PARALLAX_ROLES": "cook"},
            {},
            "PARALLAX_ROLES: input should be 'dispatch', 'plans', 'schedules' or 'stats'",
        ),
        ("", {"PARALLAX_ROLES": ","}, {}, "PARALLAX_ROLES: "),
        ("", {}, {"topic_prefix": "Has Spaces"}, "--topic-prefix: "),
        ("", {}, {"session_timeout": "1" * 400 + "h"}, "--session-timeout: "),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(
    text: str, environ: dict[str, str], flags: dict[str, object], message: str, tmp_path: Path
) -> None:
    """One line: where it stands, what is wrong, and the nearest known name."""
    write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(flags, environ, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_is_never_quoted(tmp_path: Path) -> None:
    """Neither in the settings' text nor in the message about a bad neighbour."""
    settings = load({}, {"PARALLAX_KAFKA__SASL_PASSWORD": "hunter2"}, tmp_path)
    assert "hunter2" not in repr(settings)
    write(tmp_path, "[kafka]\nsasl_password = 123454321\n")
    with pytest.raises(SettingsError) as caught:
        load({}, {}, tmp_path)
    assert "123454321" not in str(caught.value)


def test_every_setting_can_be_given_its_own_default(tmp_path: Path) -> None:
    """known_names lists exactly what can be set: each default, written as text, is read back from the environment."""
    settings = load({}, {}, tmp_path)
    environ = {}
    for path in known_names():
        value: object = settings
        for part in path.split("."):
            value = getattr(value, part)
        if value is not None:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            environ["PARALLAX_" + path.replace(".", "__").upper()] = text
    assert load({}, environ, tmp_path) == settings
