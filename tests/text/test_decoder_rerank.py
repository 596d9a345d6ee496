# SPDX-License-Identifier: MIT
"""Documents ranked by what a language model answers: against NumPy in double precision, from folders and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import numpy_decoders, tiny_decoders
from support.gguf_files import U32
from support.prompted_folders import CHATML, VOCAB
from support.vector_decoders import MESSAGE, MODULES, save, save_gguf, tokenizer, vector_files

import fastattn as fa

Array = np.ndarray[Any, Any]

QUERY = "ab é?"
DOCS = ["It is 330 m tall.", "", "naïve 東京 🙂", "a", "abab", "It is 330 m tall.", "no <|im_end|> here\n"]
ASK = "<|im_start|>user\n<Instruct>: Find it\n<Query>: {query}\n<Document>: {document}<|im_end|>\n=>"
JINJA = (
    f"<|im_start|>user\n<Instruct>: {{{{ {MESSAGE['system']} | default('Find it') }}}}\n"
    f"<Query>: {{{{ {MESSAGE['query']} }}}}\n<Document>: {{{{ {MESSAGE['document']} }}}}<|im_end|>\n=>"
)
YES, NO = 88, 77  # "y" and "n"
LOGIT_SCORE = [
    MODULES[0],
    {"idx": 1, "name": "1", "path": "1_LogitScore",
     "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"},
]  # fmt: skip


def logits(folder: Path, doc: str, ask: str = ASK, instruction: str = "Find it", query: str = QUERY) -> Array:
    """Of the language model behind the question, in double precision."""
    c, w = numpy_decoders.load(folder)
    text = ask.replace("Find it", instruction).replace("{query}", query).replace("{document}", doc)
    ids = np.array([tokenizer().encode(text, add_special_tokens=False).ids])
    found: Array = numpy_decoders.logits(c, w, ids)[0, -1]
    return found


def sigmoid(x: Array | float) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x)))


def scores(ranked: Any) -> Array:
    """In the order of the documents."""
    found = np.full(len(ranked), np.nan)
    for index, score in ranked:
        found[index] = score
    return found


def cross_encoder(folder: Path, *, ids: Any = (YES, NO), template: str = JINJA, **config: Any) -> Path:
    """A folder as the cross-encoders of sentence-transformers that are made of a decoder."""
    settings = {
        "transformer_task": "text-generation", "module_output_name": "causal_logits",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"},
            "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
        },
    }  # fmt: skip
    return save(folder, "qwen3", files={
        "modules.json": LOGIT_SCORE, "1_LogitScore/config.json": {"true_token_id": ids[0], "false_token_id": ids[1]},
        "sentence_bert_config.json": settings, "chat_template.jinja": template,
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder", "prompts": {"law": "Find a law"}, "default_prompt_name": None, **config
        },
    })  # fmt: skip


@pytest.mark.parametrize("answers", [("y", "n"), (YES, NO), [YES, "n"]])
def test_yes_beside_no(tmp_path: Path, answers: Any) -> None:
    folder = save(tmp_path / "m")
    model = fa.load(folder)
    exact = np.array([(found := logits(folder, doc))[YES] - found[NO] for doc in DOCS])
    raw = model.rerank(QUERY, DOCS, prompt=ASK, answers=answers, activation="none")
    assert np.abs(scores(raw) - exact).max() < 1e-5 * np.abs(exact).max()
    ranked = model.rerank(QUERY, DOCS, prompt=ASK, answers=answers)
    assert np.abs(scores(ranked) - sigmoid(exact)).max() < 2e-6
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    both = [r for r in ranked if DOCS[r.index] == DOCS[0]]
    assert [r.index for r in both] == [0, 5] and both[0].score == both[1].score
    assert model.rerank(QUERY, DOCS, prompt=ASK, answers=answers, top_k=2) == ranked[:2]


def test_the_logits_that_a_call_gives(tmp_path: Path) -> None:
    """One answer is scored by its logit: the bits of a call, whatever it is computed together with."""
    model = fa.load(save(tmp_path / "m", "granite"))
    raw = scores(model.rerank(QUERY, DOCS, prompt=ASK, answers="y", activation="none"))
    for doc, score in zip(DOCS, raw, strict=True):
        text = ASK.format(query=QUERY, document=doc)
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        assert np.float32(score) == model([ids]).logits[0, -1, YES]
        assert model.rerank(QUERY, [doc], prompt=ASK, answers="y", activation="none")[0].score == score
    for options in ({"batch_size": 1}, {"batch_size": 3, "num_threads": 2}):
        again = model.rerank(QUERY, DOCS, prompt=ASK, answers="y", activation="none", **options)
        assert scores(again).tobytes() == raw.tobytes()


def test_a_cross_encoder(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path / "m")
    model = fa.load(folder)
    assert model.notes == []
    differences = {
        text: np.array([(found := logits(folder, doc, instruction=text))[YES] - found[NO] for doc in DOCS])
        for text in ("Find it", "Find a law", "Judge")
    }
    for options, text in (({}, "Find it"), ({"prompt_name": "law"}, "Find a law"), ({"prompt": "Judge"}, "Judge")):
        got = scores(model.rerank(QUERY, DOCS, **options))
        assert np.abs(got - sigmoid(differences[text])).max() < 2e-6
    packed = fa.load(fa.pack(folder, tmp_path / "m.fastattn", dtype="float32"))
    assert packed.rerank(QUERY, DOCS) == model.rerank(QUERY, DOCS)
    model.warm()
    with pytest.raises(ValueError, match="prompt_name: got 'search', expected one of 'law'"):
        model.rerank(QUERY, DOCS, prompt_name="search")


def test_what_a_cross_encoder_may_say(tmp_path: Path) -> None:
    """One answer, an activation, a default instruction."""
    folder = cross_encoder(
        tmp_path / "m", ids=(YES, None), activation_fn="torch.nn.modules.linear.Identity", default_prompt_name="law"
    )
    exact = np.array([logits(folder, doc, instruction="Find a law")[YES] for doc in DOCS])
    got = scores(fa.load(folder).rerank(QUERY, DOCS))
    assert np.abs(got - exact).max() < 1e-5 * np.abs(exact).max()


def test_a_pair_without_a_template(tmp_path: Path) -> None:
    """A cross-encoder whose files have no chat template, as sentence-transformers has it: the tokenizer's pair."""
    folder = cross_encoder(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    (folder / "sentence_bert_config.json").unlink()
    model = fa.load(folder)
    ids = tokenizer().encode("so " + QUERY, DOCS[0]).ids
    found = model([ids]).logits[0, -1]
    assert abs(model.rerank(QUERY, DOCS[:1], prompt="so ")[0].score - sigmoid(found[YES] - found[NO])) < 2e-6


# ---- heads ----------------------------------------------------------------------------------------------------------


def rows(model: str = "qwen3") -> Array:
    """What the language model's head has for the answers: yes, no."""
    c = tiny_decoders.config(model, vocab_size=VOCAB)
    found: Array = tiny_decoders.tensors(c)["lm_head.weight"][[YES, NO]]
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_gguf_file_that_ranks(tmp_path: Path, dtype: str) -> None:
    """The bits of the folder that it was made of."""
    folder = fa.load(save(tmp_path / "m", dtype=dtype))
    path = save_gguf(
        tmp_path / "m.gguf", dtype=dtype, more={"cls.output.weight": rows().astype(dtype)}, left_out=("output.weight",),
        fields={
            "{}.pooling_type": U32(4), "{}.classifier.output_labels": ["yes", "no"],
            "tokenizer.chat_templates": ["rerank"], "tokenizer.chat_template.rerank": ASK,
        },
    )  # fmt: skip
    model = fa.load(path)
    assert model.notes == []
    expected = folder.rerank(QUERY, DOCS, prompt=ASK, answers=(YES, NO))
    assert model.rerank(QUERY, DOCS) == expected
    told = folder.rerank(QUERY, DOCS, prompt=ASK.replace("Find it", "Judge"), answers=(YES, NO))
    assert model.rerank(QUERY, DOCS, prompt="Judge") == told != expected
    assert fa.load(fa.pack(path, tmp_path / "m.fastattn")).rerank(QUERY, DOCS) == expected
    best = model.classify(["a"], activation="none")[0]
    assert set(best.labels) == {"yes", "no"}
    with pytest.raises(ValueError, match="answers: expected None: the model has a head that ranks"):
        model.rerank(QUERY, DOCS, answers=("yes", "no"))
    with pytest.raises(ValueError, match="no language model's head"):
        model.generate("a")
    model.warm()


def labelled(folder: Path, labels: list[str], weights: Array, **files: Any) -> Path:
    names = {str(i): label for i, label in enumerate(labels)}
    return save(
        folder, architectures=["Qwen3ForSequenceClassification"], id2label=names, tie_word_embeddings=True,
        more={"score.weight": np.ascontiguousarray(weights)}, files=files,
    )  # fmt: skip


def test_a_head_of_one_label(tmp_path: Path) -> None:
    """A template of the files, or one that is given, makes the question; without any the texts are a pair."""
    whole = fa.load(save(tmp_path / "whole"))
    folder = labelled(tmp_path / "m", ["score"], rows()[:1])
    model = fa.load(folder)
    expected = whole.rerank(QUERY, DOCS, prompt=ASK, answers=YES)
    assert model.rerank(QUERY, DOCS, prompt=ASK) == expected
    pair = model([tokenizer().encode("so " + QUERY, DOCS[0]).ids]).logits[0, 0]
    assert abs(model.rerank(QUERY, DOCS[:1], prompt="so ")[0].score - sigmoid(pair)) < 2e-6
    settings = {
        "transformer_task": "sequence-classification", "module_output_name": "scores",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"},
            "message": {"method": "forward", "method_output_name": "logits"},
        },
    }  # fmt: skip
    files = {
        "modules.json": MODULES[:1], "sentence_bert_config.json": settings, "chat_template.jinja": JINJA,
        "config_sentence_transformers.json": {"model_type": "CrossEncoder", "prompts": {"law": "Find a law"}},
    }  # fmt: skip
    folder = save(
        tmp_path / "asked", architectures=["Qwen3ForSequenceClassification"], id2label={"0": "score"},
        tie_word_embeddings=True, more={"score.weight": rows()[:1].copy()}, files=files,
    )  # fmt: skip
    model = fa.load(folder)
    assert model.rerank(QUERY, DOCS) == expected
    law = ASK.replace("Find it", "Find a law")
    assert model.rerank(QUERY, DOCS, prompt_name="law") == whole.rerank(QUERY, DOCS, prompt=law, answers=YES)
    for call in (model.classify, model.embed):
        with pytest.raises(ValueError, match="message is not supported: texts would go through a chat template"):
            call(["a"])


def test_labels_yes_and_no_in_any_order(tmp_path: Path) -> None:
    whole = fa.load(save(tmp_path / "whole")).rerank(QUERY, DOCS, prompt=ASK, answers=(YES, NO))
    model = fa.load(labelled(tmp_path / "m", ["No", "YES"], rows()[::-1]))
    assert model.rerank(QUERY, DOCS, prompt=ASK) == whole
    model = fa.load(labelled(tmp_path / "other", ["good", "bad"], rows()))
    with pytest.raises(ValueError, match="the head has 2 labels, expected 1, or the labels yes and no"):
        model.rerank(QUERY, DOCS, prompt=ASK)


# ---- what is too long, and what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_document_that_is_too_long(tmp_path: Path, side: str) -> None:
    """It loses tokens alone: what is asked stays whole."""
    config = {"truncation_side": side, "tokenizer_class": "PreTrainedTokenizerFast"}
    folder = save(tmp_path / "m", files={"tokenizer_config.json": config})
    model = fa.load(folder)
    ask, doc = "<{query}>{document}=", "".join(chr(65 + i % 26) for i in range(3000))
    with pytest.warns(UserWarning, match="1 of 2 docs had more than 20 tokens"):
        got = model.rerank("why", [doc, "x" * 14], prompt=ask, answers="y", activation="none", max_length=20)
    kept = doc[-14:] if side == "left" else doc[:14]
    assert (
        scores(got)[0]
        == model.rerank("why", [kept], prompt=ask, answers="y", activation="none", max_length=20)[0].score
    )
    with pytest.raises(fa.TextTooLong, match=r"docs\[1\]: more than 20 tokens"):
        model.rerank("why", ["a", doc], prompt=ask, answers="y", max_length=20, on_long="error")
    with pytest.raises(ValueError, match="query: leaves no room for a document within 20 tokens"):
        model.rerank("why" * 7, ["a"], prompt=ask, answers="y", max_length=20)


def test_no_documents(tmp_path: Path) -> None:
    model = fa.load(save(tmp_path / "m"))
    assert list(model.rerank(QUERY, [], prompt=ASK, answers="y")) == []
    assert list(model.rerank(QUERY, iter(()), prompt=ASK, answers="y")) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, r"nothing says how the model is asked about a query and a document: .* expected prompt="),
        ({"prompt": "Judge"}, "nothing says how the model is asked"),
        ({"prompt": "{document}"}, "nothing says how the model is asked"),
        ({"prompt": ASK}, "answers: 'yes' is 3 tokens of .*tokenizer.json, expected one"),
        ({"prompt": ASK, "answers": ""}, "answers: '' is 0 tokens"),
        ({"prompt": ASK, "answers": ("y", "no")}, "answers: 'no' is 2 tokens"),
        ({"prompt": ASK, "answers": (1, VOCAB)}, f"answers: got {VOCAB}, expected ids below {VOCAB}"),
        ({"prompt": ASK, "answers": -1}, "answers: got -1, expected ids below"),
        ({"prompt": ASK, "answers": ()}, "answers: got tuple, expected one token or two"),
        ({"prompt": ASK, "answers": ("y", "n", "m")}, "answers: got tuple, expected one token or two"),
        ({"prompt": ASK, "answers": 1.0}, "answers: got float, expected one token or two"),
        ({"prompt": ASK, "answers": (True, False)}, "answers: expected tokens or their ids, got bool"),
        ({"prompt": ASK, "answers": "y", "prompt_name": "law"}, "prompt_name: expected None where a prompt is given"),
        ({"prompt_name": "law"}, "prompt_name: got 'law', expected one of none, as the model names no prompts"),
        ({"prompt": 3}, "prompt: expected a str, got int"),
        ({"prompt": ASK, "answers": "y", "head": "score"}, "head: got 'score', expected one of 'causal_lm'"),
        ({"prompt": ASK, "answers": "y", "activation": "softmax"}, "activation: got 'softmax'"),
        ({"prompt": ASK, "answers": "y", "top_k": 0}, "top_k: got 0"),
        ({"prompt": ASK, "answers": "y", "docs": "one"}, "docs: got one str; pass a list of str"),
        ({"prompt": ASK, "answers": "y", "docs": ["a", 1]}, r"docs\[1\]: expected a str, got int"),
        ({"prompt": ASK, "answers": "y", "query": 1}, "query: expected a str, got int"),
        ({"prompt": ASK, "answers": "y", "query": "\ud800"}, "query: half a surrogate pair"),
    ],
)
def test_refused_calls(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    model = fa.load(save(tmp_path / "m"))
    arguments = {"query": QUERY, "docs": DOCS, **options}
    with pytest.raises((ValueError, TypeError), match=match):
        model.rerank(**arguments)


def test_models_that_cannot(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", files=vector_files(), architectures=["Qwen3Model"])
    model = fa.load(folder, head="none")
    with pytest.raises(ValueError, match="the model has no head for sequence classification"):
        model.rerank(QUERY, DOCS, prompt=ASK)
    fixed = f"{{{{ {MESSAGE['query']} }}}}: {{{{ {MESSAGE['document']} }}}}"
    folder = cross_encoder(tmp_path / "fixed", template=fixed)
    with pytest.raises(ValueError, match="the model's template has no place for an instruction"):
        fa.load(folder).rerank(QUERY, DOCS, prompt="Judge")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("1_LogitScore/config.json", {}, "true_token_id is 'None', expected an id below"),
        ("1_LogitScore/config.json", {"true_token_id": VOCAB}, f"true_token_id is '{VOCAB}', expected an id below"),
        ("1_LogitScore/config.json", {"true_token_id": 1, "false_token_id": -1}, "false_token_id is '-1'"),
        ("1_LogitScore/config.json", {"true_token_id": True}, "true_token_id is 'True'"),
        ("1_LogitScore/config.json", {"true_token_id": 1, "margin": 2}, "margin is not supported"),
        ("1_LogitScore/config.json", {"true_token_id": 1, "module_input_name": "scores"}, "module_input_name is"),
        ("modules.json", [*LOGIT_SCORE, MODULES[2]], "modules Transformer, LogitScore, Normalize are not supported"),
        ("modules.json", LOGIT_SCORE[1:], "modules LogitScore are not supported; expected Transformer, LogitScore"),
        ("modules.json", [MODULES[0], {**LOGIT_SCORE[1], "path": "../x"}], "path is '../x', expected a folder"),
        ("modules.json", [MODULES[0], {**LOGIT_SCORE[1], "path": "other"}], "other/config.json: modules.json names"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "transformer_task is"),
        ("chat_template.jinja", CHATML, "the chat template is not one that is read here"),
        ("config_sentence_transformers.json", {"activation_fn": "mine.Act"}, "activation_fn is"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, name: str, content: Any, match: str) -> None:
    folder = cross_encoder(tmp_path / "m")
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=match) as caught:
        fa.load(folder).rerank(QUERY, DOCS)
    assert str(folder) in str(caught.value)


def test_a_rerank_template_that_is_not_read(tmp_path: Path) -> None:
    fields = {"tokenizer.chat_templates": ["rerank"], "tokenizer.chat_template.rerank": "{query} alone"}
    model = fa.load(save_gguf(tmp_path / "m.gguf", fields=fields))
    with pytest.raises(ValueError, match="chat template 'rerank' is not one that is read here"):
        model.rerank(QUERY, DOCS)
    assert model.rerank(QUERY, DOCS[:1], prompt=ASK, answers="y")[0].index == 0
