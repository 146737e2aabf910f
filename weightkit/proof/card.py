"""What goes beside a diff that is published: the recipe that ``recover --release`` follows, and a card for people."""

# ruff: noqa: RUF001 - the card is in Chinese, too
from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from weightkit.core.errors import PlanError
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules

__all__ = ["Told", "card", "recipe"]

CARD = """---
{front}---

# {title}

This is not a model but what rebuilds one from its base with weightkit, the same bytes for everybody. You need the base{named},
which is not here: put its folder in the place of `BASE`.{where}

```sh
{recover}
weightkit verify OUT
```

The first command rebuilds the model in `OUT` and compares it with the published digests; the second checks it again at any
later time.

- `SHA256SUMS` lists the files here; `RELEASE.sha256` lists what comes out, and `recover` compares with it.
- `BASE.TENSORS` says which base is right, tensor by tensor: another one is refused.
- `release.toml` is the recipe ({method}). Nothing in it is run.
{signed}
## 中文

这不是模型本身，而是用 weightkit 从基座模型{named_zh}重建该模型所需的文件，任何人重建的结果逐字节相同。基座模型不在此处：请把
下面的 `BASE` 换成基座模型所在的文件夹。{where_zh}

```sh
{recover}
weightkit verify OUT
```

第一条命令在 `OUT` 中重建模型，并与公布的摘要比对；第二条命令可在以后随时再次校验。

- `SHA256SUMS` 是此处文件的摘要，`RELEASE.sha256` 是重建结果的摘要。
- `BASE.TENSORS` 逐个张量说明所需的基座模型，换用其他模型会被拒绝。
- `release.toml` 是重建方法（{method}），其中没有任何会被执行的内容。
{signed_zh}"""

SIGNED = """- `model.sig` is a signature of all these files (OpenSSF Model Signing).
  `weightkit verify {place} --public-key KEY` checks it, with the publisher's public key; take that from where you know the
  publisher, not from here.
"""

SIGNED_ZH = """- `model.sig` 是对以上全部文件的签名（OpenSSF Model Signing）。用发布者的公钥运行
  `weightkit verify {place} --public-key KEY` 即可校验；公钥请从您信任的渠道取得，不要取自此处。
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What a publisher says of a release.

    Attributes:
        title: For people.
        licence: For the card, as ``apache-2.0``; empty for nothing.
        base: What the base is called on the Hub; empty for nothing.
        repo: Where it will be, ``owner/name``; empty for nowhere.
        folder: The name of its folder.
        signed: Whether a signature lies in it.
    """

    title: str
    licence: str = ""
    base: str = ""
    repo: str = ""
    folder: str = ""
    signed: bool = False


def recipe(method: str, told: Told, rules: Rules, how: Arithmetic | None = None) -> bytes:
    """``release.toml``; see ``catalog.outside``.

    Raises:
        PlanError: A text cannot stand there.
    """
    lines = [f"title = {quoted('title', told.title)}\n"]
    lines += [f"base = {quoted('base', told.base)}\n"] if told.base else []
    lines += [f"license = {quoted('licence', told.licence)}\n"] if told.licence else []
    lines += ["\n[recipe]\n", f'method = "{method}"\n']
    lines += [f'dtype = "{rules.dtype.name}"\n'] if rules.dtype is not None else []
    lines += [f'new_rows = "{rules.new_rows}"\n'] if rules.new_rows is not None else []
    if rules.whole:
        if len(rules.whole) > 64:
            raise PlanError(f"--whole is said {len(rules.whole)} times, and a recipe has room for 64; use patterns")
        lines.append(f"whole = [{', '.join(quoted('pattern of --whole', one) for one in rules.whole)}]\n")
    if how is not None or method == "lora":
        how = how or Arithmetic()
        lines += [f'rounding = "{how.rounding}"\n', f'sums = "{how.sums}"\n']
    return "".join(lines).encode()


def card(method: str, told: Told) -> bytes:
    """README.md, as a model card of the Hub.

    Raises:
        PlanError: A text cannot stand there.
    """
    front = f"license: {quoted('licence', told.licence)}\n" if told.licence else ""
    front += f"base_model: {quoted('base', told.base)}\n" if told.base else ""
    front += "tags:\n- weightkit\n"
    place = f"hf://{told.repo}" if told.repo else shlex.quote(told.folder)
    return CARD.format(
        front=front,
        title=told.title,
        recover=f"weightkit recover --release {place} --raw BASE --out OUT",
        method=method,
        signed=SIGNED.format(place=place) if told.signed else "",
        signed_zh=SIGNED_ZH.format(place=place) if told.signed else "",
        named=f", {told.base}" if told.base else "",
        named_zh=f"（{told.base}）" if told.base else "",
        where="" if told.repo else " Stand in the folder that holds this one.",
        where_zh="" if told.repo else "命令须在包含本文件夹的目录中运行。",
    ).encode()


def quoted(what: str, text: str) -> str:
    """A text as TOML and YAML both write it.

    Raises:
        PlanError: It is too long, or holds what cannot be printed.
    """
    if not text.isprintable() or len(text) > 200:
        raise PlanError(f"the {what} is too long, or holds characters that cannot be printed", hint="say it in one short line")
    return json.dumps(text, ensure_ascii=False)
