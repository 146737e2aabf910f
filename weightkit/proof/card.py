"""What goes beside a diff that is published: the recipe that ``recover --release`` follows, and a card for people."""

# ruff: noqa: RUF001 - the card is in Chinese, too
from __future__ import annotations

import json

from weightkit.core.errors import PlanError
from weightkit.methods.pairing import Rules

__all__ = ["card", "recipe"]

CARD = """---
{front}---

# {title}

This is not a model but what rebuilds one from its base, byte for byte, with weightkit. You need the base{named}, which is not
here.

这不是模型本身，而是用基座模型{named_zh}逐字节重建该模型所需的文件。基座模型不在此处。

```
{recover}
weightkit verify OUT
```

- `SHA256SUMS` lists the files here; `RELEASE.sha256` lists what comes out, and `recover` compares with it.
- `BASE.TENSORS` says which base is right, tensor by tensor: another one is refused.
- `release.toml` is the recipe ({method}). Nothing in it is run.

校验：`SHA256SUMS` 是此处文件的摘要，`RELEASE.sha256` 是重建结果的摘要；
`BASE.TENSORS` 说明所需的基座模型，换用其他模型会被拒绝。
"""


def recipe(method: str, title: str, base: str, licence: str, rules: Rules) -> bytes:
    """``release.toml``; see ``catalog.outside``.

    Raises:
        PlanError: A text cannot stand there.
    """
    lines = [f"title = {quoted('title', title)}\n"]
    lines += [f"base = {quoted('base', base)}\n"] if base else []
    lines += [f"license = {quoted('licence', licence)}\n"] if licence else []
    lines += ["\n[recipe]\n", f'method = "{method}"\n']
    lines += [f'dtype = "{rules.dtype.name}"\n'] if rules.dtype is not None else []
    lines += [f'new_rows = "{rules.new_rows}"\n'] if rules.new_rows is not None else []
    return "".join(lines).encode()


def card(title: str, base: str, licence: str, repo: str, method: str) -> bytes:
    """README.md, as a model card of the Hub.

    Raises:
        PlanError: A text cannot stand there.
    """
    front = f"license: {quoted('licence', licence)}\n" if licence else ""
    front += f"base_model: {quoted('base', base)}\n" if base else ""
    front += "tags:\n- weightkit\n"
    place = f"hf://{repo}" if repo else "THIS-FOLDER"
    recover = f"weightkit recover --release {place} --raw BASE --out OUT"
    named = {"named": f", {base}" if base else "", "named_zh": f"（{base}）" if base else ""}
    return CARD.format(front=front, title=quoted("title", title)[1:-1], recover=recover, method=method, **named).encode()


def quoted(what: str, text: str) -> str:
    """A text as TOML and YAML both write it.

    Raises:
        PlanError: It is too long, or holds what cannot be printed.
    """
    if not text.isprintable() or len(text) > 200:
        raise PlanError(f"the {what} is too long, or holds characters that cannot be printed", hint="say it in one short line")
    return json.dumps(text, ensure_ascii=False)
