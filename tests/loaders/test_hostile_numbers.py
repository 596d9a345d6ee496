# SPDX-License-Identifier: MIT
"""Numbers and nesting in files of strangers: refused by name where they are read, at once, and never as a traceback."""

from __future__ import annotations

import io
import itertools
import json
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_families
from support.text_folders import write_json

import fastattn as fa
from fastattn import cli
from fastattn.loaders import WeightFileError
from fastattn.loaders.jsonfile import MAX_DEPTH, MAX_DIGITS, parse_json, parse_json_object

HUGE = 10**400
SECONDS = 5.0  # a fault takes minutes or never ends; whole loads take milliseconds


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


# ---- the parser -----------------------------------------------------------------------------------------------------


def test_numbers_at_the_bounds() -> None:
    text = b'{"a": %d, "b": -%d, "c": 1.7976931348623157e308, "d": 1e-400, "e": [%d]}' % (3 * (10**39,))
    assert parse_json_object(text, "x.json") == {
        "a": 10**39, "b": -(10**39), "c": 1.7976931348623157e308, "d": 0.0, "e": [10**39],
    }  # fmt: skip
    assert MAX_DIGITS == 40
    assert parse_json(b"1000000000000000019884624838656", "x.json") == 1000000000000000019884624838656


@pytest.mark.parametrize("number", ["1" * 41, "-" + "9" * 41, "1" * 5000, "1" * 1_000_000])
@pytest.mark.parametrize("around", ["%s", "[%s]", "[[1, [%s]]]", "[1.5, %s, 2]"])
def test_long_integers_are_refused_with_their_key(number: str, around: str) -> None:
    digits = len(number.lstrip("-"))
    with pytest.raises(WeightFileError, match=f"^x.json: key is a number of {digits} digits, expected at most 40$"):
        parse_json(b'{"first": {"key2": 1}, "o": {"key": %s}, "z": 1}' % (around % number).encode(), "x.json")
    with pytest.raises(WeightFileError, match=f"^x.json: a number of {digits} digits"):
        parse_json(b"[%s]" % (around % number).encode(), "x.json")


@pytest.mark.parametrize("number", ["1e309", "-1e400", "1" * 400 + ".0", "9" * 309 + "e0", "1e999999999999"])
def test_numbers_that_become_infinite_are_refused(number: str) -> None:
    with pytest.raises(WeightFileError, match="^x.json: key is a number beyond what a double can hold$"):
        parse_json(b'{"key": %s}' % number.encode(), "x.json")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_for_numbers_are_refused(word: str) -> None:
    with pytest.raises(WeightFileError, match=f"^x.json: not valid JSON .{word} is not JSON"):
        parse_json(b'{"key": %s}' % word.encode(), "x.json")


@pytest.mark.parametrize("kind", ["list", "object", "both", "wide"])
def test_depth(kind: str) -> None:
    def text(depth: int) -> bytes:
        pairs = {"list": ("[", "]"), "object": ('{"a":', "}"), "both": ('[{"a":', "}]"), "wide": ("[[],{},", "]")}
        start, end = pairs[kind]
        times = {"both": depth // 2, "wide": depth - 1}.get(kind, depth)
        return (start * times + ("1" if kind != "wide" else '"x"') + end * times).encode()

    assert parse_json(text(MAX_DEPTH), "x.json") is not None
    for depth in (MAX_DEPTH + 2, 500, 900, 5000, 200_000):
        with pytest.raises(WeightFileError, match="^x.json: JSON is nested too deeply"):
            parse_json(text(depth), "x.json")


def test_many_flat_brackets_are_no_depth() -> None:
    value = {"merges": [["a", "b"]] * 50_000, "vocab": {str(i): i for i in range(50_000)}, "text": "[" * 1000}
    assert parse_json(json.dumps(value).encode(), "tokenizer.json") == value


# ---- every file that is read ----------------------------------------------------------------------------------------

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
DENSE = {"in_features": 32, "out_features": 5, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all files of sentence-transformers."""
    place = tiny_bert.save_text_folder(tmp_path / "model")
    write_json(place / "modules.json", MODULES)
    write_json(place / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    write_json(place / "2_Dense" / "config.json", DENSE)
    tiny_bert.save_safetensors(place / "2_Dense" / "model.safetensors", {"linear.weight": np.ones((5, 32), np.float32)})
    write_json(place / "sentence_bert_config.json", {"max_seq_length": 30})
    write_json(place / "tokenizer_config.json", {"model_max_length": 40})
    write_json(place / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    return place


FILES = [
    ("config.json", "layer_norm_eps"),
    ("config.json", "vocab_size"),
    ("config.json", "hidden_act"),
    ("config.json", "of_no_interest"),
    ("sentence_bert_config.json", "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
    ("config_sentence_transformers.json", "prompts"),
    ("1_Pooling/config.json", "word_embedding_dimension"),
    ("2_Dense/config.json", "in_features"),
    ("modules.json", "idx"),
]


@pytest.mark.parametrize(("name", "key"), FILES)
@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE], "1e400", nested(150), nested(900)])
def test_side_files(folder: Path, name: str, key: str, value: Any) -> None:
    pytest.importorskip("tokenizers")
    fa.load(folder).embed(["a"])
    values = json.loads((folder / name).read_text())
    (values[0] if isinstance(values, list) else values)[key] = value
    (folder / name).write_text(json.dumps(values).replace('"1e400"', "1e400"))
    with pytest.raises(ValueError, match="a number|nested too deeply") as caught:
        fa.load(folder).embed(["a"])
    assert str(folder / name) in str(caught.value) and len(str(caught.value)) < 500
    assert key in str(caught.value) or "nested" in str(caught.value)


def test_names_that_no_file_can_have(folder: Path) -> None:
    pytest.importorskip("tokenizers")
    write_json(folder / "modules.json", [*MODULES[:2], {**MODULES[2], "path": "a" * 5000}])
    with pytest.raises(FileNotFoundError, match="modules.json names this Dense module, but it does not exist"):
        fa.load(folder).embed(["a"])


def test_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers")
    for name, key in FILES:
        before = (folder / name).read_text()
        values = json.loads(before)
        (values[0] if isinstance(values, list) else values)[key] = HUGE
        (folder / name).write_text(json.dumps(values))
        assert cli.main(["embed", "--model", str(folder), "a"]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("fastattn: ") and err.count("\n") == 1 and "401 digits" in err
        (folder / name).write_text(before)


def test_index_of_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(tiny_bert.tensors("plain"), "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    write_json(index, {"metadata": {"total_size": 10**39}, "weight_map": names})
    fa.load(folder)
    write_json(index, {"metadata": {"total_size": HUGE}, "weight_map": names})
    with pytest.raises(WeightFileError, match=r"index\.json: total_size is a number of 401 digits"):
        fa.load(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [HUGE]}, {"shape": [10**39, 10**39]}, {"shape": [10**39] * 33}, {"shape": [0, 10**39]},
        {"data_offsets": [0, HUGE]}, {"data_offsets": [0, 10**39]}, {"data_offsets": [10**39, 10**39]},
        {"shape": [8.0]}, {"shape": [True]}, {"shape": nested(90)}, {"shape": [-1, -8]},
    ],
)  # fmt: skip
def test_safetensors_headers(tmp_path: Path, entry: dict[str, Any]) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(WeightFileError, match=r"w\.safetensors: ") as caught:
        fa.open_weights(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "shape",
    [
        f"({HUGE},)",
        f"(0x{'f' * 9000},)",
        f"(-0x{'f' * 9000},)",
        f"({2**63},)",
        f"({2**62}, {2**62})",
        "(1e999,)",
        "(2j,)",
    ],
)
def test_npz_headers(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8))
    with pytest.raises(WeightFileError, match=r"w\.npz: member 'w\.npy': ") as caught:
        fa.open_weights(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("place", [2**31, 2**62, 2**63, 2**64 - 1])
def test_places_in_zip_files(tmp_path: Path, place: int) -> None:
    """The 64-bit offset of a member, further than a file can be."""
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3, np.float32))
    data = bytearray(buffer.getvalue())
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    (name,) = struct.unpack_from("<H", data, start + 28)
    struct.pack_into("<HH", data, start + 28, name, 12)
    struct.pack_into("<I", data, start + 42, 0xFFFFFFFF)
    entry = data[start : start + 46 + name] + struct.pack("<HHQ", 1, 8, place)
    tail = bytearray(data[end:])
    struct.pack_into("<I", tail, 12, len(entry))
    path = tmp_path / "w.npz"
    path.write_bytes(bytes(data[:start]) + bytes(entry) + bytes(tail))
    with pytest.raises(WeightFileError, match=r"w\.npz: "):
        fa.open_weights(path)


# ---- config.json, key by key ----------------------------------------------------------------------------------------

CASES = ("bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta_conv", "deberta_own", "modernbert",
         "modernbert_biased", "nomic_stretched", "new_mixed", "gte")  # fmt: skip
MORE = ("pad_token_id", "rope_scaling", "rope_parameters", "rope_theta", "layer_types", "num_labels", "head_dim",
        "tie_word_embeddings", "type_vocab_size", "embedding_size", "max_position_embeddings")  # fmt: skip
VALUES: list[Any] = [
    HUGE, -HUGE, 10**39, 2**31 - 1, 10**9, 10**6, 0, -1, 1, 3, 1e308, 1e30, 1e-300, 5e-324, -0.5, None, True, False, "",
    "a" * 100, [], [HUGE], [None], nested(100), {}, {"rope_type": "yarn", "factor": 1e300},
    {"type": "ntk", "factor": 8.0, "mixed_b": 1e30}, {"full_attention": {"rope_theta": 1e308}},
    {"rope_type": "longrope", "short_factor": [1e-300] * 4, "long_factor": [1e300] * 4},
]  # fmt: skip


def tries() -> list[tuple[str, str, Any]]:
    """Every key of every family with a fifth of the values: each value meets each kind of key in some of them."""
    found = []
    for number, case in enumerate(CASES):
        families: Any = later_families if case in later_families.CASES else tiny_families
        keys = dict.fromkeys((*families.config(case), *MORE))
        every = enumerate(itertools.product(keys, VALUES), number)
        found += [(case, key, value) for i, (key, value) in every if i % 5 == 0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_any_value_under_any_key(tmp_path: Path, case: str) -> None:
    """A model, or an error that names the file: at once, and in little memory."""
    families: Any = later_families if case in later_families.CASES else tiny_families
    place = families.save_folder(tmp_path / "model", case)
    config = json.loads((place / "config.json").read_text())
    refused = 0
    for _, key, value in (each for each in tries() if each[0] == case):
        (place / "config.json").write_text(json.dumps({**config, key: value}))
        start = time.monotonic()
        try:
            fa.load(place)([[3, 4, 5]])
        except (ValueError, TypeError) as error:
            assert str(place) in str(error), (key, value)
            refused += 1
        assert time.monotonic() - start < SECONDS, (key, value)
    assert refused > 20


@pytest.mark.parametrize("case", ["modernbert", "nomic", "new", "gte", "deberta"])
def test_far_positions_cost_nothing(tmp_path: Path, case: str) -> None:
    """Tables of cosines are as long as the sequences that come, whatever the file allows."""
    place = later_families.save_folder(tmp_path / "model", case)
    config = json.loads((place / "config.json").read_text())
    expected = fa.load(place)([[3, 4, 5]]).last_hidden_state.tobytes()
    key = "n_positions" if "n_positions" in config else "max_position_embeddings"
    (place / "config.json").write_text(json.dumps({**config, key: 2**31 - 1}))
    model = fa.load(place)
    assert model([[3, 4, 5]]).last_hidden_state.tobytes() == expected


# ---- rope_table -----------------------------------------------------------------------------------------------------

NUMBERS: list[Any] = [None, 0, 1, -1, 2, 32, 1.5, 1e-300, 1e-30, 1e30, 1e300, 5e-324, float("inf"), float("nan"), HUGE,
                      -HUGE, 10**5000, 2**63, True, "x", [], np.float16(2), np.float32(3e38), np.int8(-1)]  # fmt: skip
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0, "original_max_position_embeddings": 2048},
    "ntk": {"factor": 8.0, "mixed_b": 0.5},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
             "mscale_all_dim": 1.0, "truncate": True, "attention_factor": 1.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192},
    "longrope": {"factor": 4.0, "original_max_position_embeddings": 4096, "short_factor": [1.0] * 4,
                 "long_factor": [2.0] * 4, "attention_factor": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
def test_any_number_in_a_scaling(kind: str) -> None:
    """Finite cosines, or an error that names the key; and pairs of keys, since numbers multiply."""
    good = SCALINGS[kind]
    keys = [(key,) for key in good] + list(itertools.combinations(good, 2))
    for number, (some, value) in enumerate(itertools.product(keys, NUMBERS)):
        changed = {key: [value] * 4 if isinstance(good[key], list) else value for key in some}
        base = (10000.0, 1.0000001, 1e30)[number % 3]
        try:
            table = fa.rope_table([0, 5, 2**40], 8, base=base, scaling={"rope_type": kind, **good, **changed},
                                  max_position_embeddings=4096, seq_len=(None, 10**9)[number % 2])  # fmt: skip
        except (ValueError, TypeError) as error:
            assert any(key in str(error) for key in some) and len(str(error)) < 1000, (changed, str(error))
        else:
            assert np.isfinite(table.cos).all() and np.isfinite(table.sin).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fa.rope_table(1, 8, base=HUGE), "^base: an integer of 1329 bits, expected a finite number above 1"),
        (lambda: fa.rope_table(1, 8, base=-HUGE), "^base: -an integer of 1329 bits"),
        (lambda: fa.rope_table(1, 8, base=1e31), r"^base: 1e\+31, expected .* at most 1e\+30"),
        (lambda: fa.rope_table(1, 1 << 20), "^rotary_dim: 1048576, expected at most 8192"),
        (lambda: fa.rope_table(1, HUGE), "^rotary_dim: an integer of 1329 bits, expected at most 2"),
        (lambda: fa.rope_table(HUGE, 8), "^positions: an integer of 1329 bits, expected at most 2"),
        (lambda: fa.rope_table(1, 8, seq_len=-(10**5000)), "^seq_len: -an integer of 16610 bits, expected at least 0"),
        (lambda: fa.rope_table(1, 8, max_position_embeddings=HUGE), "^max_position_embeddings: an integer of 1329"),
        (lambda: fa.rope_table(1, 8, scaling={"rope_type": [HUGE]}), "^scaling: rope_type .*, expected one of"),
        (lambda: fa.rope_table(1, 8, scaling={"rope_type": {}}), "^scaling: rope_type {}, expected one of"),
        (lambda: fa.rope_table(1, 8, scaling={"rope_type": "ntk", "factor": 2, "mixed_b": 1001}),
         r"^scaling\['mixed_b'\]: 1001, expected a finite number above 0, at most 1000"),
        (lambda: fa.rope_table(1, 8, scaling={"rope_type": "linear", "factor": 1e-31}),
         r"^scaling\['factor'\]: 1e-31, expected .* at least 1e-30 in size"),
    ],
)  # fmt: skip
def test_refused_by_rope_table(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [HUGE, -HUGE, 10**5000], ids=["long", "negative", "longer"])
def test_huge_integers_for_real_arguments(value: int) -> None:
    x, q = np.ones((2, 4), np.float32), np.ones((1, 2, 4), np.float32)
    for call in (lambda: fa.layer_norm(x, x[0], None, value), lambda: fa.rms_norm(x, x[0], value)):
        with pytest.raises(ValueError, match="^eps: an integer of [0-9]+ bits, expected a finite number"):
            call()
    with pytest.raises(ValueError, match="^scale: an integer of [0-9]+ bits, expected a finite float32"):
        fa.attention(q, q, q, scale=value)
    with pytest.raises(ValueError, match="^softcap: an integer of [0-9]+ bits"):
        fa.attention(q, q, q, softcap=value)


def test_the_largest_rope_table_takes_moments() -> None:
    start = time.monotonic()
    mixed = {"rope_type": "ntk", "factor": 1e30, "mixed_b": 1000}
    assert np.isfinite(fa.rope_table(2, 8192, base=1e30, scaling=mixed).cos).all()
    assert time.monotonic() - start < SECONDS
