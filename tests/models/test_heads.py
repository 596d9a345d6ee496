# SPDX-License-Identifier: MIT
"""Which head a checkpoint has: its tensors say it, whatever ``architectures`` in config.json looks like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import later_families, tiny_bert, tiny_families
from support.bert_folders import change_config, change_tensors
from support.commands import run

import fastattn as fa
from fastattn.graph.choice import HEADS, head_name
from fastattn.loaders.errors import WeightFileError
from fastattn.loaders.packed import PackedFile
from fastattn.models.configkeys import REFUSED, WITHOUT_EFFECT, WITHOUT_EFFECT_IN
from fastattn.models.registry import FAMILIES
from fastattn.text import TextEncoder

Array = np.ndarray[Any, Any]

KINDS = {
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
}
EARLY = ["bert", "roberta", "distilbert", "electra", "albert", "mpnet"]
LATER = ["deberta", "modernbert", "nomic", "new", "gte"]
MODELS = [(case, suffix) for case in (*EARLY, *LATER) for suffix in KINDS]
# None of these is a class of any family, or says which head is meant.
USELESS = [..., None, [], [None], [7, {"a": 1}], {}, "", True, ["MyReranker"], ["AutoModelForSomething"]]


def save(folder: Path, case: str, suffix: str) -> tuple[Path, dict[str, Any]]:
    module: Any = tiny_families if case in EARLY else later_families
    module.save_folder(folder, case, suffix)
    return folder, json.loads((folder / "config.json").read_text())


def write(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    values = {key: value for key, value in {**config, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def outputs(model: TextEncoder) -> list[bytes]:
    return [field.tobytes() for field in model([[3, 4, 5, 6], [7, 8, 9, 3]]) if field is not None]


@pytest.mark.parametrize(("case", "suffix"), MODELS)
def test_the_tensors_decide(tmp_path: Path, case: str, suffix: str) -> None:
    folder, config = save(tmp_path, case, suffix)
    named = fa.load(folder)
    kind, family = KINDS[suffix], config["architectures"][0].removesuffix(suffix)
    assert named.head is not None and named.head_name == named.head.kind == kind and kind in repr(named)
    expected = outputs(named)
    shared = case == "modernbert" and kind in ("token_classification", "question_answering")
    useless = USELESS if case in ("bert", "modernbert") else [..., [None], ["MyReranker"]]
    lists: list[Any] = [*useless, f"AutoModel{suffix}", [f"{family}Model", f"{family}{suffix}"], [None, f"Own{suffix}"]]
    if kind != "masked_lm":
        lists += [[f"{family}Model"], ["AutoModel"], [f"{family}ForMaskedLM"]]
    for value in lists:
        model = fa.load(write(folder, config, architectures=value))
        if shared and (value in USELESS or suffix not in str(value)):  # the same tensors: the commonest task
            assert model.head_name == "sequence_classification" and any("head= says" in note for note in model.notes)
            model = fa.load(folder, head=kind)
        assert model.head_name == kind and outputs(model) == expected, value


@pytest.mark.parametrize("case", [*EARLY, *LATER])
def test_an_encoder_with_remains_of_pre_training(tmp_path: Path, case: str) -> None:
    folder, config = save(tmp_path, case, "ForMaskedLM")
    family = config["architectures"][0].removesuffix("ForMaskedLM")
    for value in ([f"{family}Model"], f"{family}Model", ["AutoModel"], [f"{family}ForPreTraining"]):
        model = fa.load(write(folder, config, architectures=value))
        assert model.head is None and model.head_name == "none"
        assert model([[3, 4]]).last_hidden_state.shape[:2] == (1, 2)
        assert any("not used" in note for note in model.notes)
    model = fa.load(folder, head="masked_lm")
    assert model.head_name == "masked_lm" and model([[3, 4]]).logits.shape[:2] == (1, 2)


@pytest.mark.parametrize(("case", "suffix"), MODELS)
def test_the_encoder_alone(tmp_path: Path, case: str, suffix: str) -> None:
    folder, _ = save(tmp_path, case, suffix)
    model = fa.load(folder, head="none")
    assert model.head is None and not model.heads and "last_hidden_state" in model([[3, 4]])._fields


def task(folder: Path, name: str = "classifier", outputs: int = 3, pooler: bool = True, **config: Any) -> Path:
    """The tiny BERT with one more layer on top."""
    tiny_bert.save_folder(folder, "plain")
    dropped: dict[str, Any] = {} if pooler else {"pooler__dense__weight": None, "pooler__dense__bias": None}
    more = {f"{name}__{part}": tiny_bert.uniform(part, shape) for part, shape in
            (("weight", (outputs, 32)), ("bias", (outputs,)))}  # fmt: skip
    change_tensors(folder, **dropped, **more)
    return change_config(folder, **config)


TAGS = {"0": "O", "1": "B-PER", "2": "I-PER"}
WORDS = {"0": "bad", "1": "fair", "2": "good"}


@pytest.mark.parametrize(
    ("pooler", "config", "kind"),
    [
        (True, {"id2label": WORDS}, "sequence_classification"),
        (True, {"id2label": TAGS}, "token_classification"),
        (True, {"id2label": TAGS, "problem_type": "regression"}, "sequence_classification"),
        (False, {"id2label": WORDS}, "token_classification"),
        (False, {"id2label": TAGS}, "token_classification"),
        (True, {}, "sequence_classification"),  # with as many labels as there are outputs
    ],
)
def test_sequences_or_tokens(tmp_path: Path, pooler: bool, config: dict[str, Any], kind: str) -> None:
    """BERT has both under one name: a pooler is for sequences, but old files of taggers have one too."""
    folder = task(tmp_path, pooler=pooler, architectures=..., **config)
    model = fa.load(folder)
    assert model.head_name == kind and model.head is not None and len(model.head.labels) == 3
    assert any("head= says" in note for note in model.notes) is pooler
    if pooler:
        for other in ("sequence_classification", "token_classification"):
            assert fa.load(folder, head=other).head_name == other


def test_several_heads(tmp_path: Path) -> None:
    folder = task(tmp_path, architectures=..., id2label=WORDS)
    both = {f"{name}__{part}": tiny_bert.uniform(part, shape)
            for name, rows in (("classifier", 3), ("qa_outputs", 2))
            for part, shape in (("weight", (rows, 32)), ("bias", (rows,)))}  # fmt: skip
    change_tensors(folder, **both)
    with pytest.raises(ValueError, match="tensors of sequence_classification, question_answering: give head="):
        fa.load(folder)
    assert fa.load(folder, head="question_answering").head_name == "question_answering"
    for names, kind in (
        (["BertForQuestionAnswering"], "question_answering"),
        (["BertModel", "BertForSequenceClassification"], "sequence_classification"),
        (["BertForTokenClassification"], "token_classification"),
        (["BertModel"], "none"),
    ):
        change_config(folder, architectures=names, id2label=WORDS)
        assert fa.load(folder).head_name == kind
    change_config(folder, architectures=["BertForMultipleChoice"], id2label=WORDS)
    model = fa.load(folder)
    assert model.head is None and any("multiple choice" in note for note in model.notes)


def test_pre_training(tmp_path: Path) -> None:
    """The tensors of two heads of pre-training, and none that says which is meant, is a backbone."""
    folder = tiny_families.save_folder(tmp_path, "bert", "ForMaskedLM")
    arrays = tiny_families.tensors("bert", "ForMaskedLM")
    arrays |= {"bert.pooler.dense.weight": tiny_bert.uniform("p", (28, 28)),
               "bert.pooler.dense.bias": np.zeros(28, np.float32),
               "cls.seq_relationship.weight": tiny_bert.uniform("n", (2, 28)),
               "cls.seq_relationship.bias": np.zeros(2, np.float32)}  # fmt: skip
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    config = tiny_families.config("bert", "ForMaskedLM")
    for value in (..., ["BertForPreTraining"]):
        assert fa.load(write(folder, config, architectures=value)).head is None
    assert fa.load(folder, head="masked_lm")([[3]]).logits.shape == (1, 1, 60)
    assert fa.load(folder, head="next_sentence")([[3]]).logits.shape == (1, 2)
    assert fa.load(write(folder, config, architectures=["BertForNextSentencePrediction"])).head_name == "next_sentence"
    assert fa.load(folder, head="BertForMaskedLM").head_name == "masked_lm"


def test_names_of_heads() -> None:
    for name in HEADS:
        assert head_name(name) == name
    spelled = {"BertForTokenClassification": "token_classification", "ForMaskedLM": "masked_lm", "AutoModel": "none",
               "AutoModelForQuestionAnswering": "question_answering", "text-classification": "sequence_classification",
               "fill-mask": "masked_lm", "BertForPreTraining": "none", "LlamaForCausalLM": "causal_lm"}  # fmt: skip
    for name, kind in spelled.items():
        assert head_name(name) == kind
    assert head_name(None) is None
    for wrong in ("", "mood", "None", "GPT2LMHeadModel", "pooler", "x" * 10**6):
        with pytest.raises(ValueError, match=r"head: got '.*', expected one of sequence_classification, ") as caught:
            head_name(wrong)
        assert len(str(caught.value)) < 300
    for odd in (3, b"none", True, ["none"]):
        with pytest.raises(TypeError, match="head: expected a str or None"):
            head_name(odd)


def test_heads_that_are_not_there(tmp_path: Path) -> None:
    folder = task(tmp_path, id2label=WORDS)
    with pytest.raises(ValueError, match=r"lacks tensors? 'qa_outputs\.weight', .*; it has .*classification, none"):
        fa.load(folder, head="question_answering")
    with pytest.raises(ValueError, match=r"head: got 'masked_lm', .* lacks tensors 'cls\.predictions"):
        fa.load(folder, head="masked_lm")
    distil = tiny_families.save_folder(tmp_path / "distil", "distilbert")
    with pytest.raises(ValueError, match="head: got 'next_sentence', but this family has masked_lm, "):
        fa.load(distil, head="next_sentence")
    task(tmp_path / "three", "qa_outputs", 3, architectures=...)
    assert fa.load(tmp_path / "three").head is None  # start and end are two
    with pytest.raises(ValueError, match="lacks tensor 'qa_outputs.weight'"):
        fa.load(tmp_path / "three", head="question_answering")


def test_hostile_lists(tmp_path: Path) -> None:
    """Neither slow nor long, whatever they hold."""
    folder = task(tmp_path, id2label=WORDS)
    expected = outputs(fa.load(folder))
    for value in (["ForA" * 10**6 + "!"], ["x" * 10**6] * 9, ["\0", "\ud83d\ude00", "For"] * 10**5, [[[["x"]]]] * 10**5,
                  ["BertModel"] * 10**5):  # fmt: skip
        model = fa.load(change_config(folder, architectures=value, id2label=WORDS))
        assert outputs(model) == expected and sum(map(len, model.notes)) < 2000


def test_the_command_line(tmp_path: Path) -> None:
    folder = str(task(tmp_path / "model", id2label=TAGS, architectures=..., problem_type="regression"))
    change_tensors(Path(folder), **{**EXTRA, "classifier__weight": np.ones((3, 32), np.float32),
                                    "classifier__bias": np.ones(3, np.float32)})  # fmt: skip
    target = str(tmp_path / "m")
    status, _, err = run("pack", folder, target, "--head", "token_classification")
    assert status == 1 and "no use for tensor 'extra'" in err and "Traceback" not in err
    assert run("pack", folder, target, "--head", "ForTokenClassification", "--no-strict")[0] == 0
    assert fa.load(target).head_name == "token_classification"
    status, _, err = run("pack", folder, target, "--head", "mood", "--no-strict")
    assert status == 1 and "head: got 'mood', expected one of sequence_classification, " in err
    status, _, err = run("pack", "--verify", target, "--head", "none")
    assert status == 2 and "--head: nothing is packed without DST" in err


EXTRA = {"extra": np.zeros(2, np.float32)}


# ---- labels --------------------------------------------------------------------------------------------------------

LABELS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"id2label": {"0": 1, "1": 2.5, "2": None}}, ("1", "2.5", "None")),
    ({"id2label": {"0": True, "1": False, "2": "x"}}, ("True", "False", "x")),
    ({"id2label": {"0": ["a"], "1": {"b": 1}, "2": ""}}, ("['a']", "{'b': 1}", "")),
    ({"id2label": {"1": "a", "2": "b", "3": "c"}}, ("LABEL_0", "a", "b")),
    ({"id2label": {"0": "a", "2": "b", "5": "c"}}, ("a", "LABEL_1", "b")),
    ({"id2label": {"0": "a", "2": "c"}}, ("a", "LABEL_1", "c")),
    ({"id2label": {"1": "a", "2": "b"}}, ("LABEL_0", "a", "b")),
    ({"id2label": {"-1": "a", "0": "b", "1": "c"}}, ("b", "c", "LABEL_2")),
    ({"id2label": {"2": "c", "0": "a", "1": "b"}, "num_labels": 7}, ("a", "b", "c")),
    ({"id2label": {"2": "c", "0": "a", "1": "b"}, "num_labels": "many"}, ("a", "b", "c")),
    ({"id2label": {"0": "a", "1": "a", "2": "a"}, "label2id": {"a": 0}}, ("a", "a", "a")),
    ({"label2id": {"x": 2, "y": 0, "z": 1}}, ("y", "z", "x")),
    ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ({"num_labels": 3, "id2label": None, "label2id": ["?"]}, ("LABEL_0", "LABEL_1", "LABEL_2")),
]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("config", "labels"), LABELS)
def test_labels(tmp_path: Path, config: dict[str, Any], labels: tuple[str, ...], named: bool) -> None:
    folder = task(tmp_path, architectures=["BertForSequenceClassification"] if named else ..., **config)
    model = fa.load(folder)
    head = model.head
    assert head is not None and head.labels == labels and head.outputs == 3
    conflict = {"id2label", "num_labels"} <= {key for key, value in config.items() if value}
    assert any("but id2label has" in note for note in model.notes) is conflict
    packed = fa.load(fa.pack(folder, tmp_path / "m", "float32")).head
    assert packed is not None and packed.labels == labels


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"id2label": {"0": "a", "1": "b"}},
            r"id2label is of 2 labels: .*'classifier\.weight' has shape \[3, 32\], .* \[2, 32\]",
        ),
        ({"id2label": {str(i): "a" for i in range(4)}}, "id2label is of 4 labels"),
        ({"id2label": {"0": "a", "7": "b"}}, "id2label is of 2 labels"),
        ({"num_labels": 5}, r"num_labels is 5: .* asks for \[5, 32\]"),
        ({"label2id": {"a": 0, "b": 1}}, "label2id is of 2 labels"),
        ({"id2label": {"0": "a", "one": "b", "2": "c"}}, "expected each number once, but got 'one'"),
        ({"id2label": {"0": "a", "00": "b", "2": "c"}}, "expected each number once, but got '00'"),
        ({"id2label": {"1e3": "a"}}, "expected each number once"),
        ({"id2label": {"9" * 400: "a"}}, "expected each number once"),
        ({"id2label": 3}, "id2label is '3', expected an object"),
        ({"num_labels": 10**30}, "num_labels is "),
        ({"num_labels": -1}, "num_labels is '-1'"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = task(tmp_path, architectures=["BertForSequenceClassification"], **config)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        fa.load(folder)
    assert fa.load(folder, head="none").head is None


@pytest.mark.parametrize("value", ["guess", "", 3, True, ["regression"], {"a": 1}])
def test_unknown_problem_types(tmp_path: Path, value: Any) -> None:
    folder = task(tmp_path, architectures=["BertForSequenceClassification"], id2label=WORDS)
    expected = outputs(fa.load(folder))
    model = fa.load(change_config(folder, problem_type=value, id2label=WORDS, architectures=...))
    assert model.head is not None and model.head.problem_type is None and outputs(model) == expected
    assert any("problem_type is" in note for note in model.notes)


# ---- notes, strict -------------------------------------------------------------------------------------------------


def test_strict(tmp_path: Path) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    expected = outputs(fa.load(folder))
    assert fa.load(folder).notes == []
    change_tensors(folder, **{f"extra__{i}": np.zeros(2, np.float32) for i in range(7)})
    with pytest.raises(ValueError, match=r"no use for tensors 'extra\.0', .* and 2 more; strict=False leaves them out"):
        fa.load(folder)
    model = fa.load(folder, strict=False)
    assert outputs(model) == expected
    assert len(model.notes) == 1 and "left out as unknown: tensors 'extra.0', " in model.notes[0]
    assert set(model.tensors.ignored) == {f"extra.{i}" for i in range(7)}
    with pytest.raises(ValueError, match="strict=False"):
        fa.pack(folder, tmp_path / "m", "float32")
    packed = fa.load(fa.pack(folder, tmp_path / "m", "float32", strict=False))
    assert outputs(packed) == expected and packed.tensors == model.tensors and "extra.0" in packed.notes[0]
    for odd in (1, None, "no"):
        with pytest.raises(TypeError, match="strict: expected a bool"):
            fa.load(folder, strict=odd)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"missing tensor 'embeddings\.LayerNorm\.bias'"):
        fa.load(change_tensors(folder, embeddings__LayerNorm__bias=None), strict=False)


def test_unknown_keys_are_noted(tmp_path: Path) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    change_config(folder, zeta=1, alpha=[2], nothing=None, hidden_dropout_prob=0.5, use_cache=True)
    notes = fa.load(folder).notes
    assert len(notes) == 1 and notes[0].endswith("config.json: unknown keys 'zeta', 'alpha'")
    model = fa.load(change_config(folder, auto_map={"AutoModel": "own.py"}))
    assert any("auto_map" in note for note in model.notes)
    many = fa.load(change_config(folder, **{f"key {i}" + "x" * 1000: i for i in range(5000)})).notes
    assert len(many) == 1 and "and 4980 more" in many[0] and len(many[0]) < 5000
    model._more_notes.append(lambda other: [f"{other.hidden_size} wide"])
    assert model.notes[-1] == "32 wide"


def test_keys_of_the_tables_change_nothing(tmp_path: Path) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    expected = outputs(fa.load(folder))
    known = WITHOUT_EFFECT - {"architectures", "model_type", "auto_map", "problem_type"}
    model = fa.load(change_config(folder, **dict.fromkeys((*known, *WITHOUT_EFFECT_IN["bert"]), "anything")))
    assert outputs(model) == expected and model.notes == []
    assert set(WITHOUT_EFFECT_IN) <= set(FAMILIES) and not known & set(REFUSED)


@pytest.mark.parametrize("case", ["bert", "deberta", "modernbert", "nomic"])
@pytest.mark.parametrize("key", REFUSED)
def test_keys_that_ask_for_another_model(tmp_path: Path, case: str, key: str) -> None:
    folder, config = save(tmp_path, case, "Model")
    before = fa.load(folder).notes
    for value in (True, {"a": 1}, "x"):
        with pytest.raises(ValueError, match=rf"config\.json: {key} is "):
            fa.load(write(folder, config, **{key: value}))
    for value in (None, False, {}, [], ""):
        assert fa.load(write(folder, config, **{key: value})).notes == before


# ---- dtype, activations, packed files ------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["float32", "int8", "bfloat16"])
def test_the_type_of_a_packed_file(tmp_path: Path, stored: str) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    path = fa.pack(folder, tmp_path / "m", stored)
    expected = outputs(fa.load(folder, stored))
    assert outputs(fa.load(path)) == outputs(fa.load(path, None)) == outputs(fa.load(path, stored)) == expected
    for other in {"float32", "int8", "bfloat16", "float16", np.float32} - {stored}:
        if getattr(other, "__name__", other) != stored:
            with pytest.raises(ValueError, match=rf"dtype: got .*, but .*m was packed as '{stored}'"):
                fa.load(path, other)
    assert fa.load(fa.pack(folder, tmp_path / "n", None)).origin == fa.load(fa.pack(folder, tmp_path / "n")).origin


def test_activations(tmp_path: Path) -> None:
    folder = tiny_bert.save_folder(tmp_path / "model", "plain")
    assert fa.load(folder, activations=None).hidden_size == 32
    for value in ("int16", "int8"):
        with pytest.raises(ValueError, match=rf"activations: got '{value}', but .* no block-quantised weights"):
            fa.load(folder, activations=value)
    with pytest.raises(ValueError, match="activations: got 'int4', expected one of int16, int8"):
        fa.load(folder, activations="int4")
    with pytest.raises(TypeError, match="activations: expected a str"):
        fa.load(folder, activations=8)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", ["bert", "modernbert", "roberta"])
def test_packed_files_keep_their_head(tmp_path: Path, case: str) -> None:
    folder, config = save(tmp_path / "model", case, "ForTokenClassification")
    write(folder, config, architectures=None)
    expected = outputs(fa.load(folder, head="token_classification"))
    path = fa.pack(folder, tmp_path / "m", "float32", head="token_classification")
    for head in (None, "token_classification", "ForTokenClassification"):
        model = fa.load(path, head=head)
        assert model.head_name == "token_classification" and outputs(model) == expected
    for head in ("none", "sequence_classification"):
        with pytest.raises(ValueError, match="was packed with the head 'token_classification'; leave head out, or"):
            fa.load(path, head=head)
    bare = fa.pack(folder, tmp_path / "bare", "float32", head="none")
    assert fa.load(bare).head is None and fa.load(bare, head="none").head is None
    with pytest.raises(ValueError, match="was packed with the head 'none'"):
        fa.load(bare, head="token_classification")
    assert PackedFile(bare).metadata["head"] == "none"


def test_packed_files_that_do_not_say_their_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As this library wrote them before: the head is the one that ``architectures`` names and that was packed."""
    folder = task(tmp_path / "model", architectures=["BertForSequenceClassification"], id2label=WORDS)
    path = fa.pack(folder, tmp_path / "m", "float32")
    bare = fa.pack(folder, tmp_path / "bare", "float32", head="none")
    expected = outputs(fa.load(path))
    known = PackedFile.metadata.fget  # type: ignore[attr-defined]
    without = property(lambda self: {key: value for key, value in known(self).items() if key != "head"})
    monkeypatch.setattr(PackedFile, "metadata", without)
    assert outputs(fa.load(path)) == expected and fa.load(path).head is not None
    assert fa.load(bare).head is None
    with pytest.raises(ValueError, match="does not say which head it was packed with"):
        fa.load(path, head="none")
    monkeypatch.setattr(PackedFile, "metadata", property(lambda self: {**known(self), "head": "mood"}))
    with pytest.raises(WeightFileError, match="head is 'mood', expected one of"):
        fa.load(path)
