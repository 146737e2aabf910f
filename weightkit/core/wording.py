"""Messages are written once, in the options of the command line; who calls from Python is told the arguments instead."""

from __future__ import annotations

import re

__all__ = ["apart", "as_arguments"]

ARGUMENTS = {
    "add-piece": "pieces",
    "allow-tuned-base": "allow_tuned_base",
    "as": "converter",
    "base": "base",
    "checksums": "checksums",
    "device": "device",
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
    "prompt": "prompt",
    "raw": "raw",
    "release": "release",
    "repo": "repo",
    "sign": "sign",
    "signature": "signature",
    "public-key": "public_key",
    "private": "private",
    "license": "licence",
    "base-model": "base_model",
    "seek": "seek",
    "stream": "stream",
    "template": "template",
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
    "type": "Form",
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
FLAGS = {"allow-tuned-base", "full", "keep-mismatched", "overwrite", "seek", "stream", "trust-inputs", "verify-raw"}

VALUES = (
    "bfloat16|float16|float32|mean|zero|whole|base|diff|hf|meta|tencentpretrain|fma|mul-add|blas|bin|safetensors|exact|additive"
)
CALLS = {"recover": "recover_release", "merge": "merge_lora", "convert": "convert_checkpoint", "make-diff": "make_diff"}
"""Command -> the function that does the same."""

WORDS = rf" --(?:{'|'.join(FLAGS)})\b| --[a-z][a-z-]* [^\s;:,()]+| [A-Z][^\s;:,()]*"
CALL = rf"\bweightkit (?P<call>{'|'.join(CALLS)})\b(?P<words>(?:{WORDS})*)"
COMMAND = (
    r"\bweightkit (?:xor|verify|manifest|identify|inspect|explain|releases|tokenizer|demo)\b[^;:)\n]*"
    r"|\b(?:hf|git|uv) [a-z][^;)\n]*|\S*\bpip3? [a-z][^;)\n]*|\S*\bpython[\d.]* -m [^;)\n]*"
)
SPOKEN = re.compile(
    rf"{CALL}|(?P<command>{COMMAND})|(?P<verify>{'|'.join(IN_VERIFY)})"
    rf"|(?<![\w-])--(?P<name>[a-z][a-z-]*[a-z]|as|to)(?: (?P<value>(?:(?<=--whole )[^\s:;,]+|{VALUES})(?![\w-])))?"
)
SUBJECT = re.compile(r"\A(PATH|SRC|DST)(?=[ :])")


def as_arguments(text: str) -> str:
    """The same message with arguments: ``--max-memory`` -> ``max_memory``, ``--overwrite`` -> ``overwrite=True``.

    ``--new-rows mean`` -> ``rules=Rules(new_rows="mean")``; ``weightkit recover --raw BASE --diff it`` ->
    ``weightkit.recover_release(raw=base, diff=it)``. Commands of others (``hf download``) stay commands, and options that are
    none of ours stay as they are.
    """
    return SPOKEN.sub(spoken, SUBJECT.sub(lambda match: match[0].lower(), text))


def spoken(match: re.Match[str]) -> str:
    """One option, or what is left as it is."""
    if match["call"]:
        return call(match["call"], match["words"].split())
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


def call(command: str, words: list[str]) -> str:
    """A command as the call that does the same: ``BASE`` and ``it`` stand for something, other values are quoted."""
    if not words:
        return f"weightkit.{CALLS[command]}"
    given: dict[str, str] = {}
    held: dict[str, list[str]] = {}
    places: list[str] = []
    while words:
        word = words.pop(0)
        name = word.removeprefix("--")
        if name == word:
            places.append(valued(word))
        elif name in FLAGS:
            given[ARGUMENTS[name]] = "True"
        elif name in FIELDS:
            field = RENAMED.get(name, name.replace("-", "_"))
            held.setdefault(FIELDS[name], []).append(f"{field}={valued(words.pop(0))}")
        else:
            argument = "adapters" if (command, name) == ("merge", "lora") else ARGUMENTS.get(name, name.replace("-", "_"))
            given[argument] = valued(words.pop(0))
    given |= {HOLDERS[holder]: f"{holder}({', '.join(fields)})" for holder, fields in held.items()}
    return f"weightkit.{CALLS[command]}({', '.join([*places, *(f'{name}={value}' for name, value in given.items())])})"


def valued(word: str) -> str:
    """A word of a command as a value in Python."""
    return word.lower() if word.isupper() or word == "it" else f'"{word}"'


ADVICE = """
    check choose compare convert cut delete download fetch free get give install keep leave let look make merge move name put
    read recover remove run say see set start take tell try unpack use verify wait
""".split()  # noqa: SIM905
"""How the last clause of a message begins, where it says what to do."""


def apart(message: str) -> tuple[str, str | None]:
    """A message and what it says to do: its last clause, as ``...; name another --out``."""
    what, _, advice = message.rpartition("; ")
    return (what, advice) if what and advice.split(" ")[0].rstrip(":") in ADVICE else (message, None)
