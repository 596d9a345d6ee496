# SPDX-License-Identifier: MIT
"""GGUF files with faults, all the way from loading to generated text: every one works, or is refused by name.

Bytes are flipped, files are cut, fields get other types and numbers, arrays of the tokenizer other lengths. What may
come of it is a model that works, or a ``ValueError`` that names the file. FASTATTN_FUZZ_CASES says how many of each
kind, FASTATTN_FUZZ_SEED where they begin; the seed of a case is in its message.
"""

from __future__ import annotations

import os
import random
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders, tiny_moe
from support import gguf_models, gguf_moe
from support.gguf_files import BOOL, F32, F64, I32, STR, U8, U32, U64, Array, gguf_bytes

import fastattn as fa

CASES = int(os.environ.get("FASTATTN_FUZZ_CASES", "120"))
FIRST = int(os.environ.get("FASTATTN_FUZZ_SEED", "0"))
VOCAB = 101
FAMILIES = (
    "llama", "qwen3", "phi3", "granite", "mixtral", "qwen2_moe", "gpt_oss", "gpt_neox", "stablelm", "falcon",
)  # fmt: skip
SMALL = {"num_hidden_layers": 1, "vocab_size": VOCAB}

Fields = dict[str, Any]


def byte_tokenizer() -> Fields:
    """Byte-level BPE of letters, with a few merges."""
    tokens = [chr(33 + i) for i in range(90)] + ["ab", "abc", "\u0120a", "\u0120", "cd", "abcd"]
    tokens += [f"<|{i}|>" for i in range(VOCAB - len(tokens) - 2)] + ["<s>", "<|im_end|>"]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 96 + [4] * (VOCAB - 98) + [3, 3],
        "tokenizer.ggml.merges": ["a b", "ab c", "\u0120 a", "c d", "ab cd"],
        "tokenizer.ggml.bos_token_id": VOCAB - 2, "tokenizer.ggml.eos_token_id": VOCAB - 1,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}", "general.sampling.temp": 0.5,
    }  # fmt: skip


def piece_tokenizer() -> Fields:
    """SentencePiece's BPE."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(40)), *"abcdefgh\u2581", "ab", "cd", "abcd"]
    tokens += [f"t{i}" for i in range(VOCAB - len(tokens))]
    types = [2, 3, 3] + [6] * 40 + [1] * (VOCAB - 43)
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": [-float(i) for i in range(VOCAB)],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": True,
    }  # fmt: skip


def unigram_tokenizer() -> Fields:
    return {**piece_tokenizer(), "tokenizer.ggml.model": "t5", "tokenizer.ggml.remove_extra_whitespaces": True,
            "tokenizer.ggml.add_eos_token": False}  # fmt: skip


def word_tokenizer() -> Fields:
    return {**piece_tokenizer(), "tokenizer.ggml.model": "bert", "tokenizer.ggml.seperator_token_id": 2,
            "tokenizer.ggml.cls_token_id": 1}  # fmt: skip


TOKENIZERS = (byte_tokenizer, piece_tokenizer, unigram_tokenizer, word_tokenizer)


def whole(family: str, tokenizer: Any) -> tuple[Fields, Fields]:
    """Fields and tensors of a file that works."""
    made, maker = (gguf_moe, tiny_moe) if family in tiny_moe.BASE else (gguf_models, tiny_decoders)
    c = maker.config(family, **SMALL)
    fields = {**made.fields_of(c), **tokenizer()}
    return fields, made.tensors_of(c, maker.tensors(c), "float16")


# ---- what is done to a file ------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 7, 64, 255, 256, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def odd_value(rng: random.Random, value: Any) -> Any:
    """Another value in place of one of a field."""
    made: list[Any] = [
        U32(rng.choice(NUMBERS)), I32(-rng.choice(NUMBERS[:9])), U64(rng.choice((1 << 63, (1 << 64) - 1, 1 << 40, 5))),
        F32(rng.choice((0.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"), 0.5))),
        F64(rng.choice((1e308, 1e-320, float("nan"), 2.0**63))), STR(rng.choice(("", "x", "\0", "1", "linear"))),
        STR(rng.choice((b"\xff\xfe", b"\xed\xa0\x80", b"a" * 70000))), BOOL(rng.random() < 0.5), U8(rng.randrange(256)),
        Array(8, rng.choice(([], ["a"], ["a", "b"], [b"\xff"]))), Array(4, [1] * rng.choice((0, 1, 2, 3))),
        np.array([rng.choice((0.0, float("nan"), 1.0))] * rng.choice((0, 1, 4)), np.float32), np.zeros(3, np.bool_),
    ]  # fmt: skip
    if type(value) is int:
        made += [value + rng.choice((-1, 1, 2)), value * 2, max(value // 2, 0), U64(value), U8(value % 256)] * 2
    if type(value) is float:
        made += [value * rng.choice((-1.0, 1e30, 1e-30, 0.0))] * 4
    if isinstance(value, list):
        made += [odd_list(rng, value) for _ in range(20)]
    return rng.choice(made)


def odd_list(rng: random.Random, values: list[Any]) -> Any:
    """Another array in place of one."""
    values = list(values)
    at = rng.randrange(len(values))
    what = rng.randrange(10)
    if what == 0:
        return values[:at] or Array(8 if isinstance(values[0], str) else 5, [])
    if what == 1:
        return values + values[: at + 1]
    if what == 2:
        values[at] = values[rng.randrange(len(values))]
        return values
    if what == 3:
        return values[::-1]
    if what == 4:
        return [str(value) for value in values]
    if what == 5:
        return [len(str(value)) for value in values]
    if what == 6 and not isinstance(values[0], str):
        return np.array(values).astype(rng.choice(("u1", "i1", "u2", "i2", "u4", "i8", "u8", "f4", "f8")))
    if isinstance(values[0], str):
        odd = ("", " ", "a", "  ", "a  b", "\0", "\ud7ff", "x y z", "\u2581", "<0x41>", "<0xZZ>", "ab c", "b" * 5000)
        values[at] = rng.choice((*odd, b"\xff", b"\xc3"))
    elif isinstance(values[0], float):
        values[at] = rng.choice((float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 0.0))
    else:
        values[at] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, -1, 100, 2**31 - 1, -(2**31)))
    return values


def fields_changed(rng: random.Random) -> tuple[bytes, str]:
    family, tokenizer = rng.choice(FAMILIES), rng.choice(TOKENIZERS)
    fields, tensors = whole(family, tokenizer)
    done = [family, tokenizer.__name__]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        key = rng.choice([*fields] + [one for one in fields if one.startswith("tokenizer")])
        what = rng.random()
        if what < 0.1:
            del fields[key]
            done.append(f"{key} removed")
        elif what < 0.2:
            arch = fields.get("general.architecture", "llama")
            new = rng.choice((
                f"{arch}.rope.scaling.type", f"{arch}.rope.scaling.factor", f"{arch}.attention.key_length",
                f"{arch}.attention.value_length", f"{arch}.rope.scaling.original_context_length", f"{arch}.logit_scale",
                f"{arch}.attention.sliding_window", f"{arch}.expert_gating_func", f"{arch}.expert_count",
                f"{arch}.expert_weights_norm", f"{arch}.expert_group_count", "general.sampling.top_k",
                "general.sampling.top_p",
                "general.sampling.penalty_repeat", "general.sampling.min_p", "tokenizer.ggml.eot_token_id",
                "tokenizer.ggml.add_eos_token", "tokenizer.chat_templates", "general.type", "general.alignment",
                "tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.mask_token_id", "split.count",
            ))  # fmt: skip
            fields[new] = odd_value(rng, rng.choice((3, 0.5)))
            done.append(f"{new}={str(fields[new])[:60]}")
        else:
            fields[key] = odd_value(rng, fields[key])
            done.append(f"{key}={str(fields[key])[:60]}")
    return gguf_bytes(fields, tensors), ", ".join(done)


def tensors_changed(rng: random.Random) -> tuple[bytes, str]:
    family = rng.choice(FAMILIES)
    fields, tensors = whole(family, rng.choice(TOKENIZERS))
    name = rng.choice(list(tensors))
    array = tensors[name]
    what = rng.randrange(7)
    if what == 0:
        tensors = {one: value for one, value in tensors.items() if one != name}
    elif what == 1:
        other = f"blk.{rng.choice((0, 7, 10**9))}.{rng.choice(('a', 'attn_q.weight'))}"
        tensors = {other if one == name else one: value for one, value in tensors.items()}
    elif what == 2:
        tensors[name] = array.T.copy() if array.ndim == 2 else array[:-1].copy()
    elif what == 3:
        tensors[name] = array.astype(rng.choice(("f8", "f4", "i1", "i4", "i8")))
    elif what == 4:
        tensors[name] = np.full_like(array, rng.choice((np.nan, np.inf, 6e4, 0)))
    elif what == 5:
        tensors[name] = array[None] if rng.random() < 0.5 else array.reshape(-1)
    else:
        tensors["rope_freqs.weight"] = np.full(rng.choice((0, 1, 4, 8)) or 3, rng.choice((1, 0, np.nan, 8)), np.float32)
    return gguf_bytes(fields, tensors), f"{family}, {name}: change {what}"


def bytes_changed(rng: random.Random) -> tuple[bytes, str]:
    family, tokenizer = rng.choice(FAMILIES), rng.choice(TOKENIZERS)
    data = bytearray(gguf_bytes(*whole(family, tokenizer)))
    header = len(gguf_bytes(whole(family, tokenizer)[0], {}))
    done = [family, tokenizer.__name__]
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(header + 1500)
        what = rng.randrange(4)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 1 << 31, 1 << 32, 1 << 62, (1 << 64) - 1)))
        else:
            del data[rng.choice((at, rng.randrange(len(data)))) :]
            data += bytes(rng.choice((0, 0, header)))
            done.append(f"cut to {len(data)}")
            break
        done.append(f"{what} at {at}")
        if at >= len(data):
            break
    return bytes(data), ", ".join(done)


KINDS = {"fields": fields_changed, "tensors": tensors_changed, "bytes": bytes_changed}


# ---- what has to come of it ------------------------------------------------------------------------------------------


def use(path: Path, rng: random.Random) -> Iterator[Any]:
    """What people do with a file, one call after the other."""
    yield fa.open_weights(path)
    model: Any = fa.load(path, strict=rng.random() < 0.8)
    yield model
    if rng.random() < 0.3:
        yield fa.load(fa.pack(path, path.with_suffix(".fastattn")))
    tokens = min(model.max_positions - 3, 4)
    if tokens > 0:
        ids = [i % model.vocab_size for i in range(3, 3 + tokens)]
        yield model.generate(ids, max_new_tokens=2, ignore_eos=True, temperature=0)
        yield model.score(ids)
    yield model.eos_token_ids, model.notes
    if model.has_tokenizer:
        tokenizer = model.tokenizer
        ids = tokenizer.encode("abcd ab\n<s> z\u00e9")
        yield [tokenizer.decode(ids), tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.chat_templates]
        yield tokenizer.all_special_ids, len(tokenizer), tokenizer.vocab_size
        if tokens > 0:
            yield model.generate("ab", max_new_tokens=1)
            yield list(model.stream("a", max_new_tokens=2, temperature=1.5, min_new_tokens=1))


def resident() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_faults(tmp_path: Path, kind: str) -> None:
    worked = refused = 0
    before = resident()
    for seed in range(FIRST, FIRST + CASES):
        rng = random.Random(f"{kind} {seed}")
        data, what = KINDS[kind](rng)
        path = tmp_path / f"{seed}.gguf"
        path.write_bytes(data)
        try:
            for _ in use(path, rng):
                pass
            worked += 1
        except ValueError as error:
            refused += 1
            text = str(error)
            assert str(path) in text or text.startswith("prompts: "), f"seed {seed}: {what}: {text!r} names no file"
            assert len(text) < 1500, f"seed {seed}: {what}: a message of {len(text)} letters"
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {what}: {error!r}") from error
        path.unlink()
        path.with_suffix(".fastattn").unlink(missing_ok=True)
    assert worked and refused
    assert resident() - before < 100 << 20


FOUND: dict[str, tuple[Fields, str]] = {
    "tokens that are a number": ({"tokenizer.ggml.tokens": 3}, "tokens is u32, expected an array of str"),
    "tokens that are a flag": ({"tokenizer.ggml.tokens": True}, "tokenizer.ggml.tokens is bool"),
    "tokens that are numbers": ({"tokenizer.ggml.tokens": [1.0]}, "tokenizer.ggml.tokens is array of f32"),
    "a list for a scaling": ({"llama.rope.scaling.type": [1, 2]}, "rope.scaling.type is array"),
    "an empty list for a scaling": ({"llama.rope.scaling.type": Array(8, [])}, "rope.scaling.type is <GgufStrings"),
    "a list for the type": ({"general.type": [1, 2]}, "general.type is"),
    "temperatures": ({"general.sampling.temp": [0.0, 0.0]}, "sampling.temp is array of f32, expected one number"),
    "a list for top_p": ({"general.sampling.top_p": Array(8, [])}, "general.sampling.top_p is array of str"),
    "flags for min_p": ({"general.sampling.min_p": np.zeros(3, np.bool_)}, "general.sampling.min_p is array of bool"),
    "an epsilon beyond float32": ({"llama.attention.layer_norm_rms_epsilon": F64(1e300)}, "rms_norm_eps"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_fields_of_other_kinds(tmp_path: Path, name: str) -> None:
    """What the cases above have found, each by itself."""
    changes, message = FOUND[name]
    fields, tensors = whole("llama", byte_tokenizer)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes({**fields, **changes}, tensors))
    with pytest.raises(ValueError, match=message) as raised:
        fa.load(path).generate([3], max_new_tokens=1)
    assert str(path) in str(raised.value)


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    """Files of a tokenizer without a model, as llama.cpp's tests have them."""
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(whole("llama", byte_tokenizer)[0], {}))
    assert len(fa.open_weights(path)) == 0
    for call in (fa.load, lambda one: fa.pack(one, tmp_path / "packed")):
        with pytest.raises(ValueError, match=r"m\.gguf: there are no tensors: a vocabulary"):
            call(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight", "blk.0.ffn_norm.weight", "blk.0.attn_v.weight"])
def test_weights_that_are_no_numbers(tmp_path: Path, name: str, value: float) -> None:
    """An error that names the file, in every call, never a token; one damaged number in a row is enough."""
    fields, tensors = whole("llama", byte_tokenizer)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[:48] = value
    if name == "token_embd.weight":
        tensors[name][:] = value
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(fields, tensors))
    model: Any = fa.load(path)
    logits = model([[3, 4, 5]]).logits
    if np.isfinite(logits).all():
        pytest.fail(f"{name} is not used")
    calls = (
        lambda: model.generate([3, 4, 5], max_new_tokens=2), lambda: model.score([3, 4, 5]),
        lambda: model.generate([3, 4, 5], max_new_tokens=2, temperature=1.0, seed=3, top_p=0.5, repetition_penalty=2.0),
        lambda: list(model.stream([3, 4, 5], max_new_tokens=2)), lambda: fa.pack(path, tmp_path / "packed.fastattn"),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="weights are damaged") as raised:
            call()
        assert str(path) in str(raised.value)


def test_logits_of_any_size_have_a_perplexity(tmp_path: Path) -> None:
    """Beyond what a float holds it is infinite."""
    fields, tensors = whole("granite", byte_tokenizer)
    path = tmp_path / "m.gguf"
    for scale, expected in ((1e-30, True), (1e30, False)):
        path.write_bytes(gguf_bytes({**fields, "granite.logit_scale": scale}, tensors))
        model: Any = fa.load(path)
        (score,) = model.score([3, 4, 5, 6, 90])
        assert (score.perplexity == float("inf")) is expected and score.perplexity > 0
