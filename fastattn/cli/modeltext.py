# SPDX-License-Identifier: MIT
"""What ``fastattn info PATH`` prints where nobody asks for JSON: a line for each thing that is known."""

from __future__ import annotations

from typing import Any

__all__ = ["as_text"]

_WIDTH = 17
_KINDS = {"generate": "a language model", "none": "an encoder"}


def as_text(found: dict[str, Any]) -> str:
    """``modelinfo.describe`` in aligned lines; what is not known is left out."""
    rows = [
        ("file" if found["files"] == 1 else "files", _place(found)),
        ("architecture", _joined(found.get("architecture"), *found.get("classes", ()))),
        ("name", _joined(found.get("name"), found.get("size_label"))),
        ("quantised by", found.get("quantized_by")),
        ("license", found.get("license")),
        ("parameters", _large(found.get("parameters"))),
        ("tensors", _tensors(found)),
        ("packed", _packed(found.get("packed"))),
        ("context", _counted(found.get("context"), "tokens")),
        ("vocabulary", _counted(found.get("vocabulary"), "tokens")),
        ("layers", _layers(found)),
        ("heads", _heads(found)),
        ("tokenizer", _tokenizer(found)),
        ("special tokens", _special(found)),
        ("chat template", _template(found)),
        ("runs", _runs(found)),
        *(("note", note) for note in found["notes"]),
    ]
    return "\n".join(f"{name:<{_WIDTH}}{_shown(str(value))}" for name, value in rows if value)


def _shown(text: str) -> str:
    """`text` in one line; what moves a terminal's cursor or colours is spelt as escapes."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _place(found: dict[str, Any]) -> str:
    form = found["format"]
    if "gguf" in found:
        form = f"GGUF {found['gguf']['version']}, alignment {found['gguf']['alignment']}"
    several = f"{found['files']} files, " if found["files"] > 1 else ""
    return f"{found['path']} ({form}, {several}{_bytes(found['bytes'])})"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def _large(count: int | None) -> str:
    if count is None:
        return ""
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if count >= size:
            return f"{count:,} ({count / size:.1f} {unit})"
    return f"{count:,}"


def _tensors(found: dict[str, Any]) -> str:
    kinds = (f"{one['tensors']} {name} ({_bytes(one['bytes'])})" for name, one in found["types"].items())
    return _joined(str(found["tensors"]), *kinds).replace(", ", ": ", 1)


def _packed(packed: dict[str, Any] | None) -> str:
    if packed is None:
        return ""
    source = f"from GGUF of {' '.join(packed['gguf_types'])}" if packed["gguf_types"] else None
    lost = f"dequantised {' '.join(packed['dequantized'])}" if packed["dequantized"] else None
    versions = (
        f"format {packed['format_version']}, numerics {packed['numerics_version']}, "
        f"fastattn {packed['fastattn_version']}"
    )
    return _joined(packed["dtype"], source, lost, versions)


def _counted(value: Any, what: str = "") -> str:
    """A number, or the least and the largest of those of layers."""
    if value is None:
        return ""
    text = f"{min(value)} to {max(value)} by layer" if isinstance(value, list) else str(value)
    return f"{text} {what}".rstrip()


def _layers(found: dict[str, Any]) -> str:
    layers, wide, inner = (_counted(found.get(key)) for key in ("layers", "hidden", "feed_forward"))
    return _joined(layers, wide and f"{wide} wide", inner and f"{inner} in the feed-forward")


def _heads(found: dict[str, Any]) -> str:
    heads, keys, size = (_counted(found.get(key)) for key in ("heads", "kv_heads", "head_size"))
    return _joined(heads, keys and f"{keys} of keys and values", size and f"{size} wide")


def _tokenizer(found: dict[str, Any]) -> str:
    tokenizer = found["tokenizer"]
    if tokenizer is None:
        return "none"
    pre = tokenizer["pre"] and f"splitting {tokenizer['pre']}"
    broken = f"cannot be used: {tokenizer['why_not']}" if tokenizer["usable"] is False else None
    return _joined(tokenizer["model"], pre, _counted(tokenizer["tokens"], "tokens"), broken)


def _special(found: dict[str, Any]) -> str:
    special = (found["tokenizer"] or {}).get("special", {})
    return _joined(*(
        " ".join(str(part) for part in (role, one["id"], one["token"]) if part is not None)
        for role, one in special.items()
    ))  # fmt: skip


def _template(found: dict[str, Any]) -> str:
    template = found["chat_template"]
    if template is None:
        return "none" if found["task"] == "generate" else ""
    if template["shape"] is None:
        return f"{template['characters']} characters, none of the common shapes"
    return f"{template['shape']}, as `fastattn generate --chat` takes it"


def _runs(found: dict[str, Any]) -> str:
    if not found["supported"]:
        return f"no: {found['why_not']}"
    kind = _KINDS.get(found["task"], f"an encoder with the head {found['task']}")
    if found["tokenizer"] is None or found["tokenizer"]["usable"] is False:
        kind += ", with token ids alone"
    return f"yes, as {found['family']}: {kind}"
