"""The tokenizer of a Hugging Face folder as GGUF carries it: the other way round than gguf_tokenizer.py.

tokenizer.json says how text is cut into words; GGUF has a *name* for that rule. Rules are recognised by comparing them
with those of gguf_tokenizer.py: a rule that has no name there is refused, because a wrong one would give a tokenizer
that almost works.
"""

import json
from pathlib import Path
from typing import Any

from errors import Error, one_line
from gguf_tokenizer import PRE_TOKENIZERS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType


def add_vocabulary(writer: Any, folder: Path, size: int) -> None:
    """Add the tokenizer of the folder, padded to as many tokens as the model has, to a gguf.GGUFWriter."""
    import gguf

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise Error(f"{path}: not there: a GGUF file is made from a tokenizer.json; save one with transformers"
                    " (AutoTokenizer.from_pretrained, save_pretrained)")
    try:
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        model = tokenizer["model"]
        if model["type"] != "BPE":
            raise Error(f"{path}: a tokenizer of type {model['type']} is not supported (only BPE is)")
        tokens = token_list(tokenizer, size, path)
        sentencepiece = bool(model.get("byte_fallback"))
        pre = "default" if sentencepiece else pre_tokenizer(tokenizer, path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Error(f"{path}: not a tokenizer.json of Hugging Face ({one_line(error)})") from error
    writer.add_tokenizer_model("llama" if sentencepiece else "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    if sentencepiece:
        writer.add_token_scores(merge_scores(model["merges"], tokens))
        writer.add_add_space_prefix(space_prefix(tokenizer))
    writer.add_token_types(token_types(tokenizer, tokens))
    special = gguf.SpecialVocab(folder, load_merges=not sentencepiece, n_vocab=len(tokens))
    special.add_to_gguf(writer, quiet=True)


def token_list(tokenizer: dict[str, Any], size: int, path: Path) -> list[str]:
    """Every token by its number; numbers that the model has and the tokenizer has not are padding."""
    by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    by_id |= {added["id"]: added["content"] for added in tokenizer.get("added_tokens") or []}
    if by_id and max(by_id) >= size:
        raise Error(f"{path}: has a token {max(by_id)}, the model has {size}: is it the tokenizer of this model?")
    return [by_id.get(index, f"[PAD{index}]") for index in range(size)]


def token_types(tokenizer: dict[str, Any], tokens: list[str]) -> list[int]:
    """The kind of every token."""
    model = tokenizer["model"]
    known = set(model["vocab"].values()) | {added["id"] for added in tokenizer.get("added_tokens") or []}
    types = [NORMAL if index in known else UNUSED for index in range(len(tokens))]
    if model.get("byte_fallback"):
        for byte in range(256):
            index = model["vocab"].get(f"<0x{byte:02X}>")
            if index is not None:
                types[index] = BYTE
    for added in tokenizer.get("added_tokens") or []:
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is not None:
        types[unknown] = UNKNOWN
    return types


def merge_scores(merges: list[Any], tokens: list[str]) -> list[float]:
    """SentencePiece merges the pair with the highest score first: what the first merge makes gets the highest."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), index)
    return [-float(rank.get(token, 0)) for token in tokens]


def space_prefix(tokenizer: dict[str, Any]) -> bool:
    """Whether a text gets a space in front, which llama.cpp takes for granted where the file does not say."""
    rules = [tokenizer.get("normalizer") or {}, tokenizer.get("pre_tokenizer") or {}]
    while rules:
        rule = rules.pop()
        rules += [*rule.get("normalizers", ()), *rule.get("pretokenizers", ())]
        if rule.get("type") == "Prepend":
            return True
        if rule.get("type") == "Metaspace":
            return rule.get("prepend_scheme", "always" if rule.get("add_prefix_space", True) else "never") != "never"
    return False


def pre_tokenizer(tokenizer: dict[str, Any], path: Path) -> str:
    """GGUF's name of the rule that cuts text into words."""
    rule = _bare(tokenizer.get("pre_tokenizer"))
    for name, known in PRE_TOKENIZERS.items():
        if rule == _bare(known):
            return name
    raise Error(f"{path}: its pre-tokenizer has no name in GGUF that pvtune knows ({', '.join(PRE_TOKENIZERS)}):"
                " export hf-dense and convert it with llama.cpp's convert_hf_to_gguf.py")


def _bare(rule: Any) -> Any:
    """A rule without what changes no token: offsets, and which of its forms a pattern is written in."""
    if isinstance(rule, list):
        return [_bare(part) for part in rule]
    if not isinstance(rule, dict):
        return rule
    return {key: _bare(value) for key, value in rule.items() if key not in ("trim_offsets",)}
