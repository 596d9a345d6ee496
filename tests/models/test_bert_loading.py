# SPDX-License-Identifier: MIT
"""Which folders make a BERT, and what is said about those that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.bert_folders import change_config, change_tensors

import fastattn as fa

Array = np.ndarray[Any, Any]


def hidden(path: Path, name: str = "plain") -> bytes:
    """The bits that the model at ``path`` makes of its batch."""
    return fa.load(path)(*tiny_bert.batch(name)).last_hidden_state.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert.save_folder(tmp_path / "model", "plain")


# ---- ways to store the same model ----------------------------------------------------------------------------------


def test_shards_npz_and_single_files(folder: Path) -> None:
    expected = hidden(folder)
    assert hidden(folder / "model.safetensors") == expected
    assert fa.load(str(folder))(*tiny_bert.batch("plain")).last_hidden_state.tobytes() == expected
    arrays = tiny_bert.tensors("plain")
    np.savez(folder / "w.npz", **arrays)
    assert hidden(folder / "w.npz") == expected
    names = list(arrays)
    weight_map = {}
    for number in range(3):
        part = {name: arrays[name] for name in names[number::3]}
        file_name = f"model-{number + 1:05}-of-00003.safetensors"
        tiny_bert.save_safetensors(folder / file_name, part)
        weight_map |= dict.fromkeys(part, file_name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert hidden(folder) == expected


def test_prefix_heads_and_buffers(folder: Path) -> None:
    """A checkpoint of BertForMaskedLM: everything under bert., a head, a pooler left out, an index buffer."""
    expected = hidden(folder)
    arrays = {f"bert.{k}": a for k, a in tiny_bert.tensors("plain").items() if not k.startswith("pooler")}
    arrays["bert.embeddings.position_ids"] = np.arange(40)[None]
    arrays["cls.predictions.bias"] = np.zeros(50, np.float32)
    arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    change_config(folder, architectures=["BertModel"])
    assert hidden(folder) == expected
    model = fa.load(folder)
    assert model([[1, 2]]).pooler_output is None
    assert set(model.tensors.used) | set(model.tensors.ignored) == set(arrays)
    assert "cls.predictions.bias" in model.tensors.ignored and "bert.embeddings.LayerNorm.bias" in model.tensors.used

    del arrays["bert.embeddings.word_embeddings.weight"]  # stored once, under the name of its twin
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    assert hidden(folder) == expected
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"missing tensor 'bert\.embeddings\.word_embeddings\.weight'"):
        fa.load(folder)


def test_a_backbone_with_the_name_of_a_head(folder: Path) -> None:
    """Sentence encoders may keep the architecture they were trained as: without the head they are encoders."""
    expected = hidden(folder)
    for architecture in ("BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"):
        change_config(folder, architectures=[architecture])
        model = fa.load(folder)
        assert model.head is None and not model.heads
        assert hidden(folder) == expected


HEADS = {
    "BertForSequenceClassification": ("classifier", 3),
    "BertForTokenClassification": ("classifier", 3),
    "BertForQuestionAnswering": ("qa_outputs", 2),
}


@pytest.mark.parametrize("architecture", HEADS)
def test_heads(folder: Path, architecture: str) -> None:
    """Logits are the head's layer over the hidden states (or the pooler's output) of the encoder alone."""
    base = fa.load(folder)(*tiny_bert.batch("plain"))
    name, outputs = HEADS[architecture]
    weight, bias = tiny_bert.uniform("head", (outputs, 32)), tiny_bert.uniform("head bias", (outputs,))
    change_config(folder, architectures=[architecture], id2label={"0": "a", "1": "b", "2": "c"})
    buffer = np.zeros((1, 40), np.int64)
    change_tensors(folder, embeddings__token_type_ids=buffer, **{f"{name}__weight": weight, f"{name}__bias": bias})
    model = fa.load(folder)
    ids, mask, types = tiny_bert.batch("plain")
    out = model(ids, mask, types)
    if architecture == "BertForSequenceClassification":
        expected = base.pooler_output.astype(np.float64) @ weight.astype(np.float64).T + bias
        expected[[2, 4]] = 0  # their first token is excluded
        assert out._fields == ("logits",) and model.head.labels == ("a", "b", "c")
        assert np.abs(out.logits - expected).max() < 1e-5
        assert not model(ids[:0]).logits.size
    else:
        expected = base.last_hidden_state.astype(np.float64) @ weight.astype(np.float64).T + bias
        expected[mask == 0] = 0
        got = out.logits if name == "classifier" else np.stack([out.start_logits, out.end_logits], axis=-1)
        assert got.dtype == np.float32 and got.shape == (*ids.shape, outputs)
        assert np.abs(got - expected).max() < 1e-5
    one = model(ids[1:2], mask[1:2], types[1:2])
    assert one[0].tobytes() == out[0][1:2].tobytes()
    with pytest.raises(ValueError, match=rf"missing tensor '{name}\.bias'"):
        fa.load(change_tensors(folder, **{f"{name}__weight": weight}))


def test_labels(folder: Path) -> None:
    head = {"architectures": ["BertForSequenceClassification"]}
    change_config(folder, **head)
    change_tensors(folder, classifier__weight=np.zeros((3, 32), np.float32), classifier__bias=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"'classifier\.weight' has shape \[3, 32\], but config\.json asks for \[2, "):
        fa.load(folder)
    assert fa.load(change_config(folder, num_labels=3, **head)).head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    named = {"1": "no", "0": "yes", "2": "perhaps"}
    assert fa.load(change_config(folder, id2label=named, **head)).head.labels == ("yes", "no", "perhaps")
    for key, wrong in (("num_labels", 4), ("num_labels", 0), ("num_labels", "3"), ("id2label", ["a"]), ("id2label", {}),
                       ("id2label", {"0": "a"}), ("id2label", {"0": "a", "00": "b", "1": "c"}),
                       ("id2label", {"a": "a", "b": "b", "c": "c"}), ("id2label", {**named, "9": "d"}),
                       ("label2id", {"a": 0, "b": 1})):  # fmt: skip
        with pytest.raises(ValueError, match=rf"config\.json: {key} is "):
            fa.load(change_config(folder, **{**head, key: wrong}))


def test_several_heads_on_one_backbone(tmp_path: Path) -> None:
    ids, mask, types = tiny_bert.batch("plain")
    models = []
    for number, architecture in enumerate(HEADS):
        path = tiny_bert.save_folder(tmp_path / architecture, "plain")
        name, outputs = HEADS[architecture]
        change_config(path, architectures=[architecture], num_labels=outputs)
        weight = tiny_bert.uniform(f"head {number}", (outputs, 32))
        models.append(fa.load(change_tensors(path, **{f"{name}__weight": weight, f"{name}__bias": weight[:, 0]})))
    first, *others = models
    for other in others:
        first.add_head(other.head.kind, other)
    together = first.run_heads(ids, mask, types)
    assert list(together) == [model.head.kind for model in models]
    for model in models:
        for mine, alone in zip(together[model.head.kind], model(ids, mask, types), strict=True):
            assert mine.tobytes() == alone.tobytes()
    assert list(first.run_heads(ids, heads=["question_answering"])) == ["question_answering"]
    with pytest.raises(ValueError, match="heads: 'mood', expected some of 'sequence_classification'"):
        first.run_heads(ids, heads=["mood"])
    with pytest.raises(ValueError, match="name: there is a head 'question_answering' already"):
        first.add_head("question_answering", others[0])
    with pytest.raises(ValueError, match="other: .* has no head"):
        first.add_head("none", fa.load(tiny_bert.save_folder(tmp_path / "bare", "plain")))
    with pytest.raises(ValueError, match="other: .*, expected a BertModel that is 32 wide"):
        first.add_head("none", fa.load(tiny_bert.save_folder(tmp_path / "other", "heads_of_24")))


def test_old_names_of_norms(folder: Path) -> None:
    expected = hidden(folder)
    arrays = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in tiny_bert.tensors("plain").items()
    }
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    assert hidden(folder) == expected


def test_half_precision_files_are_widened(folder: Path) -> None:
    """The same bits as a float32 file of the rounded numbers."""
    arrays = tiny_bert.tensors("plain")
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    brain = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in arrays.items()}
    for narrow, wide in (
        (half, {name: array.astype(np.float32) for name, array in half.items()}),
        (brain, {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in brain.items()}),
        ({**arrays, "pooler.dense.bias": half["pooler.dense.bias"]}, arrays),
    ):
        tiny_bert.save_safetensors(folder / "model.safetensors", narrow)
        got = hidden(folder)
        tiny_bert.save_safetensors(folder / "model.safetensors", wide)
        assert got == hidden(folder)


def test_the_file_is_not_copied_for_the_embedding_tables(folder: Path) -> None:
    tables = fa.load(folder).graph.tables
    assert len(tables) == 3 and all(not table.flags.owndata and not table.flags.writeable for table in tables)


def test_old_config_files(folder: Path) -> None:
    expected = hidden(folder)
    change_config(folder, model_type=..., layer_norm_eps=..., position_embedding_type=..., tie_word_embeddings=...)
    assert hidden(folder) == expected
    change_config(folder, architectures=...)
    assert hidden(folder) == expected


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_spellings_of_an_activation(folder: Path, name: str) -> None:
    assert hidden(change_config(folder, hidden_act=name)) == hidden(change_config(folder, hidden_act="gelu_new"))
    assert hidden(change_config(folder, hidden_act="swish")) == hidden(change_config(folder, hidden_act="silu"))


# ---- configurations that are refused -------------------------------------------------------------------------------

NEEDED = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
          "max_position_embeddings", "type_vocab_size", "hidden_act"]  # fmt: skip


@pytest.mark.parametrize("key", NEEDED)
@pytest.mark.parametrize("value", [..., None])
def test_missing_keys(folder: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: key '{key}' is missing"):
        fa.load(change_config(folder, **{key: value}))


@pytest.mark.parametrize("key", NEEDED)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", [8], {}, 2**31, 10**400, float("1e308")])
def test_wrong_values(folder: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: {key} is "):
        fa.load(change_config(folder, **{key: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type 't5' is not supported; supported: albert, arcee, bert, "),
        ({"model_type": 3}, "model_type is '3', expected a string"),
        ({"model_type": ..., "architectures": ...}, "key 'model_type' is missing"),
        ({"model_type": ..., "architectures": ["GPT2Model"]}, "key 'model_type' is missing"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', expected .*absolute"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish', expected one of gelu, gelu_new"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"num_hidden_layers": 2**30}, "num_hidden_layers is '1073741824', expected an integer from 1 to 1000"),
        ({"hidden_size": 1024, "num_attention_heads": 1}, "heads of 1024, expected at most 512"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is '0', expected a finite number above 0"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps is"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is"),
        ({"layer_norm_eps": True}, "layer_norm_eps is"),
        ({"is_decoder": True}, "is_decoder is 'True': decoders are not supported"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is '1', expected true or false"),
    ],
)
def test_refused_configs(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fa.load(change_config(folder, **changes))
    assert "config.json" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff{}", b'{"layer_norm_eps": NaN}'])
def test_damaged_config(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"config\.json"):
        fa.load(folder)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"config\.json: a model needs its config\.json beside the weights"):
            fa.load(path)


def test_config_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors"):
        fa.load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ValueError, match="safe_serialization"):
        fa.load(folder)


# ---- tensors that are refused --------------------------------------------------------------------------------------


def test_missing_layer(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"missing tensors 'encoder\.layer\.2\.attention.* and 11 more"):
        fa.load(change_config(folder, num_hidden_layers=3))


def test_dtypes(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'pooler\.dense\.bias' has dtype I64, expected F32, F16, BF16"):
        fa.load(change_tensors(folder, pooler__dense__bias=np.zeros(32, np.int64)))
    arrays = tiny_bert.tensors("plain")
    np.savez(folder / "w.npz", **{name: array.astype(np.float64) for name, array in arrays.items()})
    with pytest.raises(ValueError, match="has dtype F64"):
        fa.load(folder / "w.npz")


@pytest.mark.parametrize(
    "name",
    ["encoder.layer.2.output.dense.weight", "encoder.layer.0.attention.self.distance_embedding.weight",
     "embeddings.LayerNorm.gamma", "position_ids", "bert.pooler.dense.weight", "linear.weight", "lm_head.weight"],
)  # fmt: skip
def test_tensors_nobody_uses_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"this architecture has no use for tensor '{name}'"):
        fa.load(change_tensors(folder, **{name.replace(".", "__"): np.zeros((2, 2), np.float32)}))


# ---- arguments of load ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "float32", np.float32, np.dtype("float32")])
def test_dtype(folder: Path, dtype: Any) -> None:
    assert fa.load(folder, dtype=dtype).hidden_size == 32


@pytest.mark.parametrize("dtype", ["int2", np.float64, "f4", 3, b"int8", ["int8"]])
def test_other_dtypes(folder: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype: got .*, expected one of float32"):
        fa.load(folder, dtype=dtype)


def test_num_threads(folder: Path) -> None:
    assert fa.load(folder, num_threads=np.int64(1)).num_threads == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match="num_threads"):
            fa.load(folder, num_threads=value)
    for wrong in (1.0, "1", True):
        with pytest.raises(TypeError, match="num_threads"):
            fa.load(folder, num_threads=wrong)  # type: ignore[arg-type]


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="never downloaded"):
        fa.load("sentence-transformers/all-MiniLM-L6-v2")
    with pytest.raises(TypeError, match="path"):
        fa.load(b"model")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        fa.load(tmp_path)
