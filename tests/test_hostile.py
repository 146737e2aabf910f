"""Cases built to go wrong: each once did, or would do harm if it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run, bits, sha256
from tests.test_recover import KNOWLM, STANFORD, make, small, tensors
from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.core.dtypes import FLOAT16
from weightkit.core.errors import FormatError, PlanError
from weightkit.diff import make_diff
from weightkit.recover import Form, Rules, prepare, recover
from weightkit.run.ledgers.directory import Directory

BASE = PEER / "hf-bin"
DIFF = PEER / "diffs" / "knowlm"
SHARDED = PEER / "diffs" / "fastchat-sharded"


def test_one_storage_whose_tensors_end_in_two_dtypes(tmp_path: Path) -> None:
    """inv_freq stays float32 under --dtype float16; tensors tiling one storage must then be written apart."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    below = small(1) | {name: torch.ones(8)}
    change = small(11) | {name: torch.zeros(8)}
    flat = torch.cat([one.flatten() for one in change.values()])
    views, at = {}, 0
    for key, one in change.items():
        views[key] = flat[at : at + one.numel()].view(one.shape)
        at += one.numel()
    base, diff = make(tmp_path / "b", below), make(tmp_path / "d", views)
    recover(base, diff, tmp_path / "o", rules=Rules(FLOAT16))
    found = tensors(tmp_path / "o")
    assert found[name].dtype == torch.float32
    assert bits(found["lm_head.weight"]) == bits(change["lm_head.weight"].half() + below["lm_head.weight"].half())


def test_tiled_storage_is_kept_where_it_can_be(tmp_path: Path) -> None:
    change = small(11)
    flat = torch.cat([change["model.embed_tokens.weight"], change["lm_head.weight"]])
    change["model.embed_tokens.weight"], change["lm_head.weight"] = flat[:4], flat[4:]
    recover(make(tmp_path / "b", small(1)), make(tmp_path / "d", change), tmp_path / "o")
    loaded = torch.load(tmp_path / "o" / "pytorch_model.bin", weights_only=True)
    one, other = loaded["model.embed_tokens.weight"], loaded["lm_head.weight"]
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert bits(other) == bits(change["lm_head.weight"] + small(1)["lm_head.weight"])


def test_only_one_run_writes_to_a_folder(tmp_path: Path) -> None:
    planned = prepare(BASE, DIFF, tmp_path / "o")
    first = Directory(tmp_path / "o")
    first.open(planned, ["SHA256SUMS"])
    with first.stage().create("pytorch_model.bin", None) as out:
        out.write(b"under way")
        with pytest.raises(PlanError, match="another weightkit writes there"):
            recover(BASE, DIFF, tmp_path / "o")
    first.close()
    recover(BASE, DIFF, tmp_path / "o")
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_an_incomplete_base_is_refused(tmp_path: Path, name: str) -> None:
    below = small(1)
    del below[name]
    base, diff = make(tmp_path / "b", below), make(tmp_path / "d", small(11))
    with pytest.raises(PlanError, match=f"{name}: not in the base"):
        recover(base, diff, tmp_path / "o")
    recover(base, diff, tmp_path / "o", rules=Rules(whole=(name,)))
    assert bits(tensors(tmp_path / "o")[name]) == bits(small(11)[name])


def test_a_tied_base_grows_as_one(tmp_path: Path) -> None:
    below = small(1)
    del below["lm_head.weight"]
    base = make(tmp_path / "b", below, {"tie_word_embeddings": True, "vocab_size": 4})
    above = small(2, rows=5)
    above["lm_head.weight"] = above["model.embed_tokens.weight"]
    make_diff(base, make(tmp_path / "t", above), tmp_path / "d", rules=Rules(new_rows="zero"))
    published = tensors(tmp_path / "d")["lm_head.weight"]
    assert bits(published[:4]) == bits(above["lm_head.weight"][:4] - below["model.embed_tokens.weight"])
    recover(base, tmp_path / "d", tmp_path / "o", rules=Rules(new_rows="zero"), checksums=[tmp_path / "d" / "RELEASE.sha256"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_weights_in_the_folder_are_not_left_to_be_loaded(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "model.safetensors").write_text("other")
    with pytest.raises(PlanError, match="to be loaded in their place"):
        recover(BASE, DIFF, tmp_path / "o", overwrite=overwrite)
    assert (tmp_path / "o" / "model.safetensors").read_text() == "other"


def test_partial_names_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / ".pytorch_model.bin.partial").symlink_to(precious)
    recover(BASE, DIFF, tmp_path / "o")
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("way", ["folder", "dangling link", "file"])
def test_what_is_in_the_way_is_said_before_work(tmp_path: Path, way: str) -> None:
    out = tmp_path / "o"
    if way == "folder":
        (out / "pytorch_model.bin").mkdir(parents=True)
    elif way == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.write_text("a file")
    with pytest.raises(PlanError, match="is there already"):
        recover(BASE, DIFF, out, overwrite=True)


def test_dry_run_refuses_what_the_run_refuses(weightkit: Run, tmp_path: Path) -> None:
    words = ("recover", "--raw", BASE, "--diff", DIFF, "--out", "o")
    assert weightkit(*words).returncode == 0
    for more in ((), ("--json",)):
        done = weightkit(*words, "--dry-run", *more)
        assert done.returncode == 0, "it is right, and the run would say so"
        done = weightkit(*words, "--dry-run", "--format", "safetensors", *more)
        assert (done.returncode, "is there already" in done.stdout + done.stderr) == (1, True)
    assert weightkit(*words, "--dry-run", "--overwrite").returncode == 0


def test_a_wrong_list_costs_no_second_computation(weightkit: Run, tmp_path: Path) -> None:
    words = ("recover", "--raw", BASE, "--diff", SHARDED, "--out", "o")
    weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "good")
    sums = (tmp_path / "good" / "SHA256SUMS").read_text()
    config = sha256(tmp_path / "good" / "config.json")
    (tmp_path / "wrong").write_text(sums.replace(config, STANFORD))
    done = weightkit(*words, "--checksums", "wrong")
    assert done.returncode == 3
    assert "the files of weights are right" in done.stdout
    assert not (tmp_path / "o" / "config.json").exists()
    (tmp_path / "right").write_text(sums)
    done = weightkit(*words, "--checksums", "right")
    assert done.returncode == 0
    assert "stood there whole from an interrupted run" in done.stdout
    assert (tmp_path / "o" / "SHA256SUMS").read_text() == sums


def test_what_a_list_does_not_cover_is_said(weightkit: Run, tmp_path: Path) -> None:
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "good")
    (tmp_path / "list").write_text(f"{sha256(tmp_path / 'good' / names[0])}  {names[0]}\n{STANFORD}  README.md\n")
    done = weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "o", "--checksums", "list")
    assert done.returncode == 0
    assert f"has no digest of {names[1]}" in done.stdout
    assert "lists README.md, not written here" in done.stdout
    (tmp_path / "two").write_text(f"{KNOWLM}  a/{names[0]}\n{STANFORD}  b/{names[0]}\n")
    done = weightkit("recover", "--raw", BASE, "--diff", SHARDED, "--out", "p", "--checksums", "two")
    assert (done.returncode, "leave one of them" in done.stderr) == (1, True)


def test_the_command_that_make_diff_prints_works(weightkit: Run) -> None:
    words = ("--raw", BASE, "--tuned", PEER / "tuned1-fp32-bin", "--out", "d", "--new-rows", "mean", "--whole", "model.norm.*")
    done = weightkit("make-diff", *words)
    command = done.stdout.splitlines()[-1].removeprefix("next: weightkit ").replace("'", "").split()
    assert weightkit(*command).returncode == 0


def zipped(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}()" + b"\x85" * 2_000_000 + b"K\x01u.",
        b"\x80\x02)q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(58)).replace(b"h", b"h", 1) + b".",
        b"\x80\x02)q\x00" + b"".join(bytes([104, n, 104, n, 0x86, 113, n + 1]) for n in range(58)) + b".",
        b"\x80\x02" + b"}" * 8_000_000 + b".",
        b"\x80\x02" + b"(" * 8_000_000 + b".",
    ],
    ids=["deep key", "pairs", "doubling", "many dicts", "many marks"],
)
def test_pickles_that_would_crash_or_never_end(tmp_path: Path, pickled: bytes) -> None:
    path = zipped(tmp_path / "model.bin", pickled)
    code = (
        "from weightkit.containers import open_file; from weightkit.blobs import open_local; from pathlib import Path; "
        f"open_file(open_local(Path({str(path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.returncode
    assert "FormatError" in done.stderr or not done.stderr


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": "linear"},
        {"rope_scaling": [1]},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_theta": int("1" + "0" * 400)},
        {"rope_theta": 0},
        {"rope_theta": -5},
        {"rope_theta": True},
        {"rope_theta": float("inf")},
        {"rope_theta": "10000"},
    ],
    ids=str,
)
def test_configs_that_say_strange_things_of_frequencies(tmp_path: Path, config: dict[str, object]) -> None:
    change = small(11) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    base, diff = make(tmp_path / "b", small(1), config), make(tmp_path / "d", change)
    with pytest.raises(PlanError, match="and its config"):
        recover(base, diff, tmp_path / "o")


def test_strange_things_that_do_no_harm(weightkit: Run, tmp_path: Path) -> None:
    index = {"metadata": [1], "weight_map": dict.fromkeys(small(11), "pytorch_model-00001-of-00001.bin")}
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", small(11))
    (diff / "pytorch_model.bin").rename(diff / "pytorch_model-00001-of-00001.bin")
    (diff / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert weightkit("recover", "--raw", base, "--diff", diff, "--out", "o").returncode == 0
    odd = {"model.embed_tokens.weight": torch.tensor(1.0), "a\nb\x1b[31m": torch.zeros(2), "lone \udcff": torch.zeros(2)}
    one, two = make(tmp_path / "p", odd), make(tmp_path / "q", odd)
    assert weightkit("recover", "--raw", one, "--diff", two, "--out", "r").returncode == 0
    done = weightkit("recover", "--raw", one, "--diff", two, "--out", "s", "--format", "safetensors")
    assert (done.returncode, "no tensor named" in done.stderr) == (1, True)
    assert "\x1b[31m" not in weightkit("inspect", one).stdout


def test_safetensors_holds_no_tensor_of_the_name_of_its_metadata(tmp_path: Path) -> None:
    named = {"__metadata__": torch.zeros(2)}
    with pytest.raises(PlanError, match="__metadata__"):
        recover(make(tmp_path / "b", named), make(tmp_path / "d", named), tmp_path / "o", form=Form(format="safetensors"))


def test_a_pattern_that_matches_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--whole lm_haed\.\*: no tensor"):
        recover(BASE, DIFF, tmp_path / "o", rules=Rules(whole=("lm_haed.*",)))


def test_params_beside_a_transformers_folder_do_not_make_it_metas(tmp_path: Path) -> None:
    base = make(tmp_path / "b", small(1))
    (base / "params.json").write_text("{}")
    recover(base, make(tmp_path / "d", small(11)), tmp_path / "o")


def test_an_index_that_names_nothing(tmp_path: Path) -> None:
    base = make(tmp_path / "b", small(1))
    (base / "pytorch_model.bin").rename(base / "x")
    (base / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(FormatError, match="names no files"):
        recover(base, DIFF, tmp_path / "o")


def test_a_transposed_tensor_costs_no_more_than_twice_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({"w": torch.randn(600, 500).half().t()}, path)
    source = open_file(open_local(path)).tensors["w"]
    spec = source.spec

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = count()
    for start in range(0, spec.rows, 64):
        source.read(start, min(start + 64, spec.rows))
    assert count() - before < 3 * spec.nbytes


def test_an_interrupt_while_loading_is_one_line(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; import weightkit.cli as c\n"
        "def stop(name): os.kill(os.getpid(), signal.SIGINT)\n"
        "c.import_module = stop; sys.argv = ['weightkit', 'verify', '.']; c.main(prog_name='weightkit')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip().count("\n")) == (130, 0)


def test_closed_stderr_is_no_crash(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m weightkit recover --raw {BASE} --diff {DIFF} --out o 2>&-'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=dict(os.environ), stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM
