# SPDX-License-Identifier: MIT
"""Small text models as folders: with a head, as the tests of tasks on texts load them, or for sentence vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from golden import tiny_bert

TASKS = {
    "sequence_classification": "BertForSequenceClassification",
    "token_classification": "BertForTokenClassification",
    "question_answering": "BertForQuestionAnswering",
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(value))


def head_tensors(task: str, outputs: int, hidden: int = 32) -> dict[str, np.ndarray]:
    """Weights of the head alone, large enough for scores to differ."""
    name = "qa_outputs" if task == "question_answering" else "classifier"
    return {
        f"{name}.weight": tiny_bert.uniform(f"{task}/{outputs}/weight", (outputs, hidden)),
        f"{name}.bias": tiny_bert.uniform(f"{task}/{outputs}/bias", (outputs,)),
    }


def save_task_folder(folder: Path, task: str, labels: list[str] | None = None, **config: Any) -> Path:
    """A tiny BERT with the head of ``task``, its tokenizer, and ``config`` on top of its config.json."""
    tiny_bert.save_text_folder(folder)
    outputs = 2 if task == "question_answering" else len(labels or [])
    arrays = {f"bert.{key}": array for key, array in tiny_bert.tensors("plain").items()}
    arrays |= head_tensors(task, outputs)
    if task != "sequence_classification":
        arrays = {key: array for key, array in arrays.items() if "pooler" not in key}
    tiny_bert.save_safetensors(folder / "model.safetensors", arrays)
    values = {**tiny_bert.config("plain"), "architectures": [TASKS[task]], **config}
    if labels is not None and task != "question_answering":
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
        values["label2id"] = {label: i for i, label in enumerate(labels)}
    write_json(folder / "config.json", values)
    return folder


def sentence_folder(folder: Path, *, normalize: bool = True, **pooling: Any) -> Path:
    """Add what sentence-transformers writes."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")][: 3 if normalize else 2]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(kinds)
        ],
    )
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", {**flags, **pooling})
    return folder
