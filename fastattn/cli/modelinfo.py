# SPDX-License-Identifier: MIT
"""What the files of a model say of it, read from headers and small files: no weights, and templates are never run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastattn.loaders import WeightFile
    from fastattn.loaders.files import ModelFiles
    from fastattn.loaders.gguf import GgufFile
    from fastattn.loaders.packed import PackedFile
    from fastattn.models.registry import Opened

__all__ = ["describe"]

_LONGEST = 300  # characters of a text of a file that are told
_MOST_ROLES = 40
_MOST_TEMPLATE = 1 << 20  # characters of a template that is looked at

_SIZES: Mapping[str, tuple[str, ...]] = {
    "context": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "layers": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "dim", "n_embd", "d_model"),
    "feed_forward": ("intermediate_size", "hidden_dim", "n_inner", "d_ff"),
    "heads": ("num_attention_heads", "n_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
    "vocabulary": ("vocab_size",),
}
_GGUF_SIZES: Mapping[str, str] = {
    "context": "context_length", "layers": "block_count", "hidden": "embedding_length",
    "feed_forward": "feed_forward_length", "heads": "attention.head_count", "kv_heads": "attention.head_count_kv",
    "head_size": "attention.key_length", "vocabulary": "vocab_size",
}  # fmt: skip
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def describe(path: str) -> dict[str, Any]:
    """What is known of the model at ``path``, under names that stay; None for what its files do not say.

    Raises:
        FileNotFoundError, PermissionError: as ``fastattn.load`` does.
        ValueError: a file is damaged, or of a kind that is not read; it is named.
    """
    from fastattn.loaders import open_weights
    from fastattn.loaders.files import FolderFiles
    from fastattn.loaders.hubcache import find_model
    from fastattn.loaders.packed import PackedFile
    from fastattn.models.registry import open_source

    target = find_model(path)
    try:
        weights = open_weights(target)
    except (OSError, ValueError):
        open_source(target, None, None)  # whose message says more
        raise
    support, opened = _support(str(target), weights)
    found: dict[str, Any] = {"path": str(target), **_files(weights)}
    if weights.format == "gguf":
        found |= _of_gguf(weights, opened)  # type: ignore[arg-type]
    elif isinstance(weights, PackedFile):
        files: ModelFiles = weights.files()
        found |= _of_packed(weights) | _of_files(files)
    else:
        files = FolderFiles(target if target.is_dir() else target.parent)
        found |= _parameters(weights) | _types(weights, list(weights)) | _of_files(files)
    return found | support


def _support(path: str, weights: WeightFile) -> tuple[dict[str, Any], Opened | None]:
    """Whether the library runs the model, and why not; the model as far as it was opened."""
    from fastattn.models.registry import examine, open_source

    opened = None
    found: dict[str, Any] = {"supported": False, "why_not": None, "family": None, "task": None, "notes": []}
    try:
        opened = open_source(path, None, None)
        graph, notes = examine(opened)
    except (OSError, ValueError) as error:
        found["why_not"] = _cut(_without(str(error), path, weights))
        return found, opened
    task = "generate" if "logits" in graph.trace.outputs else graph.tasks.name
    family = opened.family.name.removesuffix("Model")
    return {**found, "supported": True, "family": family, "task": task, "notes": list(map(_cut, notes))}, opened


def _without(message: str, path: str, weights: WeightFile) -> str:
    """A message without the name that the report has anyway."""
    for start in (f"{path}: ", f"{weights.path}: "):
        message = message.removeprefix(start)
    return message


# ---- weights ---------------------------------------------------------------------------------------------------------


def _files(weights: WeightFile) -> dict[str, Any]:
    from fastattn.loaders.packed import PackedFile

    places = sorted({str(weights.info(name).file) for name in weights} or {str(weights.path)})
    suffix = os.path.splitext(places[0])[1].removeprefix(".")
    form = weights.format or ("packed" if isinstance(weights, PackedFile) else suffix)
    return {"format": form, "files": len(places), "bytes": sum(os.path.getsize(place) for place in places)}


def _types(weights: WeightFile, names: list[str]) -> dict[str, Any]:
    """Tensors and bytes of each type, most bytes first."""
    types: dict[str, dict[str, int]] = {}
    for name in names:
        info = weights.info(name)
        one = types.setdefault(info.dtype, {"tensors": 0, "bytes": 0})
        one["tensors"] += 1
        one["bytes"] += info.nbytes
    return {"tensors": len(names), "types": dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))}


def _parameters(weights: WeightFile) -> dict[str, Any]:
    """Numbers in all tensors that hold fractions."""
    infos = map(weights.info, weights)
    return {"parameters": sum(math.prod(info.shape) for info in infos if info.dtype in weights.floats)}


def _of_packed(packed: PackedFile) -> dict[str, Any]:
    from fastattn.loaders.packed import FILE, PAD

    said = packed.metadata
    count = said.get("parameters", "")
    names = [name for name in packed if not name.startswith((FILE, PAD))]
    return {
        "parameters": int(count) if count.isascii() and count.isdigit() and len(count) < 20 else None,
        **_types(packed, names),
        "packed": {
            "dtype": _cut(said["dtype"]), "format_version": _cut(said.get("format_version", "")),
            "numerics_version": _cut(said["numerics_version"]), "fastattn_version": _cut(said["fastattn_version"]),
            "gguf_types": _cut(said.get("gguf_types", "")).split(),
            "dequantized": _cut(said.get("dequantized", "")).split(),
        },
    }  # fmt: skip


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def _of_gguf(file: GgufFile, opened: Opened | None) -> dict[str, Any]:
    fields = file.fields
    name = _said(fields, "general.architecture")
    table = file.shape("token_embd.weight") if "token_embd.weight" in file else ()
    sizes = {what: _count(fields.get(f"{name}.{key}")) for what, key in _GGUF_SIZES.items()}
    if sizes["vocabulary"] is None and len(table) == 2:
        sizes["vocabulary"] = table[0]
    return {
        **_parameters(file),
        **_types(file, list(file)),
        "gguf": {"version": file.version, "alignment": int(fields.get("general.alignment", 32)), "fields": len(fields)},
        "architecture": name,
        "name": _said(fields, "general.name") or _said(fields, "general.basename"),
        "size_label": _said(fields, "general.size_label"),
        "quantized_by": _said(fields, "general.quantized_by"),
        "license": _said(fields, "general.license"),
        **sizes,
        "tokenizer": _gguf_tokenizer(fields, opened),
        "chat_template": _template(fields.get("tokenizer.chat_template")),
    }  # fmt: skip


def _said(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return _cut(value) if isinstance(value, str) else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _count(value: Any) -> int | list[int] | None:
    """A number, or one for each layer where they differ."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and 0 < value.size < 10_000:
        several: list[int] = value.tolist()
        return several[0] if len(set(several)) == 1 else several
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _gguf_tokenizer(fields: Mapping[str, Any], opened: Opened | None) -> dict[str, Any] | None:
    from fastattn.loaders.gguffields import GgufStrings

    if "tokenizer.ggml.model" not in fields:
        return None
    tokens = fields.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, GgufStrings) else None
    special: dict[str, Any] = {}
    for key in fields:
        role = key.removeprefix("tokenizer.ggml.").removesuffix("_token_id")
        if key == f"tokenizer.ggml.{role}_token_id" and type(fields[key]) is int and len(special) < _MOST_ROLES:
            number, token = fields[key], None
            if tokens is not None and 0 <= number < len(tokens):
                token = _cut(tokens.raw(number).decode("utf-8", "replace"))
            special[_cut(role)] = {"id": number, "token": token}
    usable, why_not = _builds(opened) if opened is not None else (None, None)
    return {
        "model": _said(fields, "tokenizer.ggml.model"), "pre": _said(fields, "tokenizer.ggml.pre"),
        "tokens": None if tokens is None else len(tokens), "special": special, "usable": usable, "why_not": why_not,
    }  # fmt: skip


def _builds(opened: Opened) -> tuple[bool, str | None]:
    """Whether the tokenizer inside can be built, and why not."""
    try:
        opened.files.tokenizer()
    except (ValueError, ImportError) as error:
        return False, _cut(_without(str(error), str(opened.path), opened.weights))
    return True, None


# ---- small files -----------------------------------------------------------------------------------------------------


def _of_files(files: ModelFiles) -> dict[str, Any]:
    """What config.json and the files beside it say; a damaged config.json is told as why the model does not run."""
    config = _json(files, "config.json")
    kind, classes = config.get("model_type"), config.get("architectures")
    sizes = {what: next((config[key] for key in keys if key in config), None) for what, keys in _SIZES.items()}
    beside = _json(files, "tokenizer_config.json")
    return {
        "architecture": _cut(kind) if isinstance(kind, str) else None,
        "classes": [_cut(one) for one in classes[:20] if isinstance(one, str)] if isinstance(classes, list) else [],
        "name": None,
        **{what: _count(value) for what, value in sizes.items()},
        "tokenizer": _file_tokenizer(files, beside),
        "chat_template": _template(_stored_template(files, beside)),
    }


def _json(files: ModelFiles, name: str) -> dict[str, Any]:
    """A file that is one object; an empty one where it is missing or damaged."""
    try:
        return files.read_json(name) if files.has(name) else {}
    except (OSError, ValueError):
        return {}


def _file_tokenizer(files: ModelFiles, config: dict[str, Any]) -> dict[str, Any] | None:
    if not files.has("tokenizer.json"):
        return None
    try:
        stored = files.read_json("tokenizer.json")
    except (OSError, ValueError) as error:
        return {"model": None, "pre": None, "tokens": None, "special": {}, "usable": False, "why_not": _cut(str(error))}
    model = stored["model"] if isinstance(stored.get("model"), dict) else {}
    vocabulary, added = model.get("vocab"), stored.get("added_tokens")
    ids: dict[str, Any] = {}
    if isinstance(vocabulary, dict):
        ids.update(vocabulary)
    elif isinstance(vocabulary, list):  # Unigram's: pairs of a piece and its score
        ids.update((one[0], i) for i, one in enumerate(vocabulary) if isinstance(one, list) and one and _is(one[0]))
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and _is(token.get("content")):
            ids[token["content"]] = token.get("id")
    special = {}
    for role in _ROLES:
        value = config.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            special[role.removesuffix("_token")] = {"id": _count(ids.get(text)), "token": _cut(text)}
    kind = model.get("type")
    return {
        "model": _cut(kind) if isinstance(kind, str) else None, "pre": None, "tokens": len(ids) or None,
        "special": special, "usable": None, "why_not": None,
    }  # fmt: skip


def _is(value: Any) -> bool:
    return isinstance(value, str)


def _stored_template(files: ModelFiles, config: dict[str, Any]) -> Any:
    name = "chat_template.jinja"
    if files.has(name):
        try:
            return files.read_bytes(name, 4 * _MOST_TEMPLATE).decode("utf-8", "replace")
        except (OSError, ValueError):
            return None
    value = config.get("chat_template")
    if isinstance(value, list):  # several, each with its name
        value = next(
            (one.get("template") for one in value if isinstance(one, dict) and one.get("name") == "default"), 0
        )
    return value


def _template(text: Any) -> dict[str, Any] | None:
    """A chat template: how long it is, and which of the common shapes it has."""
    from fastattn.text.chatshapes import recognise

    if not isinstance(text, str):
        return None
    shape = recognise(text) if len(text) <= _MOST_TEMPLATE else None
    return {"characters": len(text), "shape": None if shape is None else shape.name}
