"""Messages are written once, in the options of the command line; who calls from Python is told the arguments instead."""

from __future__ import annotations

import re

__all__ = ["as_arguments"]

ARGUMENTS = {
    "add-piece": "pieces",
    "allow-tuned-base": "allow_tuned_base",
    "as": "converter",
    "base": "base",
    "checksums": "checksums",
    "diff": "diff",
    "dtype": "dtype",
    "expect": "expect",
    "full": "full",
    "jobs": "jobs",
    "keep-mismatched": "keep_mismatched",
    "key": "key",
    "lora": "lora",
    "max-memory": "max_memory",
    "method": "method",
    "order": "order",
    "out": "out",
    "overwrite": "overwrite",
    "parts": "parts",
    "raw": "raw",
    "release": "release",
    "seek": "seek",
    "to": "to",
    "trust-inputs": "trust_inputs",
    "tuned": "tuned",
    "verify-raw": "verify_raw",
    "against": "against",
}
"""Option -> the argument of the functions that take it."""

FIELDS = {
    "inv-freq": "Rules",
    "new-rows": "Rules",
    "whole": "Rules",
    "config-from": "Form",
    "format": "Form",
    "max-shard-size": "Form",
    "tokenizer-from": "Form",
    "torch-compat": "Form",
    "rounding": "Arithmetic",
    "sums": "Arithmetic",
}
"""Option -> the class that holds it as a field."""

HOLDERS = {"Rules": "rules", "Form": "form", "Arithmetic": "how"}
RENAMED = {"max-shard-size": "max_shard_bytes"}
IN_VERIFY = {"--checksums FILE": "lists=FILE", "--release NAME": "releases=NAME"}
FLAGS = {"allow-tuned-base", "full", "keep-mismatched", "overwrite", "seek", "trust-inputs", "verify-raw"}

VALUES = (
    "bfloat16|float16|float32|mean|zero|whole|base|diff|hf|meta|tencentpretrain|fma|mul-add|blas|bin|safetensors|exact|additive"
)
COMMAND = (
    r"\bweightkit (?:recover|merge|convert|xor|make-diff|verify|manifest|identify|inspect|explain|releases|tokenizer|demo)\b"
    r"[^;:)\n]*"
    r"|\b(?:hf|git|uv) [a-z][^;)\n]*|\S*\bpip3? [a-z][^;)\n]*|\S*\bpython[\d.]* -m [^;)\n]*"
)
SPOKEN = re.compile(
    rf"(?P<command>{COMMAND})|(?P<verify>{'|'.join(IN_VERIFY)})"
    rf"|(?<![\w-])--(?P<name>[a-z][a-z-]*[a-z]|as|to)(?: (?P<value>(?:(?<=--whole )[^\s:;,]+|{VALUES})(?![\w-])))?"
)
SUBJECT = re.compile(r"\A(PATH|SRC|DST)(?=[ :])")


def as_arguments(text: str) -> str:
    """The same message with arguments: ``--max-memory`` -> ``max_memory``, ``--overwrite`` -> ``overwrite=True``.

    ``--new-rows mean`` -> ``rules=Rules(new_rows="mean")``. Commands in it (``weightkit recover --raw ...``, ``hf download``)
    stay commands, and options that are none of ours stay as they are.
    """
    return SPOKEN.sub(spoken, SUBJECT.sub(lambda match: match[0].lower(), text))


def spoken(match: re.Match[str]) -> str:
    """One option, or what is left as it is."""
    if match["command"]:
        return match[0]
    if match["verify"]:
        return IN_VERIFY[match[0]]
    name, value = match["name"], match["value"]
    tail = f" {value}" if value else ""
    if name in FIELDS:
        holder, field = FIELDS[name], RENAMED.get(name, name.replace("-", "_"))
        return f'{HOLDERS[holder]}={holder}({field}="{value}")' if value else f"{field} of {holder}"
    if name not in ARGUMENTS:
        return match[0]
    if name in FLAGS:
        return f"{ARGUMENTS[name]}=True{tail}"
    return f'{ARGUMENTS[name]}="{value}"' if value and name in ("dtype", "method", "to") else f"{ARGUMENTS[name]}{tail}"
