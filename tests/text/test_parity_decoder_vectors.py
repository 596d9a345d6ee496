# SPDX-License-Identifier: MIT
"""Vectors and ranks of language models beside sentence-transformers and transformers, from the same random folders.

Run with ``pytest -m parity`` where they are installed (sentence-transformers 6.2, transformers 5.24 were).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from golden.tiny_bert import uniform
from support.prompted_folders import VOCAB
from support.vector_decoders import FLAGS, MESSAGE, MODULES, pooling, save, vector_files

import fastattn as fa

st = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TEXTS = ["The cat sat on the mat.", "a", "naïve 東京 🙂", "x" * 60, "ab ab", "<|im_end|> in the middle", " ", "q" * 200]
QUERY, YES, NO = "ab é?", 88, 77
JINJA = (
    f'{{%- set instruction = {MESSAGE["system"]} | default("Find it") -%}}\n'
    f"{{%- set query_text = {MESSAGE['query']} -%}}\n"
    f"{{%- set document_text = {MESSAGE['document']} -%}}\n"
    "<|im_start|>user\n<Instruct>: {{ instruction }}\n<Query>: {{ query_text }}\n"
    "<Document>: {{ document_text }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def near(got: Any, expected: Any, bound: float = 1e-5) -> None:
    assert np.shape(got) == np.shape(expected)
    assert np.abs(np.asarray(got) - expected).max() <= bound * max(1e-3, np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "mistral", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_vectors(tmp_path: Path, family: str, side: str) -> None:
    """Prompts by name and by text, texts that are cut, shorter vectors; on whichever side they pad."""
    config = {"padding_side": side, "pad_token": "<|im_end|>", "eos_token": "<|im_end|>",
              "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 90}  # fmt: skip
    folder = save(tmp_path / "m", family, files={**vector_files(), "tokenizer_config.json": config})
    theirs, ours = st.SentenceTransformer(str(folder), device="cpu"), fa.load(folder)
    near(ours.embed(TEXTS), theirs.encode(TEXTS, batch_size=3))
    near(ours.embed(TEXTS, prompt_name="query"), theirs.encode(TEXTS, prompt_name="query"))
    near(ours.embed(TEXTS, prompt="Instruct: so\nQuery:"), theirs.encode(TEXTS, prompt="Instruct: so\nQuery:"))
    theirs.truncate_dim = 7
    near(ours.embed(TEXTS, truncate_dim=7), theirs.encode(TEXTS, normalize_embeddings=True))


@pytest.mark.parametrize("flag", FLAGS)
def test_other_ways_to_pool(tmp_path: Path, flag: str) -> None:
    files = {**vector_files(), "1_Pooling/config.json": {**pooling(flag), "include_prompt": flag != "mean_tokens"}}
    folder = save(tmp_path / "m", files={**files, "modules.json": MODULES[:2]})
    theirs, ours = st.SentenceTransformer(str(folder), device="cpu"), fa.load(folder)
    near(ours.embed(TEXTS, prompt_name="query"), theirs.encode(TEXTS, prompt_name="query", batch_size=3))


@pytest.mark.parametrize("architectures", [["Qwen3ForCausalLM"], ["Qwen3Model"], None])
def test_folders_that_say_nothing(tmp_path: Path, architectures: Any) -> None:
    folder = save(tmp_path / "m", architectures=architectures, tie_word_embeddings=True)
    theirs, ours = st.SentenceTransformer(str(folder), device="cpu"), fa.load(folder)
    near(ours.embed(TEXTS), theirs.encode(TEXTS, batch_size=3))


def test_a_folder_that_they_write(tmp_path: Path) -> None:
    """In the layout of their version, with a layer behind the pooling."""
    kinds = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    parts = [kinds.Transformer(str(save(tmp_path / "base"))), kinds.Pooling(48, "lasttoken"), kinds.Dense(48, 20)]
    torch.manual_seed(5)
    theirs = st.SentenceTransformer(modules=[*parts, kinds.Normalize()], device="cpu", prompts={"query": "so: "})
    theirs.save(str(tmp_path / "saved"))
    near(fa.load(tmp_path / "saved").embed(TEXTS, prompt_name="query"), theirs.encode(TEXTS, prompt_name="query"))


# ---- ranks ----------------------------------------------------------------------------------------------------------


def scores(ranked: Any) -> Any:
    return [score for _, score in sorted(ranked)]


@pytest.mark.parametrize("ids", [(YES, NO), (YES, None)])
def test_cross_encoders(tmp_path: Path, ids: tuple[int, int | None]) -> None:
    """As they write them, and with a template of the shape that published ones have."""
    kinds = pytest.importorskip("sentence_transformers.cross_encoder.modules")
    base = pytest.importorskip("sentence_transformers.base.modules")
    folder = save(tmp_path / "base", files={"chat_template.jinja": JINJA})
    model = base.Transformer(str(folder), transformer_task="text-generation")
    theirs = st.CrossEncoder(modules=[model, kinds.LogitScore(*ids)], device="cpu", prompts={"law": "Find a law"})
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = fa.load(tmp_path / "saved")
    pairs = [(QUERY, doc) for doc in TEXTS[:-1]]
    for options in ({}, {"prompt_name": "law"}, {"prompt": "Judge"}):
        near(scores(ours.rerank(QUERY, TEXTS[:-1], **options)), theirs.predict(pairs, batch_size=3, **options))
    raw = ours.rerank(QUERY, TEXTS[:-1], activation="none")
    near(scores(raw), theirs.predict(pairs, activation_fn=torch.nn.Identity()))
    order = [entry["corpus_id"] for entry in theirs.rank(QUERY, TEXTS[:-1])]
    assert [index for index, _ in ours.rerank(QUERY, TEXTS[:-1])] == order


def test_a_document_that_is_too_long(tmp_path: Path) -> None:
    """They write what stands behind the document over the last tokens of what was cut."""
    kinds = pytest.importorskip("sentence_transformers.cross_encoder.modules")
    base = pytest.importorskip("sentence_transformers.base.modules")
    folder = save(tmp_path / "base", files={"chat_template.jinja": JINJA})
    model = base.Transformer(str(folder), transformer_task="text-generation", max_seq_length=120)
    theirs = st.CrossEncoder(modules=[model, kinds.LogitScore(YES, NO)], device="cpu")
    theirs.save_pretrained(str(tmp_path / "saved"))
    docs = ["short", "abc def " * 40, "x" * 200]
    with pytest.warns(UserWarning, match="2 of 3 docs had more than 120 tokens"):
        got = scores(fa.load(tmp_path / "saved").rerank(QUERY, docs))
    near(got, theirs.predict([(QUERY, doc) for doc in docs]))


def test_yes_and_no_of_the_formula(tmp_path: Path) -> None:
    """As the model card of Qwen3-Reranker computes it: a softmax over two logits of the last token."""
    folder = save(tmp_path / "m")
    ask = "<|im_start|>user\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    texts = [ask.format(query=QUERY, document=doc) for doc in TEXTS[:-1]]
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        logits = model(**batch).logits[:, -1]
    expected = torch.nn.functional.softmax(torch.stack([logits[:, NO], logits[:, YES]], 1), 1)[:, 1]
    near(scores(fa.load(folder).rerank(QUERY, TEXTS[:-1], prompt=ask, answers=("y", "n"))), expected.numpy())


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "qwen2", "phi3"])
@pytest.mark.parametrize("kind", ["Sequence", "Token"])
def test_heads(tmp_path: Path, family: str, kind: str) -> None:
    weights = {"score.weight": uniform("score", (3, 48)).astype(np.float32)}
    if kind == "Token":
        weights["score.bias"] = uniform("bias", (3,)).astype(np.float32)
    name = f"{tiny_decoders.CLASSES[family]}For{kind}Classification"
    labels = {
        "id2label": {"0": "a", "1": "b", "2": "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "pad_token_id": VOCAB - 1,
    }
    folder = save(tmp_path / "m", family, architectures=[name], tie_word_embeddings=True, more=weights, **labels)
    theirs = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    ids, _ = tiny_decoders.batch({"vocab_size": 90})
    mask = np.ones_like(ids)
    mask[1, 11:] = 0
    ids[1, 11:] = ids[2, -1] = ids[3] = VOCAB - 1  # padding, a text that ends with it, and one of nothing else
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    near(fa.load(folder)(ids, mask).logits, expected if kind == "Sequence" else expected * mask[..., None])


def test_a_cross_encoder_with_a_head(tmp_path: Path) -> None:
    weights = {"score.weight": uniform("score", (1, 48)).astype(np.float32)}
    folder = save(
        tmp_path / "m", architectures=["Qwen3ForSequenceClassification"], tie_word_embeddings=True, more=weights,
        id2label={"0": "s"}, label2id={"s": 0}, pad_token_id=VOCAB - 1, files={"chat_template.jinja": JINJA},
    )  # fmt: skip
    theirs = st.CrossEncoder(str(folder), device="cpu")
    expected = theirs.predict([(QUERY, doc) for doc in TEXTS[:-1]], batch_size=1)
    theirs.save_pretrained(str(tmp_path / "saved"))
    for place in (folder, tmp_path / "saved"):
        near(scores(fa.load(place).rerank(QUERY, TEXTS[:-1])), expected)
