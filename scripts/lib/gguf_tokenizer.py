"""Rebuild a Hugging Face tokenizer.json from the tokenizer that a GGUF file carries.

A GGUF file holds the vocabulary, the merges and the *name* of the pre-tokenizer (the rule that cuts text into words
before merging). The rules behind the names are written down here; a name that is not is refused, because a wrong rule
would give a tokenizer that almost works.
"""

from typing import Any

from errors import Error

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# Token types of GGUF (gguf.TokenType).
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_DIGITS = _sequence({"type": "Digits", "individual_digits": True}, _byte_level(True))
# By the names that llama.cpp has for them; of equal rules the first stands for all.
PRE_TOKENIZERS = {
    "gpt-2": _byte_level(True),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "command-r": _DIGITS,
    "exaone": _DIGITS,
    "llama-bpe": _sequence(_split(_LLAMA3), _byte_level(False)),
    "qwen2": _sequence(_split(_QWEN2), _byte_level(False)),
}


def tokenizer_json(fields: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json; fields are the `tokenizer.ggml.*` values of the file by their short name."""
    model = fields.get("model")
    if model != "gpt2":
        raise Error(
            f"tokenizer model {model!r} cannot be rebuilt from a GGUF file (only byte-level BPE, 'gpt2', can):"
            " pass the model's own tokenizer.json with --tokenizer"
        )
    pre = fields.get("pre", "gpt-2")
    if pre not in PRE_TOKENIZERS:
        raise Error(
            f"pre-tokenizer {pre!r} is unknown (known: {', '.join(PRE_TOKENIZERS)}):"
            " pass the model's own tokenizer.json with --tokenizer"
        )
    tokens = fields.get("tokens")
    merges = fields.get("merges")
    if not tokens or merges is None:
        raise Error("the file holds no vocabulary or no merges: pass the model's own tokenizer.json with --tokenizer")
    types = fields.get("token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise Error(f"the file has {len(tokens)} tokens but {len(types)} token types: it is damaged")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise Error(f"the vocabulary repeats {len(tokens) - len(vocabulary)} of its {len(tokens)} tokens: it is damaged")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(index, token, kind) for index, (token, kind) in enumerate(zip(tokens, types))
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": _post_processor(fields, tokens),
        "decoder": _byte_level(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": vocabulary,
            "merges": [_merge(merge) for merge in merges],
        },
    }


def _added_token(index: int, token: str, kind: int) -> dict[str, Any]:
    return {
        "id": index,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": kind != _USER_DEFINED,
    }


def _merge(merge: str) -> list[str]:
    """`left right` -> [left, right]. A token of byte-level BPE holds no space (a space byte is written Ġ)."""
    pair = merge.split(" ")
    if len(pair) != 2:
        raise Error(f"the merge {merge!r} is not a pair of tokens: the file is damaged")
    return pair


def _post_processor(fields: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """ByteLevel offsets; where the model wants a first token before every text, that too."""
    byte_level = {**_byte_level(True), "trim_offsets": False}
    first = fields.get("bos_token_id")
    if not fields.get("add_bos_token") or first is None or not 0 <= first < len(tokens):
        return byte_level
    name = tokens[first]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": name, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": name, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {name: {"id": name, "ids": [first], "tokens": [name]}},
    }
    return {"type": "Sequence", "processors": [byte_level, template]}
