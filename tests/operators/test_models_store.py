"""Where models lie, and which weights are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from engine.errors import EngineError, MediaError, MissingError, UsageError
from operators.models import MODELS, check_weights, find, home, list_models, lookup, verify
from operators.models.catalogue import is_hub_name, names
from operators.models.store import place, read_header


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without models."""
    monkeypatch.setenv("AFTERIMAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays or {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, path)
    return path


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, Path("/x/afterimage")),
        ("win32", {"LOCALAPPDATA": "/l"}, Path("/l/afterimage")),
        ("linux", {"AFTERIMAGE_HOME": "/own", "XDG_CACHE_HOME": "/x"}, Path("/own")),
    ],
)
def test_home_is_the_platform_s_unless_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: Path
) -> None:
    monkeypatch.delenv("AFTERIMAGE_HOME")
    monkeypatch.setattr("sys.platform", system)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home() == expected


@pytest.mark.parametrize("name", ["pose", "pose-heavy", "stable-diffusion-v1-5/stable-diffusion-v1-5", "some/body"])
def test_what_is_missing_says_where_it_was_looked_for_and_what_to_type(empty: Path, name: str) -> None:
    with pytest.raises(MissingError) as caught:
        find(name)
    assert str(empty / "home") in str(caught.value)
    assert f"engine models pull {name}" in caught.value.fix
    assert caught.value.exit_code == 3
    if "/" in name:
        assert str(empty / "hub") in str(caught.value)


def test_a_path_wins_and_then_the_own_folder_and_then_the_hub_s_cache(empty: Path) -> None:
    snapshot = empty / "hub" / "models--some--body" / "snapshots" / "abc"
    weights(snapshot / "model.safetensors")
    assert find("some/body") == snapshot
    own = weights(place("some/body") / "model.safetensors").parent
    assert find("some/body") == own
    here = weights(empty / "some" / "body" / "model.safetensors").parent
    assert find("some/body").resolve() == here
    assert find(str(here)) == here


def test_the_snapshot_of_the_main_branch_is_taken(empty: Path) -> None:
    root = empty / "hub" / "models--some--body"
    for commit in ("old", "new", "other"):
        weights(root / "snapshots" / commit / "model.safetensors")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("new")
    assert find("some/body").name == "new"


@pytest.mark.parametrize("name", ["", "  ", "no such thing", "../../etc/passwd-", "a/b/c"])
def test_what_is_no_name_is_no_model(name: str) -> None:
    with pytest.raises(MissingError):
        find(name)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    if is_hub_name(name):
        assert place(name).parent == home() / "models"
        assert ".." not in place(name).parts


def test_the_catalogue_is_sound() -> None:
    assert len(set(names())) == len(names())
    for model in MODELS:
        assert model.licence
        assert model.purpose
        assert lookup(model.name) is model
        assert all(lookup(alias) is model for alias in model.aliases)
        if model.kind == "file":
            assert len(model.sha256) == 64
            assert model.source.startswith("https://")
        if model.kind == "hub":
            assert is_hub_name(model.name)
            assert not any(pattern.endswith((".bin", ".ckpt", ".pt", ".py")) for pattern in model.files)


def test_the_list_tells_what_is_there(empty: Path) -> None:
    weights(place("madebyollin/taesd") / "model.safetensors")
    there = {s.model.name: s for s in list_models()}
    assert there["madebyollin/taesd"].present
    assert there["madebyollin/taesd"].bytes == (place("madebyollin/taesd") / "model.safetensors").stat().st_size
    assert not there["pose_landmarker_full"].present


# ---------------------------------------------------------------- weights


def test_a_header_tells_names_shapes_and_types(empty: Path) -> None:
    file = weights(empty / "m.safetensors", a=np.zeros((2, 3), np.float32), b=np.zeros(5, np.int64))
    header = read_header(file)
    assert {name: (t["dtype"], t["shape"]) for name, t in header.items()} == {"a": ("F32", [2, 3]), "b": ("I64", [5])}
    assert check_weights(empty) == [file]


@pytest.mark.parametrize(
    "spoil",
    [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:4], lambda b: b"\xff" * 8 + b[8:], lambda b: b[:8] + b"[" + b[9:], lambda b: b""],
    ids=["cut", "longer", "stump", "header too long", "header broken", "empty"],
)
def test_damaged_weights_are_noticed(empty: Path, spoil: object) -> None:
    file = weights(empty / "m.safetensors")
    file.write_bytes(spoil(file.read_bytes()))  # type: ignore[operator]
    with pytest.raises(MediaError, match="pull the model again"):
        check_weights(empty)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_stumble(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "m.safetensors"
    file.write_bytes(content)
    try:
        read_header(file)
    except EngineError:
        pass


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pth", ".pkl"])
def test_pickles_are_refused_in_clear_words(empty: Path, suffix: str) -> None:
    file = empty / "model" / f"weights{suffix}"
    file.parent.mkdir()
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for path in (file, file.parent):
        with pytest.raises(UsageError, match="pickle") as caught:
            check_weights(path)
        assert caught.value.exit_code == 2
    weights(file.parent / "weights.safetensors")
    assert len(check_weights(file.parent)) == 1  # a pickle beside safe weights is not read, and no harm


def test_a_folder_without_weights_says_so(empty: Path) -> None:
    with pytest.raises(MissingError, match="no weights"):
        check_weights(empty)


# ---------------------------------------------------------------- verify


def test_a_file_is_checked_against_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    place("pose").parent.mkdir(parents=True)
    place("pose").write_bytes(b"something else")
    verdict = verify("pose")
    assert not verdict.ok
    assert "sha256" in verdict.problems[0]
    with pytest.raises(MissingError):
        verify("pose-lite")


def test_a_snapshot_is_checked_against_the_hashes_it_is_kept_under(empty: Path) -> None:
    from operators.models.store import sha256

    root = empty / "hub" / "models--some--body"
    file = weights(empty / "w.safetensors")
    blob = root / "blobs" / sha256(file)
    blob.parent.mkdir(parents=True)
    content = file.read_bytes()
    blob.write_bytes(content)
    link = root / "snapshots" / "abc" / "model.safetensors"
    link.parent.mkdir(parents=True)
    try:
        link.symlink_to(blob)
    except OSError:
        pytest.skip("this file system has no links")
    assert verify("some/body").ok
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not verify("some/body").ok
