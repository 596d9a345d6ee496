# SPDX-License-Identifier: MIT
"""Names of models that the local Hugging Face cache holds, and names it does not hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden import tiny_bert
from support.commands import run

import fastattn as fa
from fastattn.loaders import WeightFileError
from fastattn.loaders.hubcache import cache_folder, find_model, snapshot_name

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
COMMIT, OTHER = "a" * 40, "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def put(cache: Path, name: str, commit: str = COMMIT, ref: str | None = "main") -> Path:
    """A model in the cache, as ``hf download`` lays it out: files are links to blobs."""
    model = cache / f"models--{name}"
    source = tiny_bert.save_text_folder(cache / "source")
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir(exist_ok=True)
    (model / "refs").mkdir(exist_ok=True)
    for number, file in enumerate(sorted(source.iterdir())):
        if file.is_file():
            shutil.move(file, model / "blobs" / f"{commit}{number}")
            (snapshot / file.name).symlink_to(f"../../blobs/{commit}{number}")
    if ref is not None:
        (model / "refs" / ref).write_text(commit)
    shutil.rmtree(source)
    return snapshot


def test_names_of_models_in_the_cache(cache: Path) -> None:
    snapshot = put(cache, "org--tiny.model-v2")
    expected = fa.load(snapshot)([[3, 4]]).last_hidden_state.tobytes()
    name = "org/tiny.model-v2"
    for spelled in (name, Path(name), f"{name}@main", f"{name}@{COMMIT}"):
        model = fa.load(spelled)
        assert model.path == snapshot and model([[3, 4]]).last_hidden_state.tobytes() == expected
    pytest.importorskip("tokenizers")
    assert fa.load("org/tiny.model-v2").embed(["the cat"]).shape == (1, 32)
    packed = fa.pack("org/tiny.model-v2", cache / "m", "float32")
    assert fa.load(packed)([[3, 4]]).last_hidden_state.tobytes() == expected


def test_names_without_an_owner(cache: Path) -> None:
    snapshot = put(cache, "sentence-transformers--all-MiniLM-L6-v2")
    assert find_model("all-MiniLM-L6-v2") == find_model("sentence-transformers/all-MiniLM-L6-v2") == snapshot
    own = put(cache, "bert-base-uncased", OTHER)
    assert find_model("bert-base-uncased") == own


def test_revisions(cache: Path) -> None:
    first, second = put(cache, "org--m"), put(cache, "org--m", OTHER, "v2")
    assert find_model("org/m") == first and find_model("org/m@v2") == find_model(f"org/m@{OTHER}") == second
    with pytest.raises(FileNotFoundError, match="hf download org/m --revision v3"):
        find_model("org/m@v3")
    (cache / "models--org--m/refs/main").unlink()
    with pytest.raises(FileNotFoundError, match="hf download org/m`"):
        find_model("org/m")  # two snapshots, and nothing says which
    shutil.rmtree(second)
    assert find_model("org/m") == first


def test_what_is_on_disk_goes_first(cache: Path, tmp_path: Path) -> None:
    put(cache, "org--m")
    folder = tiny_bert.save_folder(tmp_path / "org/m", "plain")
    assert fa.load("org/m").path.samefile(folder)


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = [
        ("HF_HUB_CACHE", "~/a", tmp_path / "a"),
        ("HUGGINGFACE_HUB_CACHE", "$HOME/b", tmp_path / "b"),
        ("HF_HOME", "/c", Path("/c/hub")),
        ("XDG_CACHE_HOME", "/d", Path("/d/huggingface/hub")),
    ]
    for name, value, _ in expected:
        monkeypatch.setenv(name, value)
    for name, _, folder in expected:
        assert cache_folder() == folder
        monkeypatch.setenv(name, "")
    assert cache_folder() == tmp_path / ".cache/huggingface/hub"


def test_names_that_are_not_there(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cache .*hub has no model .*`hf download org/other` \(pip install"):
        fa.load("org/other")
    with pytest.raises(FileNotFoundError, match=r"`hf download sentence-transformers/mini` .*, if that is its full"):
        fa.load("mini")
    status, out, err = run("embed", "--model", "org/other", "a", env={"HF_HUB_CACHE": str(cache)})
    assert (status, out) == (1, "") and "hf download org/other" in err and "Traceback" not in err


HOSTILE = ["../x", "a/b/c", "org/..", "../models--org--m", "a--b/c", "org/m@../../x", "org/m@", "@main", "a\0b",
           "org/a\0b", "", ".", "org/", "/org", "-x/y", "org/.hidden", "org/m\n", "or g/m", "ö/m", "\udc80/m",
           "x" * 5000, "org/" + "y" * 200, "~/m", "org\\m", "c:m", "models--org--m/refs/main/x"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(cache: Path, name: str) -> None:
    put(cache, "org--m")
    with pytest.raises(FileNotFoundError) as caught:
        fa.load(name)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "../../../etc", "..", ".", "a" * 10_000, "\xff", "a" * 40 + "/..", "a b"])
def test_damaged_references(cache: Path, text: str) -> None:
    put(cache, "org--m")
    (cache / "models--org--m/refs/main").write_text(text)
    with pytest.raises(WeightFileError, match=r"refs/main: expected a commit, the name of a folder"):
        fa.load("org/m")


@pytest.mark.parametrize("commit", ["abc123", "deadbeef", "A" * 40, "v1", "snapshot-1_a", "0" * 64])
@pytest.mark.parametrize("ref", ["main", None])
def test_snapshots_of_any_name(cache: Path, commit: str, ref: str | None) -> None:
    """As mirrors and programs that fill a cache by themselves have them; the hub's library takes them all."""
    snapshot = put(cache, "org--m", commit, ref)
    assert find_model("org/m") == find_model(f"org/m@{commit}") == snapshot
    assert snapshot_name(snapshot) == ("org", "m")


def test_a_reference_to_no_snapshot(cache: Path) -> None:
    put(cache, "org--m")
    for text in ("A" * 40, "a" * 39, "deadbeef"):
        (cache / "models--org--m/refs/main").write_text(text)
        with pytest.raises(FileNotFoundError, match="`hf download org/m`"):
            fa.load("org/m")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_references_that_are_no_files(cache: Path, kind: str) -> None:
    put(cache, "org--m")
    reference = cache / "models--org--m/refs/main"
    reference.unlink()
    reference.mkdir() if kind == "folder" else os.mkfifo(reference)
    with pytest.raises(WeightFileError, match="refs/main: expected a file"):
        fa.load("org/m")


def test_snapshots_that_are_not_complete(cache: Path) -> None:
    snapshot = put(cache, "org--m")
    complete = r"this snapshot is not complete: `hf download org/m`"
    config = (snapshot / "config.json").resolve()
    config.rename(cache / "elsewhere")  # a link to a blob that is not there
    with pytest.raises(FileNotFoundError, match=rf"config\.json: a model needs .*{complete}"):
        fa.load("org/m")
    (cache / "elsewhere").rename(config)
    fa.load("org/m")
    (snapshot / "model.safetensors").unlink()
    for name in ("org/m", str(snapshot)):
        with pytest.raises(FileNotFoundError, match=rf"neither model\.safetensors .*{complete}"):
            fa.load(name)
    shutil.rmtree(snapshot)
    with pytest.raises(FileNotFoundError, match="hf download org/m"):
        fa.load("org/m")
    assert snapshot_name(cache / "models--mini" / "snapshots" / COMMIT) == (None, "mini")
    assert snapshot_name(cache) is None


def test_the_command_line(cache: Path) -> None:
    pytest.importorskip("tokenizers")
    put(cache, "org--m")
    env = {"HF_HUB_CACHE": str(cache)}
    status, out, err = run("embed", "--model", "org/m", "the cat", env=env)
    assert (status, err) == (0, "") and out.count("\n") == 1
    assert run("pack", "org/m", str(cache / "packed"), env=env)[0] == 0
    assert np.isfinite(fa.load(cache / "packed").embed(["the cat"])).all()
