"""Signatures by OpenSSF Model Signing: those of the authors' own tool hold, ours are as theirs, and nothing else passes."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA, PEER, Run
from tests.hub import Hub
from tests.test_publish import METHODS, TOKEN, digests, env_of, listed, without_lists
from weightkit import verify_files
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import BadSignature, FormatError, PlanError, WeightkitError
from weightkit.proof import signature
from weightkit.proof.keys import PASSPHRASE, private_key, public_key
from weightkit.publish import publish_release

pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

OMS = DATA / "oms"
CURVES = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
HISTORY = OMS / "historical"
BASE = PEER / "hf-bin"


def write_keys(folder: Path, name: str, key: Any, phrase: bytes | None = None) -> tuple[Path, Path]:
    """A private key and its public half, as openssl writes them."""
    locked = serialization.BestAvailableEncryption(phrase) if phrase else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / f"{name}.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}.pub"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """me.pem, me.pub and one of each kind."""
    folder = tmp_path_factory.mktemp("keys")
    write_keys(folder, "me", ec.generate_private_key(ec.SECP256R1()))
    for name, curve in CURVES.items():
        write_keys(folder, name, ec.generate_private_key(curve()))
    write_keys(folder, "locked", ec.generate_private_key(ec.SECP256R1()), b"open sesame")
    write_keys(folder, "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    write_keys(folder, "ed", ed25519.Ed25519PrivateKey.generate())
    write_keys(folder, "rsa", rsa.generate_private_key(65537, 2048))
    return folder


def digests_of(folder: Path) -> dict[str, Digest]:
    every = (one for one in folder.rglob("*") if one.is_file())
    return {one.relative_to(folder).as_posix(): hash_file(one, {"sha256"})["sha256"] for one in every}


@pytest.mark.parametrize("curve", CURVES)
def test_what_their_tool_signed_holds(curve: str) -> None:
    found = verify_files(OMS / "model", signature=OMS / f"{curve}.sig", public_key=OMS / f"{curve}.pub")
    assert found.ok
    assert found.count("ok") == len(found.checked) == 6
    assert found.signed is not None
    assert found.signed.name == "model"
    one = verify_files(OMS / "model/weights.safetensors", signature=OMS / f"{curve}.sig", public_key=OMS / f"{curve}.pub")
    assert one.ok


@pytest.mark.parametrize(
    ("place", "whole"),
    [("v0.3.1-elliptic-key/signme-1", True), ("v1.0.0-elliptic-key/signme-1", True), ("v1.0.1-elliptic-key", False)]
    + [("v1.1.0-elliptic-key", True)],
)
def test_what_earlier_versions_of_their_tool_signed_holds(place: str, whole: bool) -> None:
    """In v1.0.1 a file lies there that was left out of what is signed, and the signature says nothing of it."""
    sig = HISTORY / place.partition("/")[0] / "model.sig"
    found = verify_files(HISTORY / place, signature=sig, public_key=HISTORY / "signer.pem")
    assert found.ok is whole
    assert found.passes(extra=False)
    assert whole or [one.path for one in found.checked if one.status == "extra"] == ["ignore-me"]


def test_their_own_vectors(keys: Path) -> None:
    signer = public_key(HISTORY / "signer.pem")
    assert [one.path for one in signature.read(OMS / "spec/key.bundle.json", signer).entries] == ["signme-1", "signme-2"]
    with pytest.raises(BadSignature, match="of another"):
        signature.read(OMS / "spec/key.bundle.json", public_key(keys / "me.pub"))
    for name in ("certificate", "sigstore", "missing-tlog-entries"):
        with pytest.raises(PlanError, match="was made with a certificate"):
            signature.read(OMS / f"spec/{name}.bundle.json", signer)
    for name in ("empty", "missing-envelope", "missing-verification-material"):
        with pytest.raises(FormatError, match="is no signature"):
            signature.read(OMS / f"spec/{name}.bundle.json", signer)
    with pytest.raises(WeightkitError):
        signature.read(OMS / "spec/wrong-predicate.bundle.json", signer)


def change(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": 2}\n')


def add_hidden(folder: Path) -> None:
    (folder / "sub" / ".hidden.py").write_text("import os\n")


def link(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to("../elsewhere.json")


def link_a_folder(folder: Path) -> None:
    (folder / "more").symlink_to(PEER)


WAYS = {
    "changed": (change, "config.json", "FAILED"),
    "missing": (lambda folder: (folder / "sub.txt").unlink(), "sub.txt", "missing"),
    "added": (lambda folder: (folder / "new.bin").write_bytes(b"1"), "new.bin", "extra"),
    "hidden": (add_hidden, "sub/.hidden.py", "extra"),
    "a list": (lambda folder: (folder / "SHA256SUMS").write_text("00\n"), "SHA256SUMS", "extra"),
    "linked": (link, "config.json", "FAILED"),
    "a linked folder": (link_a_folder, "more", "extra"),
}


@pytest.mark.parametrize("way", WAYS)
def test_files_that_are_not_as_they_were_signed(way: str, tmp_path: Path) -> None:
    act, path, status = WAYS[way]
    shutil.copytree(OMS / "model", tmp_path / "model")
    shutil.copy(OMS / "p256.sig", tmp_path / "model/model.sig")
    assert verify_files(tmp_path / "model", public_key=OMS / "p256.pub").ok
    act(tmp_path / "model")
    found = verify_files(tmp_path / "model", public_key=OMS / "p256.pub")
    assert not found.ok
    assert [(one.path, one.status) for one in found.checked if one.status != "ok"] == [(path, status)]
    with pytest.raises(WeightkitError, match=path):
        verify_files(tmp_path / "model", public_key=OMS / "p256.pub", raise_on_mismatch=True)


def test_what_git_and_the_hub_lay_there_is_let_be(tmp_path: Path) -> None:
    shutil.copytree(OMS / "model", tmp_path / "model")
    for name in (".gitattributes", ".git/HEAD", ".cache/huggingface/download/config.json.metadata"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_text("x")
    assert verify_files(tmp_path / "model", signature=OMS / "p256.sig", public_key=OMS / "p256.pub").ok
    (tmp_path / "model/sub/.git").write_text("x")
    assert not verify_files(tmp_path / "model", signature=OMS / "p256.sig", public_key=OMS / "p256.pub").ok


@pytest.mark.parametrize("curve", CURVES)
def test_ours_is_the_same_each_time_and_holds(curve: str, keys: Path, tmp_path: Path) -> None:
    shutil.copytree(OMS / "model", tmp_path / "model")
    key, found = private_key(keys / f"{curve}.pem"), digests_of(tmp_path / "model")
    made = signature.sign(found, "model", "model.sig", key)
    assert made == signature.sign(dict(reversed(found.items())), "model", "model.sig", private_key(keys / f"{curve}.pem"))
    (tmp_path / "model/model.sig").write_bytes(made)
    assert verify_files(tmp_path / "model", public_key=keys / f"{curve}.pub").ok
    ours, theirs = (statement(one.read_bytes()) for one in (tmp_path / "model/model.sig", OMS / f"{curve}.sig"))
    assert [one["name"] for one in ours["predicate"]["resources"]] == sorted(found), "in the order of the specification"
    for one in (ours, theirs):  # theirs orders by the parts of a path, so its root is another
        one["subject"][0]["digest"] = None
        one["predicate"]["resources"].sort(key=lambda resource: resource["name"])
        del one["predicate"]["serialization"]["ignore_paths"]
    assert ours == theirs


@pytest.mark.skipif(shutil.which("model_signing") is None, reason="model-signing is not installed here")
@pytest.mark.parametrize("curve", CURVES)
def test_their_tool_takes_ours(curve: str, keys: Path, tmp_path: Path) -> None:
    shutil.copytree(OMS / "model", tmp_path / "model")
    (tmp_path / "model/.cache/huggingface").mkdir(parents=True)
    (tmp_path / "model/.cache/huggingface/.gitignore").write_text("*")
    names = {name: one for name, one in digests_of(tmp_path / "model").items() if not name.startswith(".")}
    (tmp_path / "model/model.sig").write_bytes(signature.sign(names, "model", "model.sig", private_key(keys / f"{curve}.pem")))
    words = ["model_signing", "verify", "key", "model", "--signature", "model/model.sig", "--public_key", keys / f"{curve}.pub"]
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode == 0
    change(tmp_path / "model")
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode != 0


def statement(bundle: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))


ODD: tuple[Any, ...] = (
    None,
    [],
    {},
    0,
    -1,
    True,
    "",
    "x",
    "..",
    "/etc/passwd",
    "\x1b[2J",
    "\ud800",
    [[]],
    {"a": 1},
    1e999,
    "é" * 9,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield value, key
        yield from places(one)


def spoilt(value: Any) -> Iterator[Any]:
    """A value with each of its parts replaced by each odd one, or gone."""
    for number, _ in enumerate(list(places(value))):
        for odd in (*ODD, places):
            other = copy.deepcopy(value)
            holder, key = list(places(other))[number]
            if odd is places:
                del holder[key]
            else:
                holder[key] = odd
            yield other


def judged(path: Path, content: bytes, key: Any) -> tuple[Any, ...] | None:
    """What a bundle says; None where it is refused in one line."""
    path.write_bytes(content)
    try:
        return signature.read(path, key).entries
    except WeightkitError as error:
        told = str(error)
        assert "\n" not in told.strip()
        assert len(told) < 500 + 2 * len(str(path))
        assert told.isprintable() or "\ud800" in told, ascii(told)
        return None


def test_a_damaged_bundle_is_refused_in_a_line(tmp_path: Path) -> None:
    """Every bit flip, cut and odd value: refused, or of the same files (as where an unused field changed)."""
    key, sound, chosen = public_key(OMS / "p256.pub"), (OMS / "p256.sig").read_bytes(), random.Random(14)
    wanted = judged(tmp_path / "s", sound, key)
    assert wanted is not None
    tries = [sound[:cut] for cut in range(0, len(sound), 97)] + [b"[" * 100_000, b"\xff\xfe", b"9" * 5000, b"null", b'"x"']
    for _ in range(400):
        bad = bytearray(sound)
        for _ in range(chosen.choice((1, 1, 1, 5))):
            bad[chosen.randrange(len(bad))] = chosen.randrange(256)
        tries.append(bytes(bad))
    tries += [json.dumps(one).encode() for one in spoilt(json.loads(sound))]
    answers = [judged(tmp_path / "s", one, key) for one in tries]
    assert {one for one in answers if one is not None} <= {wanted}
    assert answers.count(None) > 500


def test_a_statement_that_says_odd_things_is_refused_in_a_line(tmp_path: Path, keys: Path) -> None:
    """Signed by the right key, so that it is read at all: no odd value ends in a traceback, no name leads outside."""
    mine, key = private_key(keys / "me.pem"), public_key(keys / "me.pub")
    found = {name: one for name, one in digests_of(OMS / "model").items() if name in ("config.json", "sub/deeper.bin")}
    sound = json.loads(signature.sign(found, "model", "model.sig", mine))
    taken = 0
    for number, said in enumerate(spoilt(statement(json.dumps(sound).encode()))):
        payload = json.dumps(said).encode()
        sound["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        sound["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(mine.sign(signature.pae(payload))).decode()
        entries = judged(tmp_path / "s", json.dumps(sound).encode(), key)
        taken += entries is not None
        for one in entries or ():
            assert ".." not in one.path, number
            assert not one.path.startswith("/"), number
    assert 0 < taken < number / 3


def test_a_bundle_that_is_no_small_file(tmp_path: Path) -> None:
    with (tmp_path / "model.sig").open("wb") as file:
        file.truncate(signature.LARGEST + 1)
    with pytest.raises(FormatError, match="so it is no signature"):
        verify_files(OMS / "model", signature=tmp_path / "model.sig", public_key=OMS / "p256.pub")
    (tmp_path / "model.sig").write_bytes(b"[" + b"[]," * 50_001 + b"0]")
    with pytest.raises(FormatError, match="so it is no signature"):
        verify_files(OMS / "model", signature=tmp_path / "model.sig", public_key=OMS / "p256.pub")
    with pytest.raises(PlanError, match="is not there, so nothing is signed"):
        verify_files(OMS / "model", public_key=OMS / "p256.pub")
    with pytest.raises(FormatError, match="cannot be read"):
        verify_files(OMS / "model", signature=tmp_path, public_key=OMS / "p256.pub")
    with pytest.raises(PlanError, match="nothing is proved without"):
        verify_files(OMS / "model", signature=OMS / "p256.sig")


def test_keys_that_are_none_of_those(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, told in (("bitcoin", "on the curve secp256k1"), ("ed", "a key of Ed25519"), ("rsa", "a key of RSA")):
        for read, ending in ((private_key, "pem"), (public_key, "pub")):
            with pytest.raises(PlanError, match=f"is {told}, and signatures are made with P-256"):
                read(keys / f"{name}.{ending}")
    with pytest.raises(PlanError, match="is a public key"):
        private_key(keys / "me.pub")
    with pytest.raises(PlanError, match="is a private key, which nobody but the signer may have"):
        public_key(keys / "me.pem")
    with pytest.raises(PlanError, match="is encrypted; set"):
        private_key(keys / "locked.pem")
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    assert private_key(keys / "locked.pem").public.hint == public_key(keys / "locked.pub").hint
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(PlanError, match="is not opened by"):
        private_key(keys / "locked.pem")
    sound, chosen = (keys / "me.pem").read_bytes(), random.Random(3)
    for content in (b"", b"-----BEGIN CERTIFICATE-----\n", b"x" * 70_000, *(cut(sound, chosen) for _ in range(60))):
        (tmp_path / "k").write_bytes(content)
        for read in (private_key, public_key):
            try:
                read(tmp_path / "k")
            except PlanError as error:
                assert "\n" not in str(error)
    with pytest.raises(PlanError, match="cannot be read"):
        public_key(tmp_path)


def cut(content: bytes, chosen: random.Random) -> bytes:
    bad = bytearray(content)
    bad[chosen.randrange(30, len(bad) - 30)] = chosen.randrange(33, 126)
    return bytes(bad)


@pytest.mark.parametrize("method", METHODS)
def test_a_release_that_is_signed(method: str, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    assert publish_release(BASE, METHODS[method], out, method=method, sign=keys / "me.pem").ok
    found = verify_files(out, public_key=keys / "me.pub")
    assert found.ok
    assert {one.path for one in found.checked} == digests(out).keys() - {"model.sig"}
    assert verify_files(out).passes(extra=True), "its own lists, as anybody checks them"
    assert "`model.sig`" in (out / "README.md").read_text()


def test_signed_published_and_recovered_by_name(keys: Path, tmp_path: Path, weightkit: Run) -> None:
    hub = Hub(tmp_path / "hub").start()
    hub.token = TOKEN
    try:
        env = env_of(hub, tmp_path / "home")
        words = ("publish", "--base", BASE, "--tuned", METHODS["exact"], "-o", "out", "--repo", "me/mine")
        done = weightkit(*words, "--sign", keys / "me.pem", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("next: weightkit verify hf://me/mine --public-key KEY\n")
        assert hub.commits == {"me/mine": 1}
        assert (tmp_path / "out/README.md").read_text().count("`weightkit verify hf://me/mine --public-key KEY`") == 2
        there = digests(hub.root / "me/mine")
        assert there == digests(tmp_path / "out")
        assert "model.sig" in there
        done = weightkit("verify", "hf://me/mine", "--public-key", keys / "me.pub", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not proved: whose key that is" in done.stdout
        done = weightkit("recover", "--release", "hf://me/mine", "--raw", BASE, "-o", "again", env=env)
        assert done.returncode == 0, done.stderr
        assert without_lists(digests(tmp_path / "again")) == listed(tmp_path / "out/RELEASE.sha256")
    finally:
        hub.shutdown()
        hub.server_close()


def test_a_second_run_and_what_stands_in_its_way(keys: Path, tmp_path: Path) -> None:
    def again(**more: Any) -> Any:
        return publish_release(BASE, METHODS["exact"], tmp_path / "out", **more)

    assert again(sign=keys / "me.pem").ok
    before = digests(tmp_path / "out")
    assert again(sign=keys / "me.pem").done.stood, "the same bytes each time, so all of it is compared and stands"
    with pytest.raises(PlanError, match=r"holds model.sig, and another release would lie beside it; say (--)?sign KEY"):
        again(overwrite=True)
    with pytest.raises(PlanError, match="is not what this command makes"):
        again(sign=keys / "p384.pem")
    assert digests(tmp_path / "out") == before
    assert again(sign=keys / "p384.pem", overwrite=True).ok
    assert verify_files(tmp_path / "out", public_key=keys / "p384.pub").ok
    with pytest.raises(BadSignature, match=r"is not of the key .*me.pub"):
        verify_files(tmp_path / "out", public_key=keys / "me.pub")


def test_a_private_key_among_what_is_published(keys: Path, tmp_path: Path) -> None:
    shutil.copytree(METHODS["exact"], tmp_path / "tuned")
    shutil.copy(keys / "me.pem", tmp_path / "tuned/me.pem")
    with pytest.raises(PlanError, match="whose files are published; keep a private key elsewhere"):
        publish_release(BASE, tmp_path / "tuned", tmp_path / "out", sign=tmp_path / "tuned/me.pem")
    (tmp_path / "link.pem").symlink_to(tmp_path / "tuned/me.pem")
    with pytest.raises(PlanError, match="whose files are published"):
        publish_release(BASE, tmp_path / "tuned", tmp_path / "out", sign=tmp_path / "link.pem")
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(tmp_path: Path, keys: Path, weightkit: Run) -> None:
    shutil.copytree(OMS / "model", tmp_path / "model")
    shutil.copy(OMS / "p256.sig", tmp_path / "model/model.sig")
    done = weightkit("verify", "model", "--public-key", OMS / "p256.pub", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], len(answer["files"])) == (0, True, 6)
    assert answer["signature"]["key_sha256"] == public_key(OMS / "p256.pub").hint
    done = weightkit("verify", "model", "--public-key", keys / "me.pub")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    add_hidden(tmp_path / "model")
    done = weightkit("verify", "model", "--public-key", OMS / "p256.pub")
    assert done.returncode == 3
    assert "extra    sub/.hidden.py" in done.stdout
    assert "of other files than these" in done.stdout
    assert weightkit("verify", "model", "--public-key", OMS / "p256.pub", "--no-fail-on-extra", "-q").returncode == 0
    (tmp_path / "sums").write_text(f"{digests_of(OMS / 'model')['config.json'].hex}  config.json\n")
    done = weightkit("verify", "model", "--checksums", "sums")
    assert done.stdout.endswith("model.sig was not checked: that takes the signer's public key, --public-key KEY\n")


def test_without_the_package_a_line_says_what_installs_it(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\nfrom weightkit.cli import main\n"
        f"sys.argv = ['weightkit', 'verify', {str(OMS / 'model')!r}, '--public-key', {str(OMS / 'p256.pub')!r}]\nmain()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cryptography" in done.stderr
    assert "install" in done.stderr


@pytest.mark.slow
@pytest.mark.rig
def test_more_damage(tmp_path: Path) -> None:
    """Twenty thousand bundles with random bytes changed, put in, taken out."""
    key, sound, chosen = public_key(OMS / "p384.pub"), (OMS / "p384.sig").read_bytes(), random.Random(15)
    wanted = judged(tmp_path / "s", sound, key)
    for _ in range(20_000):
        bad = bytearray(sound)
        for _ in range(chosen.randint(1, 8)):
            at, width = chosen.randrange(len(bad)), chosen.choice((0, 1, 1, 3, 40))
            bad[at : at + width] = chosen.randbytes(chosen.choice((0, 1, 1, 2, 40)))
        assert judged(tmp_path / "s", bytes(bad), key) in (None, wanted)
