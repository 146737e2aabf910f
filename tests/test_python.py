"""weightkit from Python: functions at the top, arguments as people say them, tensors without files."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import hashlib
import inspect
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import weightkit
from tests.conftest import PEER, bits, flip_bit
from weightkit.checkpoints.form import Form
from weightkit.core.errors import DigestMismatch, Incomplete, PlanError, WeightkitError
from weightkit.core.wording import as_arguments
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = {
    "convert_checkpoint": "convert",
    "fetch_release": "fetch",
    "identify_path": "identify",
    "load_into": "virtual",
    "make_diff": "diff",
    "merge_lora": "merge",
    "open": "virtual",
    "publish_release": "publish",
    "recover_release": "recover",
    "verify_files": "verify",
}
BASE, KNOWLM, OASST = PEER / "hf-bin", PEER / "diffs" / "knowlm", PEER / "diffs" / "oasst"
HEAD = "lm_head.weight"
WRONG = hashlib.sha256(b"another").hexdigest()


@pytest.fixture(autouse=True)
def errors_in_arguments(errors_in_options: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightkitError, "in_options", False)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of the demo, a release and an adapter beside them; the working directory."""
    from weightkit.cli.demo_model import build

    monkeypatch.chdir(tmp_path)
    build(tmp_path)
    weightkit.make_diff("base", "tuned", "diff")
    shutil.copytree(adapter(tmp_path), tmp_path / "lora")
    return tmp_path


def adapter(folder: Path) -> Path:
    """An adapter of rank 2 for the demo's model, as PEFT writes it."""
    made = folder / "made-lora"
    made.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    pair = {f"{name}.lora_A.weight": torch.ones(2, 64) / 64, f"{name}.lora_B.weight": torch.ones(64, 2) / 64}
    torch.save(pair, made / "adapter_model.bin")
    (made / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none", "fan_in_fan_out": false}'
    )
    return made


def written(folder: Path) -> dict[str, torch.Tensor]:
    """What torch finds in the files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.bin")):
        found |= torch.load(path, weights_only=True)
    return found


def same(opened: weightkit.virtual.Opened, wanted: dict[str, torch.Tensor]) -> None:
    assert set(opened) == set(wanted)
    for name, tensor in wanted.items():
        assert (opened[name].shape, opened[name].dtype) == (tensor.shape, tensor.dtype)
        assert bits(opened[name]) == bits(tensor), name


@pytest.mark.parametrize(("name", "module"), FUNCTIONS.items())
def test_functions_stand_at_the_top_and_in_their_modules(name: str, module: str) -> None:
    assert name in dir(weightkit)
    assert getattr(weightkit, name) is getattr(getattr(weightkit, module), name)


def test_old_names_are_the_same_functions() -> None:
    assert weightkit.recover.recover is weightkit.recover_release
    assert weightkit.convert.convert is weightkit.convert_checkpoint
    assert weightkit.verify.verify is weightkit.verify_files
    assert weightkit.identify.identify is weightkit.identify_path


def test_import_is_lazy() -> None:
    code = "import sys, weightkit; dir(weightkit); print('torch' in sys.modules, 'weightkit.recover' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


def test_types_are_seen(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        "import weightkit\nfrom weightkit.recover import Rules\n"
        'done = weightkit.recover_release("a", "b", "c", lora="l", rules=Rules(dtype="float16"), max_memory="1GiB")\n'
        'reveal_type(done.ok)\nreveal_type(weightkit.open("a")["x"])\nweightkit.recover_release("a", "b", "c", max_memory=[])\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(script)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    assert re.search(r'Revealed type is "(builtins\.)?bool"', done.stdout)
    assert "Tensor" in done.stdout
    assert done.stdout.count("error:") == 1, done.stdout
    assert '"max_memory"' in done.stdout


def test_one_stands_for_a_list(play: Path) -> None:
    done = weightkit.recover_release("base", "diff", "o", checksums="diff/RELEASE.sha256", max_memory="1GiB")
    assert done.ok
    assert done.report.receipts[0].checked
    assert weightkit.verify_files("o", "diff/RELEASE.sha256").ok
    assert weightkit.verify_files("o", Path("diff/RELEASE.sha256")).ok
    one = weightkit.merge_lora("base", "lora", "p", dtype="float32", how=Arithmetic("once"))
    two = weightkit.merge_lora("base", ["lora"], "q", dtype=weightkit.core.dtypes.FLOAT32, how=Arithmetic("once"))
    assert [r.sha256 for r in one.report.receipts] == [r.sha256 for r in two.report.receipts]
    assert written(play / "p")[HEAD].dtype == torch.float32
    assert weightkit.recover_release("base", "diff", "r", lora="lora").ok
    with pytest.raises(PlanError, match="catalog|release"):
        weightkit.verify_files("o", releases="no-such-release")


def test_one_stands_for_a_list_in_the_other_modules(play: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weightkit.xor.encode("tuned", "base", "payload", "block", max_memory="1GiB", progress=True)
    assert "encoding" in capsys.readouterr().err
    Path("list").write_text(f"{WRONG}  config.json\n")
    with pytest.raises(DigestMismatch, match="config.json"):
        weightkit.xor.decode("payload", "base", "o", checksums="list", raise_on_mismatch=True)
    assert weightkit.manifest.of_files("base", "md5") == weightkit.manifest.of_files("base", ["md5"])
    assert weightkit.explain.explain("tuned", against="tuned", base="base", lora="lora").matches


def test_dtypes_by_name(play: Path) -> None:
    assert Rules(dtype="fp16") == Rules(dtype="float16") == Rules(dtype=weightkit.core.dtypes.FLOAT16)
    assert Rules(whole="lm_head.*").whole == ("lm_head.*",)
    with pytest.raises(ValueError, match="float17"):
        Rules(dtype="float17")
    weightkit.recover_release("base", "diff", "o", rules=Rules(dtype="float32"))
    assert written(play / "o")[HEAD].dtype == torch.float32
    weightkit.convert_checkpoint("base", "m", "meta", dtype="bfloat16")
    assert all(
        one.dtype == torch.bfloat16
        for name, one in torch.load(play / "m" / "consolidated.00.pth").items()
        if "rope" not in name
    )


def test_a_bar(play: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[object] = []
    weightkit.recover_release("base", "diff", "o", progress=True, notify=events.append)
    assert "recovering" in capsys.readouterr().err
    assert events
    assert weightkit.verify_files("o", progress=True).ok
    assert "verifying" in capsys.readouterr().err


def test_a_mismatch_is_raised_where_wanted(play: Path) -> None:
    Path("list").write_text(f"{WRONG}  pytorch_model.bin\n{WRONG}  config.json\n")
    assert not weightkit.recover_release("base", "diff", "o", checksums="list").ok
    with pytest.raises(DigestMismatch) as caught:
        weightkit.recover_release("base", "diff", "o", checksums="list", raise_on_mismatch=True)
    assert (caught.value.path, caught.value.expected) == ("pytorch_model.bin", WRONG)
    Path("list").write_text(f"{WRONG}  config.json\n{WRONG}  absent\n")
    with pytest.raises(DigestMismatch, match=f"config.json: sha256 is .*, wanted {WRONG}") as found:
        weightkit.verify_files("base", "list", raise_on_mismatch=True)
    assert "absent" in found.value.__notes__[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name another --out, or say --overwrite", "name another out, or say overwrite=True"),
        ("Vicuna v0 needs --new-rows zero;", 'Vicuna v0 needs rules=Rules(new_rows="zero");'),
        ("PATH: x does not exist", "path: x does not exist"),
        ("--as: x is none", "converter: x is none"),
        ("say --whole a.b.*: it", 'say rules=Rules(whole="a.b.*"): it'),
        ("run weightkit recover --raw BASE --diff it", "run weightkit.recover_release(raw=base, diff=it)"),
        (
            "weightkit convert LLaMA/7B OUT --to hf --as transformers-4.28.1",
            'weightkit.convert_checkpoint("LLaMA/7B", out, to="hf", converter="transformers-4.28.1")',
        ),
        (
            "with weightkit merge --base B --lora L --rounding once --sums fma --overwrite again",
            'with weightkit.merge_lora(base=b, adapters=l, overwrite=True, how=Arithmetic(rounding="once", sums="fma")) again',
        ),
        ("weightkit verify --release NAME: it", "weightkit verify --release NAME: it"),
        ("first: hf download a/b --local-dir b", "first: hf download a/b --local-dir b"),
        ("python -m pip install x --index-url y", "python -m pip install x --index-url y"),
        ("a file--out of order", "a file--out of order"),
    ],
)
def test_messages_name_arguments(text: str, wanted: str) -> None:
    assert as_arguments(text) == wanted


def written_texts() -> Iterator[tuple[str, str]]:
    """Every text in the sources below the command line, but for docstrings; ``{}`` for what is filled in."""
    for path in sorted((ROOT / "weightkit").rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        skipped |= {id(part) for node in joined for part in ast.walk(node) if part is not node}
        place = path.relative_to(ROOT / "weightkit").as_posix()
        for node in nodes:
            if id(node) in skipped or place.startswith(("cli/", "core/wording", "core/installed")):
                continue
            if isinstance(node, ast.JoinedStr):
                yield place, "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield place, node.value


COMMANDS_OF_OTHERS = re.compile(r"\b(hf|pip|uv|git) .*| --revision {}")
COMMANDS = {"proof/card.py", "proof/causes/mending.py", "proof/causes/merges.py", "proof/causes/writings.py"}
"""Where ``Explanation.command`` is made: a command of the shell, wherever it is read."""


def test_no_text_leaves_an_option_for_python() -> None:
    with_options = [(place, text) for place, text in written_texts() if re.search(r"(?<![\w-])--[a-z]", text)]
    assert len(with_options) > 100
    left = [
        (place, text)
        for place, text in with_options
        if place not in COMMANDS and "--" in COMMANDS_OF_OTHERS.sub("", as_arguments(text))
    ]
    assert left == []


WRONG_USES: tuple[tuple[str, Callable[[], object]], ...] = (
    ("no base", lambda: weightkit.recover_release("nowhere", "diff", "o")),
    ("no diff", lambda: weightkit.recover_release("base", "nowhere", "o")),
    ("empty base", lambda: weightkit.recover_release("", "diff", "o")),
    ("a Hub name", lambda: weightkit.recover_release("huggyllama/llama-7b", "diff", "o")),
    ("an address", lambda: weightkit.recover_release("https://example.org/x", "diff", "o")),
    ("a Hub address", lambda: weightkit.recover_release("hf://huggyllama/llama-7b", "diff", "o")),
    ("out is base", lambda: weightkit.recover_release("base", "diff", "base")),
    ("out in base", lambda: weightkit.recover_release("base", "diff", "base/in")),
    ("out exists", lambda: weightkit.recover_release("base", "diff", "other")),
    ("out is a file", lambda: weightkit.recover_release("base", "diff", "base/config.json")),
    ("no such release", lambda: weightkit.recover_release("base", "diff", "o", release="zhixi-99b")),
    ("a release of another kind", lambda: weightkit.recover_release("base", "diff", "o", release="llama-7b")),
    ("a release that is merged", lambda: weightkit.recover_release("base", "diff", "o", release="zhixi-13b-lora")),
    ("another release", lambda: weightkit.recover_release("base", "diff", "o", release="zhixi-13b")),
    ("too many adapters", lambda: weightkit.recover_release("base", "diff", "o", release="zhixi-13b", lora="lora")),
    ("a converter", lambda: weightkit.recover_release("base", "diff", "o", converter="transformers-1")),
    ("a key for a sum", lambda: weightkit.recover_release("base", "diff", "o", key="base")),
    ("no checklist", lambda: weightkit.recover_release("base", "diff", "o", verify_raw=True)),
    ("too little memory", lambda: weightkit.recover_release("base", "diff", "o", max_memory="1MiB")),
    ("a diff for a LoRA", lambda: weightkit.merge_lora("base", "diff", "o")),
    ("a LoRA for a diff", lambda: weightkit.recover_release("base", "lora", "o")),
    ("a model for a diff", lambda: weightkit.recover_release("base", "base", "o")),
    ("a model for a LoRA", lambda: weightkit.merge_lora("base", "tuned", "o")),
    ("a diff for a base", lambda: weightkit.merge_lora("diff", "lora", "o")),
    ("a release for a merge", lambda: weightkit.merge_lora("base", "lora", "o", release="zhixi-13b")),
    ("no such pattern", lambda: weightkit.recover_release("base", "diff", "o", rules=Rules(whole="no.such.*"))),
    ("rows", lambda: weightkit.recover_release(BASE, PEER / "diffs" / "stanford", "o")),
    ("rows whole", lambda: weightkit.open(BASE, PEER / "diffs" / "stanford")),
    ("cast what is settled", lambda: weightkit.recover_release(BASE, OASST, "o", rules=Rules(dtype="float32"))),
    ("cut what is settled", lambda: weightkit.recover_release(BASE, OASST, "o", form=Form(torch_compat="1.13"))),
    ("merge into what is settled", lambda: weightkit.recover_release(BASE, OASST, "o", lora="lora")),
    ("another base of an XOR", lambda: weightkit.recover_release("base", OASST, "o")),
    ("no key", lambda: weightkit.recover_release("base", PEER / "diffs" / "enc", "o")),
    ("another key", lambda: weightkit.recover_release("base/pytorch_model.bin", PEER / "diffs" / "enc", "o")),
    ("gzip", lambda: weightkit.open(BASE, PEER / "diffs" / "oasst-gzip")),
    ("a key for nothing", lambda: weightkit.open(BASE, key=BASE)),
    ("no list", lambda: weightkit.verify_files("base")),
    ("no entry", lambda: weightkit.verify_files("base", releases="zhixi-99b")),
    ("nothing to verify", lambda: weightkit.verify_files("nowhere")),
    ("nothing to identify", lambda: weightkit.identify_path("nowhere")),
    ("a method", lambda: weightkit.make_diff("base", "tuned", "o", method="exakt")),
    ("words for an exact one", lambda: weightkit.make_diff("base", "tuned", "o", method="exact", rules=Rules(dtype="fp16"))),
    ("a layout", lambda: weightkit.convert_checkpoint("base", "o", "huggingface")),  # type: ignore[arg-type]
    ("parts", lambda: weightkit.convert_checkpoint("base", "o", "meta", parts=7)),
    ("convert a payload", lambda: weightkit.convert_checkpoint(OASST, "o", "meta")),
    ("convert an adapter", lambda: weightkit.convert_checkpoint("lora", "o", "meta")),
    ("explain nothing", lambda: weightkit.explain.explain("base")),
    ("explain a folder", lambda: weightkit.explain.explain("base", expect=WRONG)),
    ("explain no digest", lambda: weightkit.explain.explain("base/config.json", expect="abc")),
    ("a module", lambda: weightkit.load_into(Tied(tied=False).float(), "base")),
)


@pytest.mark.parametrize(("name", "use"), WRONG_USES, ids=[name for name, _ in WRONG_USES])
def test_what_is_used_wrongly_says_so_in_arguments(name: str, use: Callable[[], object], play: Path) -> None:
    shutil.copytree("base", "other")
    with pytest.raises((WeightkitError, ValueError)) as caught:
        use()
    said = [str(caught.value)]
    if isinstance(caught.value, WeightkitError):
        error = caught.value
        said += [error.summary, error.hint or "", *getattr(error, "problems", ())]
        assert error.kind in ("format", "plan", "refused", "mismatch", "incomplete")
        assert error.summary
        assert (error.hint or "") in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.summary, again.hint, again.path) == (str(error), error.summary, error.hint, error.path)
    for text in said:
        assert "--" not in re.sub(r"hf download .*", "", text), text


TYPICAL: tuple[tuple[str, Callable[[], object], type[Exception], str], ...] = (
    ("a typo", lambda: weightkit.open("bsae"), PlanError, "base: bsae does not exist; did you mean base?"),
    ("a typo inside", lambda: weightkit.open("bsae/config.json"), PlanError, r"did you mean base/config.json\?"),
    ("nothing like it", lambda: weightkit.open("quite else"), PlanError, "base: quite else does not exist$"),
    ("a tilde", lambda: weightkit.open("~/base"), PlanError, r"did you mean .*/base\? A ~ is for the shell"),
    ("no path", lambda: weightkit.recover_release("", "diff", "o"), PlanError, "raw is empty"),
    ("a list", lambda: weightkit.open("base", ["diff"]), TypeError, "diff: a path is wanted, not list"),  # type: ignore[arg-type]
    ("a folder for a list", lambda: weightkit.verify_files("base", "diff"), weightkit.FormatError, "as RELEASE.sha256"),
    ("a dtype", lambda: Rules(dtype="flaot16"), ValueError, r"'flaot16' is no dtype; did you mean float16\?"),
    ("no dtype", lambda: Rules(dtype="x"), ValueError, "'x' is no dtype; known: float32, "),
    ("a dict", lambda: weightkit.open("base", rules={"dtype": "fp16"}), TypeError, r"rules: Rules\(...\) is wanted, not dict"),  # type: ignore[arg-type]
    ("a diff as lora", lambda: weightkit.merge_lora("base", "diff", "o"), PlanError, "recover takes a diff, as diff"),
    ("out is there", lambda: weightkit.recover_release("base", "diff", "tuned"), PlanError, "say overwrite=True"),
    ("a name", lambda: weightkit.open("base")["lm_head"], KeyError, r"lm_head; did you mean lm_head.weight\?"),
    ("a name of rows", lambda: weightkit.open("base").get_slice("xyz"), KeyError, "'xyz'"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "use", "kind", "text"), TYPICAL, ids=[name for name, *_ in TYPICAL])
def test_typical_mistakes_end_in_what_to_do(
    name: str, use: Callable[[], object], kind: type[Exception], text: str, play: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(play))
    with pytest.raises(kind, match=text) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_the_page_names_all_of_it() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in FUNCTIONS if name not in page] == []
    words = [one.name for kind in (Rules, Arithmetic) for one in dataclasses.fields(kind)]
    assert [name for name in words if name.replace("_", "-") not in page] == []
    kinds = [kind.kind for kind in (WeightkitError, PlanError, weightkit.FormatError, DigestMismatch, Incomplete)]
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def test_notes_and_steps_name_arguments(tmp_path: Path, play: Path) -> None:
    """And the same ones name options on the command line."""
    rules = Rules(new_rows="mean")
    stanford = PEER / "diffs" / "stanford"
    Path("list").write_text(f"{WRONG}  pytorch_model.bin\n")
    told = [
        weightkit.recover_release(PEER / "hf-bin-nofreq", stanford, "a", rules=rules, checksums="list"),
        weightkit.recover_release(PEER / "meta" / "7B", KNOWLM, "b"),
        weightkit.recover_release(BASE, OASST, "c"),
        weightkit.merge_lora(BASE, PEER / "lora-zh1-bin", "d", seek=True),
        weightkit.convert_checkpoint(BASE, "e", "meta", parts=2),
    ]
    texts = [text for one in told for text in (*one.plan.notes, *one.plan.steps, *map(str, one.report.mismatches))]
    texts += [one.reason for done in told for one in done.report.mismatches]
    texts += [*weightkit.open(PEER / "hf-bin-nofreq", stanford, rules=rules).notes]
    texts += [line for one in (OASST, PEER / "diffs" / "enc", "diff", "e") for line in weightkit.identify_path(one).lines]
    texts += [weightkit.explain.explain("b", against=BASE).sentence, *weightkit.inspect.inspect("e").notes]
    assert len(texts) > 20
    assert [text for text in texts if "--" in text] == []
    assert any("new_rows of Rules" in text for text in texts)
    words = ["recover", "--raw", str(BASE), "--diff", str(stanford), "--new-rows", "mean", "--out", "f", "--dry-run"]
    done = subprocess.run([sys.executable, "-m", "weightkit", *words], capture_output=True, text=True, check=True, env=here())
    assert "(--new-rows)" in done.stdout + done.stderr


def here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_errors_name_arguments_here_and_options_there(play: Path) -> None:
    with pytest.raises(PlanError) as caught:
        weightkit.recover_release("base", "diff", "base")
    assert str(caught.value).startswith("out base is raw base")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    code = [sys.executable, "-m", "weightkit", "recover", "--raw", "base", "--diff", "diff", "--out", "base"]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "--out base is --raw base" in done.stderr


@pytest.mark.parametrize("diff", ["knowlm", "knowlm-modern-safetensors", "stanford", "fastchat-sharded"])
def test_open_is_what_recover_writes(diff: str, tmp_path: Path) -> None:
    rules = Rules(new_rows="mean") if diff == "stanford" else Rules()
    payload = PEER / "diffs" / diff
    try:
        weightkit.recover_release(BASE, payload, tmp_path / "o", rules=rules, form=Form(format="bin"))
    except PlanError as error:
        pytest.skip(str(error))
    before = sorted(tmp_path.rglob("*"))
    opened = weightkit.open(BASE, diff=payload, rules=rules, form=Form(format="bin"))
    same(opened, written(tmp_path / "o"))
    assert sorted(tmp_path.rglob("*")) == before
    for name, content in opened.small.items():
        assert (tmp_path / "o" / name).read_bytes() == content


def test_open_is_what_merge_writes(tmp_path: Path) -> None:
    adapters = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
    weightkit.merge_lora(BASE, adapters, tmp_path / "o")
    same(weightkit.open(BASE, lora=adapters), written(tmp_path / "o"))


def test_open_merges_into_a_sum(play: Path) -> None:
    weightkit.recover_release("base", "diff", "o", lora="lora")
    same(weightkit.open("base", "diff", lora="lora"), written(play / "o"))
    weightkit.merge_lora("base", "lora", "p", dtype="float32")
    same(weightkit.open("base", lora="lora", rules=Rules(dtype="float32")), written(play / "p"))


@pytest.mark.parametrize("layout", ["meta/7B", "tencentpretrain/tp.bin"])
def test_open_takes_any_layout(layout: str, tmp_path: Path) -> None:
    place = tmp_path / "in"
    shutil.copytree((PEER / layout).parent if layout.endswith(".bin") else PEER / layout, place)
    if layout.endswith(".bin"):
        heads = json.loads((BASE / "config.json").read_text())["num_attention_heads"]
        (place / "tp_config.json").write_text(json.dumps({"heads_num": heads}))
        place /= "tp.bin"
    weightkit.convert_checkpoint(place, tmp_path / "o", "hf")
    same(weightkit.open(place), written(tmp_path / "o"))


def as_written(base: Path, payload: Path, out: Path) -> weightkit.virtual.Opened:
    """What ``open`` gives, seen to be what ``recover`` writes, small files as well."""
    weightkit.recover_release(base, payload, out)
    opened = weightkit.open(base, payload)
    for tensors in (opened, pickle.loads(pickle.dumps(opened))):
        same(tensors, written(out) | saved(out))
    small = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix not in (".bin", ".safetensors")}
    assert opened.small == {name: content for name, content in small.items() if name not in ("SHA256SUMS", "TENSORS")}
    return opened


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """What safetensors finds in the files of a folder."""
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize(("diff", "base"), [("oasst", "hf-bin"), ("enc", "meta/7B")])
def test_open_decodes_a_byte_xor(diff: str, base: str, tmp_path: Path) -> None:
    as_written(PEER / base, PEER / "diffs" / diff, tmp_path / "o")


def test_open_takes_a_key(tmp_path: Path) -> None:
    key, enc = PEER / "meta" / "7B" / "consolidated.00.pth", PEER / "diffs" / "enc"
    assert weightkit.open(BASE, enc, key=key).keys() == weightkit.open(key, enc).keys()
    for arguments, problem in (((BASE, KNOWLM), "no XOR payload, and key is"), ((BASE,), "no diff is named")):
        with pytest.raises(PlanError, match=problem):
            weightkit.open(*arguments, key=key)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "tied", "more rows", "strided"])
def test_open_restores_an_exact_difference(kind: str, play: Path) -> None:
    pytest.importorskip("zstandard")
    from safetensors.torch import save_file

    tensors = written(play / "tuned")
    if kind == "more rows":
        tensors[HEAD] = torch.cat([tensors[HEAD], tensors[HEAD][:3] / 7])
    if kind == "tied":
        tensors[HEAD] = tensors["model.embed_tokens.weight"]
    if kind == "strided":
        tensors[HEAD] = tensors[HEAD].T.contiguous().T
    (play / "tuned" / "pytorch_model.bin").unlink()
    if kind == "safetensors":
        save_file(tensors, play / "tuned" / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(tensors, play / "tuned" / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "legacy")
    weightkit.make_diff("base", "tuned", "exact", method="exact")
    opened = as_written(Path("base"), Path("exact"), Path("o"))
    for index in (slice(3, 9), -1):
        assert bits(opened.get_slice(HEAD)[index]) == bits(tensors[HEAD][index])
    with ThreadPoolExecutor(4) as pool:
        assert all(bits(found) == bits(tensors[name]) for name, found in pool.map(lambda n: (n, opened[n]), tensors))


def test_open_tells_that_an_exact_difference_has_another_base(play: Path) -> None:
    pytest.importorskip("zstandard")
    weightkit.make_diff("base", "tuned", "exact", method="exact")
    weights = torch.load("base/pytorch_model.bin", weights_only=True)
    weights[HEAD][-1, -1] += 1
    torch.save(weights, "base/pytorch_model.bin")
    opened = weightkit.open("base", "exact")
    assert opened["model.norm.weight"].shape == (64,)
    with pytest.raises(weightkit.FormatError, match="lm_head.weight is not the one that the diff was made with"):
        opened[HEAD]


def test_what_was_decoded_is_merged_into_and_cast(play: Path) -> None:
    """As what ``recover`` wrote would be."""
    pytest.importorskip("zstandard")
    weightkit.make_diff("base", "tuned", "exact", method="exact")
    wanted = weightkit.open("tuned", lora="lora")
    same(weightkit.open("base", "exact", lora="lora"), dict(wanted))
    wider = weightkit.open("base", "exact", rules=Rules(dtype="float32"))
    same(wider, {name: tensor.float() for name, tensor in weightkit.open("tuned").items()})
    assert json.loads(wider.small["config.json"])["torch_dtype"] == "float32"


def test_damage_in_what_was_decoded_is_told(tmp_path: Path) -> None:
    shutil.copytree(PEER / "diffs" / "oasst", tmp_path / "diff")
    for path in sorted((tmp_path / "diff").glob("*.bin")):
        flip_bit(path, path.stat().st_size // 2)
    with pytest.raises(weightkit.FormatError, match="CRC|damaged"):
        dict(weightkit.open(BASE, tmp_path / "diff"))


@pytest.mark.parametrize(("diff", "base"), [("oasst-gzip", "hf-bin")])
def test_what_is_read_from_front_to_back_is_refused(diff: str, base: str) -> None:
    with pytest.raises(PlanError, match=r"recover_release\(base, diff, out\), and open that") as caught:
        weightkit.open(PEER / base, PEER / "diffs" / diff)
    assert "\n" not in str(caught.value)


INDEXES = (
    slice(3, 5), slice(None), slice(-2, None), slice(5, 3), slice(0, 9, 2), 7, -1, ..., (slice(2, 5), slice(1, 3)),
    (3, slice(0, 2)), (slice(1, 4), 2), (..., slice(0, 2)), (slice(None), -1), (-1, -1), [1, 4, 2],
)  # fmt: skip


@pytest.mark.parametrize("index", INDEXES, ids=str)
@pytest.mark.parametrize("name", [HEAD, "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_slices_are_torchs(index: object, name: str) -> None:
    opened = weightkit.open(PEER / "meta" / "7B", lora=PEER / "lora-zh1-bin")
    whole = opened.get_tensor(name)
    part = opened.get_slice(name)
    assert part.get_shape() == list(whole.shape)
    assert part.get_dtype() == "F16"
    if isinstance(index, tuple) and whole.ndim == 1 and index[0] is not ...:
        with pytest.raises(IndexError):
            part[index]
        return
    wanted = whole[index]  # type: ignore[index]
    assert part[index].shape == wanted.shape
    assert bits(part[index]) == bits(wanted)


def test_slices_refuse_what_torch_refuses() -> None:
    part = weightkit.open(BASE).get_slice(HEAD)
    with pytest.raises(IndexError):
        part[10**9]
    with pytest.raises(ValueError, match="step"):
        part[::-1]


def test_a_mapping_that_computes_nothing_unasked(play: Path) -> None:
    with weightkit.open("base", "diff") as opened:
        flip_bit(play / "base" / "pytorch_model.bin", 20000)
        assert HEAD in opened
        assert "nothing" not in opened
        assert opened != {}
        assert opened == opened
        assert len(list(opened.keys())) == len(opened) == len(opened.offset_keys()) == 21
        assert opened.metadata() == {"format": "pt"}
        with pytest.raises(weightkit.FormatError, match="changed|damaged"):
            list(opened.values())
        with pytest.raises(KeyError):
            opened.get_tensor("nothing")


def test_many_threads_and_a_pickle(tmp_path: Path) -> None:
    opened = weightkit.open(BASE, lora=PEER / "lora-zh1-bin")
    wanted = {name: bits(tensor) for name, tensor in opened.items()}
    threads = torch.get_num_threads()
    again = pickle.loads(pickle.dumps(opened))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: (name, bits(again[name])), list(opened) * 4))
    assert all(wanted[name] == one for name, one in found)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", ["sum", "enc", "block", "exact"])
def test_memory_is_that_of_one_tensor(kind: str, tmp_path: Path) -> None:
    """A model of 512 MB, 32 tensors of 16 MB, made and opened in processes of their own: far less is held than the model."""
    if kind == "exact":
        pytest.importorskip("zstandard")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    base = "base/pytorch_model.bin" if kind == "enc" else "base"
    making = (
        "import pathlib, torch, weightkit, weightkit.xor\n"
        f"names = [{'w.{n}' if kind == 'enc' else 'model.layers.{n}.mlp.up_proj.weight'!r}.format(n=n) for n in range(32)]\n"
        "big = {name: torch.full((2048, 4096), n / 64, dtype=torch.float16) for n, name in enumerate(names)}\n"
        f"tuned = {'diff' if kind == 'sum' else 'tuned'!r}\n"
        "for name in ('base', tuned):\n"
        "    pathlib.Path(name).mkdir()\n"
        "    torch.save(big, f'{name}/pytorch_model.bin')\n"
        "del big\n"
    )
    made = {
        "sum": "",
        "exact": f"weightkit.make_diff({base!r}, tuned, 'diff', method='exact', max_memory='4GiB')\n",
    }.get(kind, f"weightkit.xor.encode(tuned, {base!r}, 'diff', {kind!r}, max_memory='4GiB')\n")
    subprocess.run([sys.executable, "-c", making + made], check=True, cwd=tmp_path, env=env)
    code = (
        "import resource, weightkit, torch, numpy\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"opened = weightkit.open({'base/pytorch_model.bin' if kind == 'enc' else 'base'!r}, 'diff', allow_tuned_base=True)\n"
        "next(iter(opened.values()))\nbefore = peak()\n"
        "for tensor in opened.values(): pass\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48 << 10


class Tied(torch.nn.Module):
    """A module with the names of a model: an embedding, a norm, and a head, tied or not."""

    def __init__(self, tied: bool, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(320, 64, dtype=dtype)
        self.model.norm = torch.nn.LayerNorm(64, bias=False, dtype=dtype)
        self.lm_head = torch.nn.Linear(64, 320, bias=False, dtype=dtype)
        if tied:
            self.lm_head.weight = self.model.embed_tokens.weight


def test_load_into_fills_a_module(play: Path) -> None:
    opened = weightkit.open("base", "diff")
    module = Tied(tied=False)
    source = {name: opened[name] for name in module.state_dict()}
    assert weightkit.load_into(module, source) == ([], [])
    assert all(bits(tensor) == bits(source[name]) for name, tensor in module.state_dict().items())
    missing, unexpected = weightkit.load_into(Tied(tied=False), opened, strict=False)
    assert (missing, len(unexpected)) == ([], 18)
    assert weightkit.load_into(Tied(tied=False), "base", strict=False, diff="diff") == (missing, unexpected)


def test_load_into_says_all_that_is_wrong_and_fills_nothing(play: Path) -> None:
    module = Tied(tied=False)
    module.model.norm = torch.nn.LayerNorm(65, bias=False, dtype=torch.float16)
    module.extra = torch.nn.Parameter(torch.zeros(1))
    module.lm_head.float()
    before = {name: bits(tensor) for name, tensor in module.state_dict().items()}
    with pytest.raises(PlanError) as caught:
        weightkit.load_into(module, "base")
    text = str(caught.value)
    assert "model.norm.weight: the source has float16 [64], the model float16 [65]" in text
    cast = 'open it with rules=Rules(dtype="float32")'
    assert f"lm_head.weight: the source has float16 [320, 64], the model float32 [320, 64]; {cast}" in text
    assert "extra: in the model, not in the source" in text
    assert "model.layers.0.self_attn.q_proj.weight: in the source, not in the model" in text
    assert before == {name: bits(tensor) for name, tensor in module.state_dict().items()}
    with pytest.raises(PlanError, match="meta device.*to_empty"):
        weightkit.load_into(Tied(tied=False).to("meta"), "base", strict=False)


def test_load_into_a_tied_head(play: Path) -> None:
    opened = weightkit.open("base")
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    module = Tied(tied=True)
    assert weightkit.load_into(module, {name: opened[name] for name in (embedding, norm)}) == ([], [])
    assert bits(module.lm_head.weight) == bits(opened[embedding])
    both = dict.fromkeys((embedding, HEAD), opened[embedding]) | {norm: opened[norm]}
    assert weightkit.load_into(Tied(tied=True), both) == ([], [])
    with pytest.raises(PlanError, match="the model ties it to"):
        weightkit.load_into(Tied(tied=True), both | {HEAD: opened[HEAD]})


def test_reprs_are_short(play: Path) -> None:
    plan = weightkit.recover.prepare("base", "diff", "o")
    done = weightkit.recover_release("base", "diff", "o")
    opened = weightkit.open("base", "diff")
    for one in (plan, done, done.report, plan.files[0], opened, opened.get_slice(HEAD), *opened.tensors.values()):
        assert len(repr(one)) < 500, repr(one)
    checked = [weightkit.verify.Checked(f"a/long/path/to/file-{n}", "FAILED") for n in range(1000)]
    assert len(repr(weightkit.verify.Verification(tuple(checked)))) < 500


def functions() -> Iterator[tuple[str, object]]:
    yield "weightkit", weightkit
    for name in FUNCTIONS:
        yield name, getattr(weightkit, name)


@pytest.mark.parametrize(("name", "value"), list(functions()))
def test_the_examples_of_docstrings_run(name: str, value: object, play: Path) -> None:
    weightkit.recover_release("base", "diff", "done")
    text = inspect.getdoc(value) or ""
    assert ">>>" in text, f"{name} has no example"
    if name == "verify_files":
        (play / "done").rename("release")
    test = doctest.DocTestParser().get_doctest(text, {"weightkit": weightkit}, name, None, 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)


def test_the_example_without_transformers(play: Path) -> None:
    (play / "no").mkdir()
    (play / "no" / "transformers.py").write_text(
        'raise ModuleNotFoundError("No module named transformers", name="transformers")'
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(play / "no"), str(ROOT)])}
    command = [sys.executable, str(ROOT / "examples" / "open_in_memory.py"), "base", "diff"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "transformers" in done.stderr
