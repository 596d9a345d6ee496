# SPDX-License-Identifier: MIT
"""GGUF files as what pages read: the configuration of a Hugging Face folder, its tensors, its small files.

Keys: ``gguf/constants.py`` of the PyPI package ``gguf``; what converters do to tensors: ``conversion/`` of llama.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..graph.config import ConfigReader
from ..graph.gguf import Converted, GgufWeights
from ..loaders.errors import WeightFileError
from ..loaders.files import ModelFiles
from ..loaders.gguf import GgufFile
from ..loaders.gguffields import GgufStrings
from ..loaders.jsonfile import MAX_JSON_BYTES
from ..loaders.weightfile import WeightFile
from ..vocab.ggufconfig import gguf_stop_ids, tokenizer_config
from ..vocab.ggufvocab import GgufVocabulary, build_tokenizer, tokenizer_json
from .ggufkeys import Architecture, Keys, Values, divisors, shortest
from .ggufpooling import RANKED, SCORE, pooling_files, rank_labels

__all__ = ["ARCHITECTURES", "GgufFiles", "GgufModel", "architecture_of", "converted", "open_gguf"]

ARCHITECTURES = {
    "arcee": "arcee",
    "bloom": "bloom",
    "chatglm": "glm",
    "cohere2": "cohere",
    "command-r": "cohere",
    "deepseek2": "deepseek",
    "ernie4_5": "llama",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "glm4": "glm",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "hunyuan-dense": "hunyuan",
    "lfm2": "lfm2",
    "llama": "llama",
    "llama4": "llama4",
    "mamba2": "mamba2",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi2": "phi",
    "phi3": "phi3",
    "qwen2": "llama",
    "qwen2moe": "qwen_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen_moe",
    "qwen3next": "qwen3_next",
    "seed_oss": "llama",
    "smollm3": "llama",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
"""``general.architecture`` -> its page, a module here, whose ``GGUF`` says how such files differ."""

_POSITIONS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")  # the configuration's


_ROWS = ("ffn_gate_inp_shexp",)  # matrices of one row, which some converters have left without that dimension

_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,), "expert_used_count": (0,), "expert_shared_count": (0,), "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,), "attention.clamp_kqv": (0.0,), "attention.sliding_window": (0,),
    "attention.max_alibi_bias": (0.0,), "use_parallel_residual": (False,), "attention.causal": (True,),
    "tensor_data_layout": ("Meta AI original pth",),  # says that queries and keys are pairs
}  # fmt: skip
"""Keys of models that only pages who ask for them know -> values that ask for nothing."""
_UNSET: Mapping[str, tuple[Any, ...]] = {"attn_logit_softcapping": (50.0,), "final_logit_softcapping": (30.0,)}
"""What llama.cpp saves under such keys where the model has none."""


def architecture_of(name: str) -> Architecture:
    """What a page says of the files of ``general.architecture``, one of ``ARCHITECTURES``."""
    found: Architecture = import_module(f".{ARCHITECTURES[name]}", __package__).GGUF[name]
    return found


class GgufModel(NamedTuple):
    """A GGUF file as a checkpoint."""

    config: ConfigReader
    weights: GgufWeights
    files: GgufFiles
    notes: tuple[str, ...]


def open_gguf(file: GgufFile) -> GgufModel:
    """What pages read of ``file``.

    Raises
    ------
    WeightFileError
        There is no page for its architecture; a key is missing or has a value that no page obeys.
    """
    fields = file.fields
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise WeightFileError(
            f"{file.path}: general.architecture is {str(name)[:100]!r}, which is not supported; supported: "
            f"{', '.join(ARCHITECTURES)}"
        )
    kind = fields.get("general.type", "model")
    if not (isinstance(kind, str) and kind == "model"):
        raise WeightFileError(f"{file.path}: general.type is {str(kind)[:100]!r}, expected 'model'")
    if not len(file):
        raise WeightFileError(
            f"{file.path}: there are no tensors: a vocabulary, or one part of a model of several files"
        )
    keys = Keys(file, name)
    architecture = architecture_of(name)
    if architecture.roles_of is not None:
        architecture = architecture._replace(roles=architecture.roles_of(keys))
    common = _common(keys, architecture)
    tensors = _tensors(file, architecture, common, keys.further)
    values = _config(keys, architecture, common)
    notes = []
    if keys.further:
        notes.append(f"{file.path}: not used: layers that guess further tokens, the last {keys.further} of them")
    unknown = [] if keys.all_of_them else keys.not_asked()
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        notes.append(
            f"{file.path}: unknown key{'s' * (len(unknown) > 1)} "
            f"{', '.join(repr(key[:100]) for key in unknown[:20])}{more}"
        )
    files = GgufFiles(file, values)
    config = ConfigReader(files.describe("config.json"), values)
    weights = GgufWeights(file, tensors, partial(_would_be, architecture))
    return GgufModel(config, weights, files, tuple(notes))


# ---- configuration ---------------------------------------------------------------------------------------------------


def _common(keys: Keys, architecture: Architecture) -> Values:
    """What config.json of most models would say, in the spelling of Llama's."""
    file = keys.file
    table = file.info("token_embd.weight").shape if "token_embd.weight" in file else ()
    if len(table) != 2:
        raise WeightFileError(f"{file.path}: there is no table token_embd.weight of two dimensions")
    keys.size("vocab_size", table[0])
    if architecture.common is not None:
        own: Values = {"vocab_size": table[0], "tie_word_embeddings": "output.weight" not in file}
        return own | architecture.common(keys) | _tokens(file)
    hidden, heads = keys.size("embedding_length"), keys.size("attention.head_count")
    size = keys.size("attention.key_length", max(hidden // heads, 1))
    if not architecture.uneven and keys.size("attention.value_length", size) != size:
        raise keys.error("attention.value_length", keys.get("attention.value_length"), f"{size}, the length of keys")
    for kind in ("layer_norm", "layer_norm_rms"):  # converters write what they find, also that of the other norms
        keys.get(f"attention.{kind}_epsilon")
    turned = keys.size("rope.dimension_count", size)
    if turned != size and not architecture.part or turned > size:
        raise keys.error("rope.dimension_count", turned, f"{size}, the size of a head")
    values: Values = {
        "vocab_size": table[0],
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length"),
        "num_hidden_layers": keys.layers(),
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(keys, heads, architecture),
        "head_dim": size,
        "rms_norm_eps": keys.real(architecture.norms),
        "max_position_embeddings": keys.size("context_length"),
        "rope_theta": keys.real("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in file,
    }
    if architecture.part:
        part = turned / size
        # int(size * part) is what pages take
        values["partial_rotary_factor"] = part if int(size * part) == turned else math.nextafter(part, 1)
    for key, tensors in architecture.flags.items():
        values[key] = any(f"blk.0.{tensor}" in file for tensor in tensors)
    scaling = _scaling(keys, values["max_position_embeddings"], architecture.uneven)
    if scaling is not None:
        values["rope_scaling"] = scaling
    return values | _tokens(file)


def _kv_heads(keys: Keys, heads: int, architecture: Architecture) -> int:
    """Of all layers that have attention: the others have 0 where files are of such a mixture."""
    value = keys.get("attention.head_count_kv")
    if architecture.mixed and isinstance(value, np.ndarray) and value.ndim == 1:
        counts = set(value.tolist()) - {0}
        if len(counts) > 1 or not all(type(count) is int and count > 0 for count in counts):
            raise keys.error("attention.head_count_kv", value, "0 and one other number")
        return next(iter(counts), heads)
    return keys.size("attention.head_count_kv", heads)


def _config(keys: Keys, architecture: Architecture, common: Values) -> Values:
    """What config.json of the model would say."""
    labels = rank_labels(keys)
    values: Values = {
        "model_type": architecture.model_type,
        "architectures": [
            f"{architecture.family}{architecture.top if labels is None else 'ForSequenceClassification'}"
        ],
    }
    if labels is not None:
        values["id2label"] = {str(i): label for i, label in enumerate(labels)}
    for key, value in common.items():
        name = architecture.spelling.get(key, key)
        if name is not None:
            values[name] = value
    if architecture.more is not None:
        values |= architecture.more(keys, common)
    for key, harmless in _REFUSED.items():
        if not keys.asked(key):
            keys.must(key, *harmless, *(_UNSET.get(key, ()) if keys.all_of_them else ()))
    return values


def _scaling(keys: Keys, positions: int, latent: bool) -> Values | None:
    """``rope_scaling`` of config.json, None for the plain frequencies.

    ``latent``: the page asks for the scale of scores itself.
    """
    kind = keys.get("rope.scaling.type")
    if kind is not None and not (isinstance(kind, str) and kind in ("none", "linear", "yarn", "longrope")):
        raise keys.error("rope.scaling.type", kind, "none, linear, yarn or longrope")
    old = keys.real("rope.scale_linear", 1.0)
    factor = keys.real("rope.scaling.factor", old)
    keys.get("rope.scaling.finetuned")  # says whether the model was trained with it
    own = divisors(keys.file, "rope_freqs.weight")
    if own is not None:
        if kind not in (None, "none", "linear") or factor != 1:
            raise keys.error("rope.scaling.type", kind, "none beside the tensor rope_freqs.weight")
        # as longrope, which is the type that names its divisors, with one list for every length
        return {
            "rope_type": "longrope", "short_factor": own, "long_factor": own, "attention_factor": 1.0,
            "original_max_position_embeddings": positions,
        }  # fmt: skip
    if kind == "yarn":
        scaling: Values = {"rope_type": "yarn", "factor": factor}
        trained = keys.size("rope.scaling.original_context_length", positions)
        scaling["original_max_position_embeddings"] = trained
        for name in ("beta_fast", "beta_slow"):
            value = keys.get(f"rope.scaling.yarn_{name}")
            if value is not None:
                scaling[name] = keys.real(f"rope.scaling.yarn_{name}")
        keys.must("rope.scaling.yarn_ext_factor", 1.0, -1.0)  # below 0 nobody has set it
        if not latent:
            keys.must("rope.scaling.yarn_log_multiplier", 0.0)
        keys.must("rope.scaling.attn_factor", 1.0)
        whole = keys.real("rope.scaling.yarn_attn_factor", 1.0)
        if latent:
            keys.must("rope.scaling.yarn_attn_factor", 1.0)
        if whole != 1:  # what the file's config.json had; 1 says nothing
            scaling["attention_factor"] = whole
        return scaling
    if kind == "longrope" or factor == 1:
        return None
    return {"rope_type": "linear", "factor": factor}


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _tensors(file: GgufFile, architecture: Architecture, values: Values, further: int) -> dict[str, Converted]:
    """Hugging Face names -> tensors; those of the configuration and of the ``further`` layers behind the last one are
    left out, unknown ones keep their names."""
    heads = {"attn_q": values.get("num_attention_heads", 0), "attn_k": values.get("num_key_value_heads", 0)}
    together = {"attn_q": heads["attn_q"], "attn_k": heads["attn_k"], "attn_v": heads["attn_k"]}
    found: dict[str, Converted] = {}

    def put(target: str, where: Converted) -> None:
        if target in found:
            raise WeightFileError(f"{file.path}: tensors {found[target].name!r} and {where.name!r} are both {target!r}")
        found[target] = where

    last = values["num_hidden_layers"]
    for name in file:
        if name in _POSITIONS:
            continue
        parts = name.split(".")
        layer = None
        if parts[0] == "blk" and len(parts) > 2 and parts[1].isascii() and parts[1].isdigit():
            layer, parts = int(parts[1]), parts[2:]
            if last <= layer < last + further:
                continue
        alone = None if layer is None else architecture.tensors.get(".".join(parts))
        if alone is not None:
            put(architecture.names.of(alone, layer), Converted(name))
            continue
        role, part = ".".join(parts[:-1]), parts[-1]
        role = architecture.roles.get(role, role)
        if role == "attn_qkv" and layer is not None and not architecture.joined and part in ("weight", "bias"):
            first = 0  # some converters lay the three behind each other
            for role, count in together.items():
                rows = count * values["head_dim"]
                turned = count if architecture.paired and role != "attn_v" else 0
                put(f"{architecture.names.of(role, layer)}.{part}", Converted(name, turned, first, rows))
                first += rows
            if file.info(name).shape[:1] != (first,):
                raise WeightFileError(
                    f"{file.path}: tensor {name!r} has shape {list(file.info(name).shape)}, expected {first} rows of "
                    "queries, keys and values"
                )
            continue
        if role in architecture.by_head and layer is not None and part == "weight":
            count = heads["attn_q" if role.startswith("attn_q") else "attn_k"]
            if file.info(name).shape[:1] != (count,):
                raise WeightFileError(
                    f"{file.path}: tensor {name!r} has shape {list(file.info(name).shape)}, expected a row for each of "
                    f"{count} heads"
                )
            for head in range(count):
                put(f"{architecture.names.of(role, layer)}.{head}.weight", Converted(name, first=head, vector=True))
            continue
        known = architecture.head if role == "output" else architecture.names.get(role, layer)
        if role == "output" and part == "bias" and not architecture.head_bias:
            known = None  # of all tensors of a head it is the one that Hugging Face folders may have in vain
        if name == RANKED:
            known, part = SCORE, "weight"
        target = f"{known}.{part}" if known and part in ("weight", "bias") else name
        turned = heads.get(role, 0) if architecture.paired and layer is not None else 0
        put(target, Converted(name, turned, row=role in _ROWS, fold=architecture.folded.get(role, "")))
    return found


def _would_be(architecture: Architecture, name: str) -> str:
    """What the tensor of a Hugging Face name is called in GGUF files of an architecture."""
    layer, _, part = name.rpartition(".")
    if layer == architecture.head:
        return f"output.{part}"
    if layer == SCORE:
        return RANKED
    alone = {role: tensor for tensor, role in architecture.tensors.items()}
    for role, number in architecture.names.roles(name):
        if role in alone:
            return f"blk.{number}.{alone[role]}"
    own = {role: tensor for tensor, role in architecture.roles.items()}
    roles = architecture.names.roles(layer) or architecture.names.roles(layer.rpartition(".")[0])
    if not roles:
        return name
    role, number = next((found for found in roles if found[0] in own), roles[-1])
    role = own.get(role, role)
    return f"{role}.{part}" if number is None else f"blk.{number}.{role}.{part}"


def converted(architecture: str, name: str, config: ConfigReader) -> Converted:
    """Where files of ``architecture`` have the tensor of a Hugging Face name, of a model that ``config`` describes."""
    own = architecture_of(architecture)
    where = _would_be(own, name)
    if where == name:  # of a class without a head
        where = _would_be(own, own.names.prefix + name)
    role = where.split(".")[-2]
    if not own.paired or role not in ("attn_q", "attn_k"):
        return Converted(where)
    heads = config.size(own.spelling.get("num_attention_heads") or "num_attention_heads")
    shared = own.spelling.get("num_key_value_heads") or "num_key_value_heads"
    return Converted(where, heads if role == "attn_q" else config.size(shared, heads))


# ---- small files -----------------------------------------------------------------------------------------------------


def _tokens(file: GgufFile) -> Values:
    """Ids of tokens that config.json names."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: _token(file, key) for name, key in keys.items()}
    return {name: token for name, token in found.items() if token is not None}


def _token(file: GgufFile, name: str) -> int | None:
    """The id under ``tokenizer.ggml.{name}_token_id``; ids outside the vocabulary are refused."""
    key = f"tokenizer.ggml.{name}_token_id"
    token = file.fields.get(key)
    if token is None:
        return None
    tokens = file.fields.get("tokenizer.ggml.tokens")
    if tokens is not None and not isinstance(tokens, GgufStrings):
        kind = file.fields.kind("tokenizer.ggml.tokens")
        raise WeightFileError(f"{file.path}: tokenizer.ggml.tokens is {kind}, expected an array of str")
    count = len(tokens) if tokens is not None else file.info("token_embd.weight").shape[0]
    if type(token) is not int or not 0 <= token < count:
        raise WeightFileError(f"{file.path}: {key} is {str(token)[:40]}, expected an id below {count}")
    return token


class GgufFiles(ModelFiles):
    """The small files that a Hugging Face folder of the model would have, made of the fields of a GGUF file."""

    def __init__(self, file: GgufFile, config: Values) -> None:
        self._file, self._config = file, config
        self._made: dict[str, bytes] = {}
        self._makers: dict[str, Callable[[], bytes]] = {
            "config.json": lambda: _json(self._config),
            "generation_config.json": lambda: _json(self._generation()),
        }
        if "tokenizer.ggml.model" in file.fields:
            self._makers["tokenizer.json"] = lambda: tokenizer_json(self._file.fields, self.describe())
            self._makers["tokenizer_config.json"] = lambda: _json(tokenizer_config(self._vocabulary))
        self._makers.update((name, partial(_json, content)) for name, content in pooling_files(file))

    def __reduce__(self) -> tuple[Any, ...]:
        return GgufFiles, (self._file, self._config)

    def has(self, name: str) -> bool:
        return name in self._makers

    @cached_property
    def _vocabulary(self) -> GgufVocabulary:
        return GgufVocabulary(self._file.fields, str(self._file.path))

    def tokenizer(self) -> Any:
        return build_tokenizer(self._vocabulary) if self.has("tokenizer.json") else None

    def names(self, folder: str = "") -> list[str]:
        return sorted(name for name in self._makers if name.rpartition("/")[0] == folder)

    def read_bytes(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        if name not in self._makers:
            raise FileNotFoundError(f"{self.describe(name)}: a GGUF file has no such part")
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def describe(self, name: str = "") -> str:
        return f"{self._file.path}: {name}" if name else str(self._file.path)

    def open_weights(self, name: str) -> WeightFile:
        raise FileNotFoundError(f"{self.describe(name)}: a GGUF file has no such part")

    def _generation(self) -> Values:
        """How the file wants its model to be used: what ends a text, ``general.sampling.*``."""
        file, values = self._file, Values()
        if self.has("tokenizer.json"):
            values["eos_token_id"] = gguf_stop_ids(self._vocabulary)
        elif (end := _token(file, "eos")) is not None:
            values["eos_token_id"] = [end]
        for key, value in file.fields.items():
            if key.startswith(_SAMPLING):
                if not isinstance(value, (bool, int, float, str)):
                    raise WeightFileError(f"{file.path}: {key} is {file.fields.kind(key)}, expected one number")
                name = key.removeprefix(_SAMPLING)
                values[_OPTIONS.get(name, name)] = shortest(value) if type(value) is float else value
        if values.keys() & _DRAWING and values.get("temperature") != 0:
            values["do_sample"] = True
        return values


_SAMPLING = "general.sampling."
_OPTIONS = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
_DRAWING = {
    "temperature", "top_k", "top_p", "min_p", "xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau",
    "mirostat_eta",
}  # fmt: skip
"""What has a meaning only where tokens are drawn: a file that has any of it wants them drawn."""


def _json(values: Any) -> bytes:
    return json.dumps(values).encode("ascii")
