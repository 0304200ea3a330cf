"""Settings: defaults <- file <- environment, and errors that name key and value."""

from pathlib import Path

import pytest

from anymask.errors import SettingsError
from anymask.settings import Settings, load_settings


def write(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"ANYMASK_CONFIG": str(path)}


def test_defaults(tmp_path):
    settings = load_settings({"HOME": str(tmp_path)})
    assert settings == Settings()
    assert (settings.model, settings.backend, settings.threads, settings.offline) == (
        "nano",
        "auto",
        0,
        False,
    )
    assert settings.cache_dir.is_absolute()


def test_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    environ = write(
        tmp_path / "c.toml", 'threads = 3\nmodel = "vit_b"\noffline = true\ncache_dir = "/tmp/x"\n'
    )
    environ |= {"ANYMASK_THREADS": "5", "ANYMASK_OTHER_TOOL": "left alone"}
    settings = load_settings(environ)
    assert settings == Settings(model="vit_b", threads=5, offline=True, cache_dir=Path("/tmp/x"))


def test_the_file_in_the_home_folder_is_read(tmp_path):
    folder = tmp_path / ".config" / "anymask"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('device = "cuda:1"')
    assert load_settings({"HOME": str(tmp_path)}).device == "cuda:1"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("no", False), ("", False)])
def test_true_and_false(tmp_path, text, value):
    assert load_settings({"HOME": str(tmp_path), "ANYMASK_OFFLINE": text}).offline is value


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANYMASK_THREADS", "four"),
        ("ANYMASK_THREADS", "-1"),
        ("ANYMASK_THREADS", "4096"),
        ("ANYMASK_THREADS", "9" * 40),
        ("ANYMASK_BACKEND", "tensorrt"),
        ("ANYMASK_PRECISION", "fp8"),
        ("ANYMASK_OFFLINE", "maybe"),
        ("ANYMASK_GRAPHS", "sometimes"),
        ("ANYMASK_MODEL", "  "),
        ("ANYMASK_CACHE_DIR", ""),
    ],
)
def test_a_bad_variable_is_named_with_its_value(tmp_path, variable, value):
    name = variable.removeprefix("ANYMASK_").lower()
    with pytest.raises(SettingsError, match=f"(?i){name}") as caught:
        load_settings({"HOME": str(tmp_path), variable: value})
    assert repr(value) in str(caught.value) or value in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thread = 4", "unknown setting 'thread' = 4"),
        ('threads = "4"', "'threads' .* got '4'"),
        ("threads = true", "'threads' .* got True"),
        ("offline = 1", "'offline' .* got 1"),
        ("model = 7", "'model' .* got 7"),
        ("cache_dir = 7", "'cache_dir' .* got 7"),
        ("threads = ", "not TOML"),
        ("\x00", "not TOML"),
        ("#" * 70_000, "over 65536 bytes"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, words):
    with pytest.raises(SettingsError, match=words):
        load_settings(write(tmp_path / "c.toml", text))


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        load_settings({"ANYMASK_CONFIG": str(tmp_path / "missing.toml")})
