# SPDX-License-Identifier: MIT
"""``fastattn info PATH`` and ``fastattn pack`` of GGUF files: what a model is, from its headers alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from golden import tiny_bert, tiny_decoders
from support import gguf_files, gguf_models, prompted_folders
from support.commands import run
from support.processes import output_of
from support.prompted_folders import END, START, VOCAB
from support.text_folders import save_task_folder

import fastattn as fa
from fastattn import cli
from fastattn.models.families import as_markdown

Capture = pytest.CaptureFixture[str]


def info(capsys: Capture, path: Path | str) -> tuple[dict[str, Any], dict[str, str]]:
    """(the JSON, the lines by their name) of a model."""
    assert cli.main(["info", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(line.isprintable() and (line[16] == " " or line[:17].isspace()) for line in out.splitlines()), out
    lines = {line[:17].rstrip(): line[17:] for line in out.splitlines()}
    assert cli.main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found, lines


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_gguf_file(tmp_path: Path, capsys: Capture) -> None:
    path = prompted_folders.save_gguf(
        tmp_path / "m.gguf", general__size_label="78K", general__quantized_by="somebody", general__license="mit"
    )
    found, lines = info(capsys, path)
    weights = fa.open_weights(path)
    elements = sum(weights[name].size for name in weights)
    halves = [name for name in weights if weights.dtype(name) == "F16"]
    assert found == {
        "path": str(path), "format": "gguf", "files": 1, "bytes": path.stat().st_size, "parameters": elements,
        "tensors": len(weights),
        "types": {
            "F16": {"tensors": len(halves), "bytes": sum(weights[name].nbytes for name in halves)},
            "F32": {"tensors": 7, "bytes": 7 * 48 * 4},
        },
        "gguf": {"version": 3, "alignment": 32, "fields": len(weights.fields)}, "architecture": "llama",  # type: ignore[attr-defined]
        "name": "tiny", "size_label": "78K", "quantized_by": "somebody", "license": "mit", "context": 96, "layers": 3,
        "hidden": 48, "feed_forward": 80, "heads": 6, "kv_heads": 2, "head_size": None, "vocabulary": VOCAB,
        "tokenizer": {
            "model": "gpt2", "pre": "gpt-2", "tokens": VOCAB, "usable": True, "why_not": None,
            "special": {
                "bos": {"id": START, "token": "<|im_start|>"}, "eos": {"id": END, "token": "<|im_end|>"},
            },
        },
        "chat_template": {"characters": len(prompted_folders.CHATML), "shape": "chatml"},
        "supported": True, "why_not": None, "family": "Llama", "task": "generate", "notes": [],
    }  # fmt: skip
    assert lines["file"].startswith(f"{path} (GGUF 3, alignment 32, ")
    assert lines["name"] == "tiny, 78K" and lines["parameters"] == f"{elements:,}"
    assert lines["tensors"].startswith("30: 23 F16 (") and "7 F32 (1,344 bytes)" in lines["tensors"]
    assert (lines["context"], lines["heads"]) == ("96 tokens", "6, 2 of keys and values")
    assert lines["tokenizer"] == f"gpt2, splitting gpt-2, {VOCAB} tokens"
    assert lines["chat template"] == "chatml, as `fastattn generate --chat` takes it"
    assert lines["runs"] == "yes, as Llama: a language model"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "phi3", "smollm3", "granite", "olmo2"])
def test_the_other_architectures(tmp_path: Path, capsys: Capture, family: str) -> None:
    path = gguf_models.make(tmp_path / "m.gguf", family, dtype="bfloat16")
    found, lines = info(capsys, path)
    assert (found["supported"], found["architecture"], found["tokenizer"]) == (True, family, None)
    assert found["layers"] == tiny_decoders.config(family)["num_hidden_layers"]
    assert lines["runs"].endswith(": a language model, with token ids alone") and lines["tokenizer"] == "none"
    assert lines["chat template"] == "none"


def test_blocks_and_shards(tmp_path: Path, capsys: Capture) -> None:
    config = tiny_decoders.config("llama", hidden_size=64, num_attention_heads=4, intermediate_size=64)
    arrays = gguf_models.tensors_of(config, tiny_decoders.tensors(config), "float16")
    rng = np.random.default_rng(1)
    for kind, part in (("Q4_1", "ffn_up"), ("Q8_0", "ffn_down")):
        name = f"blk.1.{part}.weight"
        shape = arrays[name].shape
        arrays[name] = gguf_files.Tensor(kind, shape, gguf_files.random_blocks(kind, shape, rng))
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(gguf_files.gguf_bytes(gguf_models.fields_of(config), arrays, version=2, alignment=128))
    found, lines = info(capsys, whole)
    assert (found["gguf"]["version"], found["gguf"]["alignment"]) == (2, 128)
    assert found["types"]["Q4_1"] == {"tensors": 1, "bytes": 64 * 64 // 32 * 20}
    assert found["types"]["Q8_0"] == {"tensors": 1, "bytes": 64 * 64 // 32 * 34}
    assert found["supported"] and "1 Q4_1 (2,560 bytes), 1 Q8_0" not in lines["tensors"]  # most bytes first
    assert list(found["types"]) == ["F16", "Q8_0", "Q4_1", "F32"]
    names = list(arrays)
    for number, part_names in enumerate((names[:9], names[9:])):
        fields = {} if number else gguf_models.fields_of(config)
        split = {"split.no": number, "split.count": 2, "split.tensors.count": len(names)}
        part = {name: arrays[name] for name in part_names}
        file = tmp_path / f"m-0000{number + 1}-of-00002.gguf"
        file.write_bytes(gguf_files.gguf_bytes({**fields, **split}, part))
    several, lines = info(capsys, tmp_path / "m-00001-of-00002.gguf")
    assert (several["files"], several["types"], several["parameters"]) == (2, found["types"], found["parameters"])
    assert several["bytes"] == sum(place.stat().st_size for place in tmp_path.glob("m-*.gguf"))
    assert several["supported"] and ", 2 files, " in lines["files"]


@pytest.mark.parametrize("more, why", [
    ({"general__architecture": "mamba"}, "general.architecture is 'mamba', which is not supported; supported: "),
    ({"general__architecture": None}, "general.architecture is 'None', which is not supported"),
    ({"general__type": "mmproj"}, "general.type is 'mmproj', expected 'model'"),
    ({"llama__block_count": 2**31 - 1}, "num_hidden_layers is '2147483647'"),
    ({"llama__block_count": 4}, "missing tensors"),
    ({"llama__block_count": 2}, "this architecture has no use for"),
    ({"llama__block_count": "three"}, "llama.block_count is 'three', expected a number from 1"),
    ({"llama__attention__head_count": np.array([6, 6, 3], np.int32)}, "llama.attention.head_count is array"),
    ({"llama__expert_count": 8}, "llama.expert_used_count is missing"),
    ({"llama__feed_forward_length": 96}, "has shape"),
    ({"llama__rope__scaling__type": "strange"}, "llama.rope.scaling.type is 'strange'"),
    ({"tokenizer__ggml__bos_token_id": 10**9}, "tokenizer.ggml.bos_token_id is 1000000000, expected an id below"),
], ids=str)  # fmt: skip
def test_why_a_file_does_not_run(tmp_path: Path, capsys: Capture, more: dict[str, Any], why: str) -> None:
    """The rest is told; and ``load`` refuses it with the same words."""
    path = prompted_folders.save_gguf(tmp_path / "m.gguf", **more)
    if "general__architecture" in more and more["general__architecture"] is None:
        data = path.read_bytes().replace(b"general.architecture", b"general.architectyre")
        path.write_bytes(data)
    found, lines = info(capsys, path)
    assert not found["supported"] and why in found["why_not"] and found["task"] is None
    assert lines["runs"] == f"no: {found['why_not']}"
    assert found["tensors"] == 30 and found["tokenizer"]["tokens"] == VOCAB
    with pytest.raises(ValueError) as caught:
        fa.load(path)
    assert found["why_not"].removesuffix("...") in str(caught.value)


def test_heads_by_layer(tmp_path: Path, capsys: Capture) -> None:
    more = {"llama__attention__head_count_kv": np.array([2, 2, 1], np.int32)}
    found, lines = info(capsys, prompted_folders.save_gguf(tmp_path / "m.gguf", **more))
    assert found["kv_heads"] == [2, 2, 1] and lines["heads"] == "6, 1 to 2 by layer of keys and values"
    assert not found["supported"]


@pytest.mark.parametrize("more, why", [
    ({"tokenizer__ggml__pre": "unheard-of"}, "unheard-of"),
    ({"tokenizer__ggml__model": "rwkv"}, "tokenizer.ggml.model is 'rwkv', which is not supported"),
    ({"tokenizer__ggml__merges": None}, "tokenizer.ggml.merges"),
], ids=str)  # fmt: skip
def test_tokenizers_that_cannot_be_used(tmp_path: Path, capsys: Capture, more: dict[str, Any], why: str) -> None:
    found, lines = info(capsys, prompted_folders.save_gguf(tmp_path / "m.gguf", **more))
    assert found["supported"] and found["tokenizer"]["usable"] is False and why in found["tokenizer"]["why_not"]
    assert "cannot be used: " in lines["tokenizer"]
    assert lines["runs"] == "yes, as Llama: a language model, with token ids alone"


def test_texts_of_strangers(tmp_path: Path, capsys: Capture) -> None:
    """No colours, no cursors, no lines of their own, and not a megabyte of them."""
    names = ("a\x1b[31mred", "two\nlines", "\u202egnp.exe", "x" * 100_000, "\x00", "naïve 東京")
    for name in names:
        more = {"general__name": name, "tokenizer__chat_template": f"{name}{{{{ 7 * 7 }}}}{{% raise %}}"}
        found, lines = info(capsys, prompted_folders.save_gguf(tmp_path / "m.gguf", **more))
        assert found["name"] == (name if len(name) < 100 else "x" * 297 + "...")
        assert len(lines["name"]) < 320 and found["chat_template"]["shape"] is None
        assert lines["chat template"].endswith(" characters, none of the common shapes")
    assert lines["name"] == names[-1]
    status, out, err = run("info", str(tmp_path / "m.gguf"), env={"PYTHONIOENCODING": "ascii"})
    assert (status, err) == (0, "") and "na\\xefve \\u6771\\u4eac" in out


# ---- folders and packed files ----------------------------------------------------------------------------------------


def test_a_folder(tmp_path: Path, capsys: Capture) -> None:
    folder = prompted_folders.save(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(prompted_folders.CHATML)
    found, lines = info(capsys, folder)
    assert (found["format"], found["architecture"], found["classes"]) == ("safetensors", "llama", ["LlamaForCausalLM"])
    assert found["bytes"] == (folder / "model.safetensors").stat().st_size
    assert (found["context"], found["layers"], found["heads"], found["kv_heads"]) == (96, 3, 6, 2)
    assert found["tokenizer"]["special"]["eos"] == {"id": END, "token": "<|im_end|>"}
    assert found["tokenizer"]["tokens"] == VOCAB and found["chat_template"]["shape"] == "chatml"
    assert lines["runs"] == "yes, as Llama: a language model" and lines["tokenizer"] == f"BPE, {VOCAB} tokens"
    other, _ = info(capsys, folder / "model.safetensors")
    assert {**other, "path": None} == {**found, "path": None}


@pytest.mark.parametrize("head, words", [
    (None, "an encoder"), ("sequence_classification", "an encoder with the head sequence_classification"),
    ("token_classification", "an encoder with the head token_classification"),
])  # fmt: skip
def test_encoders(tmp_path: Path, capsys: Capture, head: str | None, words: str) -> None:
    folder = tmp_path / "model"
    if head is None:
        tiny_bert.save_text_folder(folder)
    else:
        save_task_folder(folder, head, ["score"])
    found, lines = info(capsys, folder)
    assert found["supported"] and found["task"] == (head or "none") and lines["runs"] == f"yes, as Bert: {words}"
    assert "chat template" not in lines and lines["tokenizer"].startswith("WordPiece, ")
    packed, lines = info(capsys, fa.pack(folder, tmp_path / "m.fastattn", "int8"))
    for key in ("parameters", "context", "layers", "heads", "tokenizer", "family", "task"):
        if key != "parameters":
            assert packed[key] == found[key], key
    assert packed["packed"]["dtype"] == "int8" and lines["packed"].startswith("int8, format 1, numerics ")


@pytest.mark.parametrize("config, why", [
    ({"model_type": "rwkv"}, "model_type 'rwkv' is not supported"),
    ({}, "model_type"),
    ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size is 'wide'"),
    ("{", "config.json"), ("[]", "config.json"), (None, "a model needs its config.json"),
], ids=str)  # fmt: skip
def test_folders_that_do_not_run(tmp_path: Path, capsys: Capture, config: Any, why: str) -> None:
    folder = prompted_folders.save(tmp_path / "model")
    place = folder / "config.json"
    if config is None:
        place.unlink()
    elif isinstance(config, str):
        place.write_text(config)
    else:
        base = json.loads(place.read_text()) if config.get("hidden_size") else {}
        place.write_text(json.dumps({**base, **config}))
    found, lines = info(capsys, folder)
    assert not found["supported"] and why in found["why_not"] and found["tensors"] == 30
    assert lines["runs"].startswith("no: ")


@pytest.mark.parametrize("content", [
    {"model": {"type": "BPE", "vocab": [1, [], ["a"], [["b"], 2]]}, "added_tokens": 7}, {"model": 5},
    {"model": {"type": 3, "vocab": "abc"}, "added_tokens": [None, {"content": 5}, {"content": "c", "id": "x"}]}, {},
], ids=str)  # fmt: skip
def test_tokenizer_files_of_strange_shape(tmp_path: Path, capsys: Capture, content: Any) -> None:
    folder = prompted_folders.save(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "c"}, "chat_template": [3]}))
    found, _ = info(capsys, folder)
    assert found["supported"] and found["tokenizer"]["special"] == {"bos": {"id": None, "token": "c"}}
    (folder / "tokenizer.json").write_text("[" * 10_000)
    found, lines = info(capsys, folder)
    assert found["tokenizer"]["usable"] is False and "cannot be used: " in lines["tokenizer"]


@pytest.mark.parametrize("name, words", [
    ("none", "none: no such file or folder"), ("folder", "found neither model.safetensors"),
    ("text.txt", "unknown kind of file"), ("empty.gguf", "empty.gguf: "), ("cut.gguf", "cut.gguf: "),
    ("cut.safetensors", "cut.safetensors: "), ("name.gguf", "'general.name': not UTF-8"),
    ("type.gguf", "type IQ2_XXS is not read"), ("cut.fastattn", "cut.fastattn: "), ("model.bin", "pickled"),
])  # fmt: skip
def test_what_is_no_model(tmp_path: Path, capsys: Capture, name: str, words: str) -> None:
    place = tmp_path / name
    whole = prompted_folders.save_gguf(tmp_path / "whole.gguf").read_bytes()
    if name == "folder":
        place.mkdir()
    elif name == "name.gguf":
        prompted_folders.save_gguf(place, general__name=b"\xff")
    elif name == "type.gguf":
        tensor = gguf_files.Tensor("IQ2_XXS", (1, 256), bytes(66))
        place.write_bytes(gguf_files.gguf_bytes({"general.architecture": "llama"}, {"w": tensor}))
    elif name != "none":
        data = {"text.txt": b"hello", "cut.gguf": whole[:3000]}.get(name, b"")
        place.write_bytes(data)
    for more in ([], ["--json"]):
        assert cli.main(["info", str(place), *more]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("fastattn: ") and err.count("\n") == 1 and words in err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_weights_are_not_read(tmp_path: Path) -> None:
    """Of a file of 2 GiB, which is a hole: nothing of it comes into memory."""
    rows = 1 << 22
    tensor = gguf_files.Tensor("F32", (rows, 128), b"")
    path = tmp_path / "hole.gguf"
    path.write_bytes(gguf_files.gguf_bytes({"general.architecture": "llama"}, {"token_embd.weight": tensor}))
    size = path.stat().st_size
    os.truncate(path, size + rows * 128 * 4)
    code = """
        import sys
        from fastattn.cli import main
        assert main(["info", sys.argv[1]]) == 0
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    out = output_of(code, str(path))
    assert "536,870,912 (536.9 million)" in out and "1 F32 (2,147.5 MB)" in out
    assert int(out.splitlines()[-1]) < 300_000  # KiB


# ---- pack ------------------------------------------------------------------------------------------------------------


def mixed(path: Path) -> Path:
    """A file whose layers are halves, float32 and blocks."""
    config = tiny_decoders.config("llama", hidden_size=64, num_attention_heads=4, intermediate_size=64)
    arrays = gguf_models.tensors_of(config, tiny_decoders.tensors(config), "float16")
    name = "blk.1.ffn_down.weight"
    blocks = np.zeros((64, 2, 34), np.uint8)
    blocks[:, :, 1] = 0x2C  # a scale of 1/16
    arrays[name] = gguf_files.Tensor("Q8_0", (64, 64), blocks.tobytes())
    path.write_bytes(gguf_files.gguf_bytes(gguf_models.fields_of(config), arrays))
    return path


def test_pack_says_what_became_of_the_types(tmp_path: Path, capsys: Capture) -> None:
    source, target = mixed(tmp_path / "m.gguf"), tmp_path / "m.fastattn"
    assert cli.main(["pack", str(source), str(target), "--verify"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"{target}: llama, ") and out.endswith(", checksums good\n")
    assert ": llama, Q8_0 in 1 layer, float16 in 12 layers (of F16 F32 Q8_0), " in out
    assert cli.main(["pack", "--verify", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dtype"], found["gguf_types"], found["dequantized"]) == ("stored", ["F16", "F32", "Q8_0"], [])
    assert found["dtypes"] == {"Q8_0": 1, "float16": 12}
    told, lines = info(capsys, target)
    assert (told["packed"]["gguf_types"], told["packed"]["dequantized"]) == (["F16", "F32", "Q8_0"], [])
    assert "from GGUF of F16 F32 Q8_0" in lines["packed"]
    assert told["parameters"] == info(capsys, source)[0]["parameters"]
    ids = np.arange(9)[None]
    expected = fa.load(source)(ids).logits
    assert fa.load(target)(ids).logits.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_pack_in_a_type(tmp_path: Path, capsys: Capture, dtype: str) -> None:
    source, target = mixed(tmp_path / "m.gguf"), tmp_path / "m.fastattn"
    assert cli.main(["pack", str(source), str(target), "--dtype", dtype]) == 0
    assert f": llama, {dtype} (of F16 F32 Q8_0, Q8_0 dequantised), " in capsys.readouterr().out
    ids = np.arange(9)[None]
    assert fa.load(target)(ids).logits.tobytes() == fa.load(source, dtype)(ids).logits.tobytes()


def test_pack_of_folders_says_what_it_did(tmp_path: Path, capsys: Capture) -> None:
    folder = tiny_bert.save_text_folder(tmp_path / "model")
    assert cli.main(["pack", str(folder), str(tmp_path / "m.fastattn")]) == 0
    assert f"{tmp_path / 'm.fastattn'}: bert, int8, " in capsys.readouterr().out
    assert cli.main(["pack", "--verify", str(tmp_path / "m.fastattn"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dtypes"], found["gguf_types"], found["dequantized"]) == ({}, [], [])


def test_pack_of_a_damaged_file(tmp_path: Path, capsys: Capture) -> None:
    source, target = mixed(tmp_path / "m.gguf"), tmp_path / "m.fastattn"
    for data, words in (
        (source.read_bytes()[:-200], "truncated"),
        (source.read_bytes().replace(b"llama.block_count", b"llama.block_cound"), "llama.block_count is missing"),
    ):
        source.write_bytes(data)
        assert cli.main(["pack", str(source), str(target)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err and str(source) in err
        assert not target.exists() and [place.name for place in tmp_path.iterdir()] == ["m.gguf"]
        mixed(source)


# ---- damaged files ---------------------------------------------------------------------------------------------------


def test_mutations(tmp_path: Path, capsys: Capture) -> None:
    """Told or refused in one line, whatever byte is another."""
    gguf = prompted_folders.save_gguf(tmp_path / "m.gguf")
    packed = fa.pack(gguf, tmp_path / "m.fastattn")
    folder = prompted_folders.save(tmp_path / "folder")
    rng = np.random.default_rng(5)
    statuses = {0: 0, 1: 0}
    for place in (gguf, packed, folder / "config.json", folder / "tokenizer.json", folder / "tokenizer_config.json"):
        whole = place.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(min(len(data), 9000)))] = int(rng.integers(256))
            place.write_bytes(data[: int(rng.integers(len(data)))] if rng.integers(8) == 0 else data)
            status = cli.main(["info", str(folder if place.parent == folder else place)])
            out, err = capsys.readouterr()
            assert (err.count("\n"), bool(out)) == ((0, True) if status == 0 else (1, False)), err
            statuses[status] += 1
        place.write_bytes(whole)
    assert statuses[0] > 20 and statuses[1] > 20


def test_families(capsys: Capture) -> None:
    """A table for people, or the same as objects; alone."""
    assert cli.main(["info", "--families"]) == 0
    table = capsys.readouterr().out
    assert cli.main(["info", "--families", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert table == as_markdown() + "\n"
    assert {"name", "model_types", "gguf", "heads", "decoder"} == rows[0].keys()
    assert any(row["model_types"] == ["qwen3"] and row["gguf"] == ["qwen3"] and row["decoder"] for row in rows)
    for more in (["--threads", "1"], ["somewhere"]):
        assert cli.main(["info", "--families", *more]) == 2
        assert "--families" in capsys.readouterr().err
