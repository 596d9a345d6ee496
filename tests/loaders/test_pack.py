# SPDX-License-Identifier: MIT
"""fastattn.pack: a packed file gives the bits of its checkpoint with nothing beside it, and is written whole or not."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.bert_folders import change_config, change_tensors
from support.commands import environment, run
from support.text_folders import sentence_folder, write_json
from test_packed_file import change, join, split

import fastattn as fa
from fastattn.loaders import WeightFileError, open_weights
from fastattn.loaders.packed import PackedFile, file_crc
from fastattn.models import packing, registry

DTYPES = registry._DTYPES
TEXTS = ["the cat sat on the mat.", "", "b c d" * 20]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_text_folder(tmp_path / "model")


@pytest.fixture
def packed(tmp_path: Path, folder: Path) -> Path:
    return fa.pack(folder, tmp_path / "m.fastattn", "float32")


def bits(model: Any, name: str = "plain") -> list[bytes]:
    return [field.tobytes() for field in model(*tiny_bert.batch(name)) if field is not None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(tiny_bert.CONFIGS))
def test_same_bits_as_the_checkpoint(tmp_path: Path, name: str, dtype: str) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", name)
    checkpoint = fa.load(folder, dtype)
    expected = bits(checkpoint, name)
    path = fa.pack(folder, tmp_path / "m", dtype)
    assert path == tmp_path / "m"
    shutil.rmtree(folder)
    model = fa.load(path)
    assert bits(model, name) == expected
    assert bits(fa.load(path, dtype, verify=True), name) == expected
    assert model.tensors == checkpoint.tensors and model.path == path and repr(path)[11:-2] in repr(model)
    for other in {*DTYPES} - {dtype, "float32"} if dtype != "float32" else ():
        with pytest.raises(ValueError, match=f"was packed as '{dtype}'"):
            fa.load(path, other)


def test_heads_and_labels(tmp_path: Path) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    arrays = {f"bert.{name}": array for name, array in tiny_bert.tensors("plain").items()}
    arrays |= {"classifier.weight": tiny_bert.uniform("w", (3, 32)), "classifier.bias": tiny_bert.uniform("b", (3,))}
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    labels = {"0": "sad", "1": "so so", "2": "glad"}
    change_config(folder, architectures=["BertForSequenceClassification"], id2label=labels)
    expected = bits(fa.load(folder))
    model = fa.load(fa.pack(folder, tmp_path / "m", "float32"))
    assert model.head is not None and model.head.labels == ("sad", "so so", "glad")
    assert bits(model) == expected and model(*tiny_bert.batch("plain")).logits.shape == (5, 3)


def test_text_needs_nothing_beside_the_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    sentence_folder(folder, pooling_mode_cls_token=True)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 7})
    expected = fa.load(folder).embed(TEXTS)
    fa.pack(folder, tmp_path / "alone", "float32")
    shutil.rmtree(folder)
    model = fa.load(tmp_path / "alone")
    assert model.embed(TEXTS).tobytes() == expected.tobytes()
    assert model.pipeline.tokenizer.max_length == 7
    status, out, err = run("embed", "--model", str(tmp_path / "alone"), *TEXTS)
    assert (status, err) == (0, "fastattn: command line: 2 texts cut to 7 tokens\n")
    got = np.array([json.loads(line)["embedding"] for line in out.splitlines()], np.float32)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_file_for_every_instruction_set(folder: Path, tmp_path: Path, dtype: str) -> None:
    """Packed with one, used with all of them, with the same bits; packed with another, the same file."""
    pytest.importorskip("tokenizers")
    first = fa.pack(folder, tmp_path / "first", dtype).read_bytes()
    outputs = set()
    for isa in fa.cpu_info()["isas_supported"]:
        status, out, err = run("embed", "--model", str(tmp_path / "first"), *TEXTS, env={"FASTATTN_ISA": isa})
        assert (status, err) == (0, "fastattn: command line: 1 text cut to 40 tokens\n")
        outputs.add(out)
        target = str(tmp_path / isa)
        assert run("pack", str(folder), target, "--dtype", dtype, env={"FASTATTN_ISA": isa})[0] == 0
        assert Path(target).read_bytes() == first
    assert len(outputs) == 1


def test_which_files_go_in(folder: Path, tmp_path: Path) -> None:
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "onnx/config.json", "vocab.json", "x/y/deep.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, {})
    (folder / "2_Dense/model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "2_Dense/pytorch_model.bin").write_bytes(b"x")
    (folder / "big.json").write_bytes(b" " * (1 << 20) + b"{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "other.jinja").write_text("{{ messages }}")
    modules = [{"type": "x.Dense", "path": "2_Dense"}, {"type": "y", "path": "../model/onnx"}, {"path": "/etc"}, 3]
    write_json(folder / "modules.json", modules)
    files = PackedFile(fa.pack(folder, tmp_path / "m", "float32")).files()
    assert sorted(files) == [
        "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "chat_template.jinja",
        "config.json", "modules.json", "tokenizer.json", "vocab.json",
    ]  # fmt: skip
    for name in files:
        assert files.read_bytes(name) == (folder / name).read_bytes()


def test_damaged_text_settings_are_told_as_in_the_folder(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    for name, content in (("tokenizer.json", "{"), ("modules.json", "["), ("sentence_bert_config.json", "[]")):
        before = (folder / name).read_text() if (folder / name).exists() else None
        (folder / name).write_text(content)
        path = fa.pack(folder, tmp_path / "m", "float32")
        with pytest.raises(ValueError, match=re.escape(f"{path}: {name}")):
            fa.load(path).embed(["a"])
        (folder / name).unlink() if before is None else (folder / name).write_text(before)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"m: tokenizer\.json: needed to embed text"):
        fa.load(fa.pack(folder, tmp_path / "m", "float32")).embed(["a"])


def test_weights_are_views_of_one_mapping(packed: Path) -> None:
    """Nothing of the file is copied, and nothing of it becomes private."""
    model: Any = fa.load(packed)
    bits(model)
    norms = [node.options for node in model.graph.trace.nodes if node.kind == "layer_norm"]
    assert len(model.graph.tables) == 3 and len(norms) == 5
    for array in (*model.graph.tables, *(options[part] for options in norms for part in ("weight", "bias"))):
        assert not array.flags.owndata and not array.flags.writeable
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc")
    sections = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
    mine = [section for section in sections if str(os.path.realpath(packed)) in section]
    assert len(mine) == 1
    assert re.search(r"Private_Dirty:\s+0 kB", mine[0]) and re.search(r"Anonymous:\s+0 kB", mine[0])
    start, end = (int(part, 16) for part in mine[0].split(" ")[0].split("-"))
    layer = model.pooler._steps[0].layer
    assert start <= layer.panels.__array_interface__["data"][0] < end


def test_a_model_outlives_its_file(packed: Path) -> None:
    model = fa.load(packed)
    expected = bits(model)
    packed.unlink()
    assert bits(model) == expected


# ---- target --------------------------------------------------------------------------------------------------------


def test_a_folder_as_target(folder: Path, tmp_path: Path) -> None:
    expected = bits(fa.load(folder))
    (tmp_path / "out").mkdir()
    assert fa.pack(folder, tmp_path / "out", "float32") == tmp_path / "out" / "model.fastattn"
    assert os.listdir(tmp_path / "out") == ["model.fastattn"]
    assert bits(fa.load(tmp_path / "out")) == expected
    fa.pack(folder, folder, "float32")  # a checkpoint and its packed file: the checkpoint is what the folder stands for
    assert fa.load(folder).path == folder and bits(fa.load(folder / "model.fastattn")) == expected


def test_replacing_a_packed_file(folder: Path, packed: Path) -> None:
    old = fa.load(packed)
    before = bits(old)
    change_tensors(folder, embeddings__LayerNorm__bias=np.ones(32, np.float32))
    fa.pack(folder, packed, "float32")
    assert bits(old) == before != bits(fa.load(packed))


def test_a_link_as_target(folder: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(packed)
    fa.pack(folder, tmp_path / "link", "float32")
    assert (tmp_path / "link").is_symlink() and fa.load(tmp_path / "link")


def test_what_is_no_packed_file_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    for target in (folder / "model.safetensors", folder / "config.json"):
        content = target.read_bytes()
        with pytest.raises(ValueError, match="exists and is not a packed file"):
            fa.pack(folder, target, "float32")
        assert target.read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="exists and is not a packed file"):
        fa.pack(folder, tmp_path / "pipe", "float32")


def test_wrong_arguments(folder: Path, packed: Path, tmp_path: Path) -> None:
    target: Any = tmp_path / "x"
    for arguments, error, message in (
        ((folder, 3), TypeError, "target: expected a str or os.PathLike, got int"),
        ((3, target), TypeError, "path: expected a str or os.PathLike, got int"),
        ((folder, target, "int7"), ValueError, "dtype: got 'int7'"),
        ((tmp_path / "none", target, "float32"), FileNotFoundError, "none: no such file or folder"),
        ((packed, target, "float32"), ValueError, r"m\.fastattn is packed already"),
        ((folder, target / "y", "float32"), FileNotFoundError, "there is no folder"),
        ((folder, target / "y/", "float32"), FileNotFoundError, "there is no folder"),
    ):
        with pytest.raises(error, match=message):
            fa.pack(*arguments)
    with pytest.raises(ValueError, match="num_threads"):
        fa.pack(folder, target, "float32", num_threads=0)
    with pytest.raises(ValueError, match="verify: .* is not a packed file"):
        fa.load(folder, verify=True)
    assert not target.exists()


def test_weights_that_are_not_numbers(folder: Path, tmp_path: Path) -> None:
    weight = tiny_bert.tensors("plain")["encoder.layer.1.output.dense.weight"].copy()
    weight[3, 5] = np.nan
    change_tensors(folder, encoder__layer__1__output__dense__weight=weight)
    for dtype in DTYPES:
        with pytest.raises(ValueError, match="encoder.layer.1.output.dense|NaN"):
            fa.pack(folder, tmp_path / "m", dtype)
    assert not (tmp_path / "m").exists()


# ---- all or nothing ------------------------------------------------------------------------------------------------


def test_a_failure_keeps_what_was_there(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = packed.read_bytes(), sorted(os.listdir(tmp_path))
    for error in (KeyboardInterrupt(), OSError(errno.EIO, "broken disk"), MemoryError()):

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        for module, name in ((os, "fsync"), (os, "replace"), (packing, "_can_be_loaded")):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, fail)
                unfinished: set[str] = set()
                with pytest.raises(type(error)) as caught:
                    packing.pack_noting(unfinished, folder, packed, "float32", None)
            if isinstance(error, OSError) and module is os:
                assert caught.value.filename == str(packed)
            assert packed.read_bytes() == before and sorted(os.listdir(tmp_path)) == names and not unfinished


def test_a_file_that_does_not_load_is_never_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = packing._parts
    monkeypatch.setattr(packing, "_parts", lambda made: {f"{k}x": v for k, v in original(made).items()})
    with pytest.raises(WeightFileError):
        fa.pack(folder, tmp_path / "m", "float32")
    assert os.listdir(tmp_path) == ["model"]


def limited_pack(folder: Path, target: Path, limit: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastattn", "pack", str(folder), str(target), "--dtype", "float32"],
        env=environment(), capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def test_no_room_for_the_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for limit in (0, 5000, 60_000):
        result = limited_pack(folder, tmp_path / "out" / "m", limit)
        assert result.returncode == 1 and not os.listdir(tmp_path / "out")
        assert result.stderr == f"fastattn: {tmp_path / 'out' / 'm'}: File too large\n"


def test_a_folder_that_may_not_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o500)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(PermissionError) as caught:
        fa.pack(folder, tmp_path / "out" / "m", "float32")
    assert caught.value.filename == str(tmp_path / "out" / "m")


def test_permissions_are_those_of_a_new_file(folder: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = fa.pack(folder, tmp_path / "m", "float32")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_command_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "out").mkdir()
    code = (
        "import os, sys, time; os.fsync = lambda file: time.sleep(60); from fastattn.cli import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "pack", str(folder), str(tmp_path / "out" / "m"), "--dtype", "float32"],
        env=environment(), stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while not os.listdir(tmp_path / "out") and time.monotonic() < end:
            time.sleep(0.02)
        assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".partial"]
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr is not None and process.stderr.read() == b""
    assert not os.listdir(tmp_path / "out")


# ---- files that do not fit ------------------------------------------------------------------------------------------


def replace_config(path: Path, **changes: Any) -> Path:
    """Another config.json of the same length (spaces fill it) with checksums that fit."""
    header, data = split(path)
    begin, end = json.loads(header)["file:config.json"]["data_offsets"]
    new = json.dumps({**json.loads(data[begin:end]), **changes}, separators=(",", ":")).encode()
    assert len(new) <= end - begin
    new = new.ljust(end - begin)
    header = header.replace(file_crc(data[begin:end]).encode(), file_crc(new).encode())
    return join(path, header, data[:begin] + new + data[end:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 64},
            "word_embeddings.weight/table.*is float32 of shape .*but config.json asks for float32 of",
        ),
        ({"num_hidden_layers": 3}, "the model needs 'encoder.layer.2.attention.self.query.*which was not packed"),
        ({"num_hidden_layers": 1}, "this architecture has no use for 'encoder.layer.1"),
        ({"intermediate_size": 48}, "'encoder.layer.0.intermediate.dense' does not fit config.json: .*shape"),
        ({"intermediate_size": 2**31 - 1}, "intermediate.dense"),
        ({"vocab_size": 49}, "word_embeddings.weight/table"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"model_type": "gpt"}, "model_type 'gpt' is not supported"),
        ({"hidden_act": "x"}, "hidden_act"),
    ],
)
def test_another_configuration(packed: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(replace_config(packed, **changes))
    assert str(packed) in str(caught.value)


def rename(old: str, new: str) -> Any:
    return lambda header: header.update({new: header.pop(old)})


def exchange(one: str, two: str) -> Any:
    def edit(header: Any) -> None:
        header[one], header[two] = header[two], header[one]

    return edit


LAYER = "encoder.layer.0.intermediate.dense"
NORM = "embeddings.LayerNorm"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename(f"{LAYER}/panels", f"{LAYER}/panel"), "does not fit config.json: arrays: .*'panel'"),
        (rename(f"{LAYER}/bias", f"{LAYER}x/bias"), f"'{LAYER}' has no bias"),
        (rename(f"{NORM}/bias", f"{NORM}/shift"), f"'{NORM}' has weight, shift, expected weight, bias"),
        (rename("file:config.json", "file:other.json"), "config.json"),
        (exchange(f"{LAYER}/panels", "encoder.layer.0.output.dense/panels"), "does not fit config.json"),
        (lambda h: h[f"{NORM}/bias"].update(dtype="I32"), f"'{NORM}/bias' is int32"),
        (lambda h: h[f"{NORM}/bias"].update(shape=[4, 8]), f"'{NORM}/bias' is float32 of shape .4, 8."),
        (lambda h: h[f"{LAYER}/panels"].update(dtype="I32"), f"'{LAYER}' does not fit config.json"),
        (lambda h: h[f"{LAYER}/bias"].update(dtype="U32"), f"'{LAYER}' does not fit config.json"),
        (lambda h: h["__metadata__"].update(dtype="int3"), "dtype is 'int3', expected one of float32"),
        (lambda h: h["__metadata__"].update(dtype=""), "dtype is ''"),
        (lambda h: h["__metadata__"].update(used="["), "__metadata__: used is not a list of names"),
        (lambda h: h["__metadata__"].update(ignored="[" * 100_000), "ignored is not a list of names"),
        (lambda h: h["__metadata__"].pop("used"), "used is not a list of names"),
        (lambda h: h["__metadata__"].update(numerics_version="999"), "numerics version 999, newer than"),
        (lambda h: h["__metadata__"].update(format_version="2"), "format version 2"),
    ],
)
def test_a_header_that_lies_about_the_model(packed: Path, edit: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        fa.load(change(packed, edit))
    assert str(packed) in str(caught.value)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_older_numerics_are_loaded_with_a_note(packed: Path, version: int) -> None:
    """The weights are the same in all versions so far: the same bits, and a note only where the version is older."""
    model = fa.load(packed)
    expected, notes = bits(model), list(model.notes)
    assert not any("numerics" in note for note in notes)
    old = fa.load(change(packed, lambda h: h["__metadata__"].update(numerics_version=str(version))))
    assert bits(old) == expected
    own = fa.build_info()["numerics_version"]
    told = [note for note in old.notes if note not in notes]
    if version == own:
        assert told == []
    else:
        assert len(told) == 1 and told[0].startswith(f"{packed}: packed with numerics version {version}, this library")
        assert f"has {own}: " in told[0] and "3: attention of int8 encoders" in told[0]
        assert ("2: last digits of GELU" in told[0]) == (version < 2)


def test_the_next_numerics_are_refused(packed: Path) -> None:
    own = fa.build_info()["numerics_version"]
    edit = change(packed, lambda h: h["__metadata__"].update(numerics_version=str(own + 1)))
    with pytest.raises(WeightFileError, match=f"numerics version {own + 1}, newer than {own} of this library"):
        fa.load(edit)


@pytest.mark.parametrize("seed", range(12))
def test_random_lies_about_the_model_never_crash(packed: Path, seed: int) -> None:
    """Names, shapes, types and places exchanged among the tensors: refused, or a model that can be called."""
    rng = random.Random(seed)
    header, data = split(packed)
    for _ in range(20):
        entries = json.loads(header)
        names = [name for name in entries if name != "__metadata__"]
        for _ in range(rng.randrange(1, 4)):
            one, two = rng.sample(names, 2)
            keys = rng.choice([("dtype", "shape", "data_offsets"), ("data_offsets",), ("shape",), ("dtype",)])
            for key in keys:
                entries[one][key], entries[two][key] = entries[two][key], entries[one][key]
        same_size = {}
        for name in names:
            same_size.setdefault(json.dumps([entries[name]["dtype"], entries[name]["shape"]]), []).append(name)
        group = rng.choice([names for names in same_size.values() if len(names) > 1])
        one, two = rng.sample(group, 2)
        entries[one], entries[two] = entries[two], entries[one]
        try:
            model = fa.load(join(packed, entries, data))
        except ValueError as error:
            assert str(packed) in str(error)
            continue
        bits(model)


def test_damaged_weights_never_crash(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    for dtype in DTYPES:
        path = fa.pack(folder, tmp_path / "m", dtype)
        header, data = split(path)
        first = min(
            e["data_offsets"][0] for n, e in json.loads(header).items() if "/" in n and not n.startswith("file:")
        )
        for _ in range(20):
            changed = bytearray(data)
            for _ in range(50):
                changed[rng.randrange(first, len(data))] = rng.randrange(256)
            join(path, header, bytes(changed))
            bits(fa.load(path))


def test_verify(packed: Path) -> None:
    assert fa.load(packed, verify=True)
    content = bytearray(packed.read_bytes())
    content[-100] ^= 1
    packed.write_bytes(content)
    fa.load(packed)
    for check in (lambda: fa.load(packed, verify=True), lambda: open_weights(packed).verify()):  # type: ignore[attr-defined]
        with pytest.raises(WeightFileError, match="is damaged: its SHA-256 sum is not the one stored"):
            check()


def test_a_cold_start_brings_in_no_more_than_it_needs(packed: Path) -> None:
    """`fastattn embed "x"` from a packed file has 0.15 s beyond NumPy, which needless imports would eat up."""
    pytest.importorskip("tokenizers")
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fastattn", "embed", "--model", str(packed), "x"],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0 and json.loads(result.stdout)["text"] == "x"
    found = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert {"fastattn.loaders.packed", "fastattn.graph.packed", "tokenizers"} <= found
    heavy = {
        "fastattn.bench", "fastattn.kvcache", "fastattn.models.packing", "fastattn.loaders.packwriter",
        "fastattn.loaders.npz", "fastattn.cli.bench", "fastattn.cli.info", "fastattn.reference", "hashlib", "zipfile",
        "csv", "pyarrow", "tempfile", "subprocess", "logging", "asyncio", "unittest", "http", "ssl",
        "concurrent.futures", "multiprocessing", "huggingface_hub", "torch", "ml_dtypes",
    }  # fmt: skip
    numpys = subprocess.run(
        [sys.executable, "-c", "import sys, numpy, tokenizers; print(*sys.modules)"], capture_output=True, text=True
    ).stdout.split()
    assert not heavy & found - set(numpys)


# ---- command -------------------------------------------------------------------------------------------------------


def test_the_command(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.fastattn"
    status, out, err = run("pack", str(folder), str(target), "--dtype", "float32", "--verify", "--threads", "1")
    assert (status, err) == (0, "") and out.startswith(f"{target}: bert, float32, ") and "checksums good" in out
    status, out, err = run("pack", "--verify", "--json", str(target))
    found = json.loads(out)
    assert (status, err) == (0, "") and found["verified"] is True and found["bytes"] == target.stat().st_size
    assert found["numerics_version"] == fa.build_info()["numerics_version"] and found["format_version"] == 1
    content = bytearray(target.read_bytes())
    content[-9] ^= 128
    target.write_bytes(content)
    status, out, err = run("pack", "--verify", str(target))
    assert (status, out) == (1, "") and err.count("\n") == 1 and "is damaged" in err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["SRC"], 2, "expected DST"),
        ([], 2, "SRC"),
        (["SRC", "--verify", "--dtype", "int8"], 2, "--dtype: nothing is packed without DST"),
        (["SRC", "--verify"], 1, "not a packed file"),
        (["SRC", "DST", "--dtype", "int3"], 1, "dtype: got 'int3'"),
        (["nowhere", "DST", "--dtype", "float32"], 1, "nowhere: no such file or folder"),
        (["SRC", "SRC/config.json", "--dtype", "float32"], 1, "exists and is not a packed file"),
        (["SRC", "no/where/m", "--dtype", "float32"], 1, "there is no folder"),
    ],
)
def test_wrong_usage(folder: Path, tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    places = [a.replace("SRC", str(folder)).replace("DST", str(tmp_path / "dst")) for a in arguments]
    got, out, err = run("pack", *places)
    assert (got, out) == (status, "") and words in err and not (tmp_path / "dst").exists()
