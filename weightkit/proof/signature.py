"""Signatures of folders by a key, as OpenSSF Model Signing (OMS) 1.0 has them; made from digests that are known already.

    {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
     "verificationMaterial": {"publicKey": {"hint": SHA-256 of the public key's PEM}, "tlogEntries": []},
     "dsseEnvelope": {"payload": base64, "payloadType": "application/vnd.in-toto+json",
                      "signatures": [{"sig": base64 of ECDSA over "DSSEv1 28 application/vnd.in-toto+json N payload"}]}}

The payload is an in-toto statement: ``subject`` has the folder's name and the SHA-256 of all digests one after the other,
``predicate`` the files with their digests, and what the folder may hold besides. Keys are on P-256, P-384 or P-521.

Source: ossf/model-signing-spec, spec/v1.0.md and its schemas; secure-systems-lab/dsse, protocol.md; model-signing 1.1.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightkit.core.digest import Digest
from weightkit.core.errors import BadSignature, FormatError, PlanError
from weightkit.manifests import Entry
from weightkit.manifests.sums import inside
from weightkit.proof.keys import PrivateKey, PublicKey

__all__ = ["IGNORED", "Signed", "read", "sign"]

BUNDLE = "application/vnd.dev.sigstore.bundle"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
PAYLOAD = "application/vnd.in-toto+json"

IGNORED = (".cache/huggingface", ".git", ".gitattributes", ".github", ".gitignore")
"""What git and the Hub lay beside files that they bring: no part of what is signed."""

LARGEST = 32 << 20
"""Bytes of a bundle: about a hundred thousand files."""

MOST = 100_000
"""Commas and brackets in a bundle, whose files are in base64: a text of nothing else takes memory many times its size."""

HASHES = ("sha256", "blake2b", "blake3")


@dataclass(frozen=True, slots=True)
class Signed:
    """What the holder of a key has signed.

    Attributes:
        path: The signature.
        key: The key, in words and as it was named.
        hint: SHA-256 of the public key's PEM, as the signature calls it.
        name: What the signer called the folder; nothing hangs on it.
        entries: Its files.
        ignored: What else may be in the folder.
        links: Whether files may be symbolic links.
    """

    path: Path
    key: str
    hint: str
    name: str
    entries: tuple[Entry, ...] = field(repr=False)
    ignored: tuple[str, ...] = ()
    links: bool = False

    def of(self, target: Path) -> tuple[Entry, ...]:
        """The files as they are called in a folder; the one file that was signed alone, model-signing 1.1.1 calls ``.``."""
        if len(self.entries) == 1 and self.entries[0].path == "." and not target.is_dir():
            return (Entry(target.name, self.entries[0].digest),)
        return self.entries

    def leaves_out(self, path: str) -> bool:
        """Whether a file may be in the folder without being signed."""
        return any(path == one or path.startswith(f"{one}/") for one in (*IGNORED, *self.ignored))


def pae(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def sign(digests: Mapping[str, Digest], name: str, signature: str, key: PrivateKey) -> bytes:
    """A signature of some files, the same bytes each time.

    Args:
        digests: Their SHA-256, by path.
        name: What the folder is called.
        signature: The name under which the signature will lie beside them.
        key: Who signs.
    """
    paths = sorted(digests)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[path].hex) for path in paths))
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name or "model", "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "resources": [{"name": path, "algorithm": "sha256", "digest": digests[path].hex} for path in paths],
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [*IGNORED, signature],
            },
        },
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    bundle = {
        "mediaType": f"{BUNDLE}.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(key.sign(pae(payload))).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=2).encode() + b"\n"


def read(path: Path, key: PublicKey) -> Signed:
    """A signature, after it was found to be of this key. The files are not looked at.

    Raises:
        PlanError: It is not there, or of a kind that is not checked with a key.
        FormatError: It is damaged, or no signature.
        BadSignature: Another key made it, or it was changed.
    """
    try:
        bundle = json.loads(content(path))
        envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
        if not said(bundle["mediaType"]).startswith(BUNDLE):
            raise ValueError(f"its mediaType is {said(bundle['mediaType'])[:60]!a}")
        if said(envelope["payloadType"]) != PAYLOAD:
            raise ValueError(f"its payloadType is {envelope['payloadType'][:60]!a}")
        payload, signatures = decoded(envelope["payload"]), envelope["signatures"]
        if not isinstance(signatures, list) or len(signatures) != 1:
            raise ValueError("it has not one signature")
        made = decoded(signatures[0]["sig"])
        if not isinstance(material, dict):
            raise ValueError("its verificationMaterial is none")
        other = [one for one in ("certificate", "x509CertificateChain") if one in material]
        if not other and not isinstance(material.get("publicKey"), dict):
            raise ValueError("it names no key")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise FormatError(path, f"is no signature of OpenSSF Model Signing: {reason(error)}; get it again") from error
    if other:
        raise PlanError(
            f"--signature {path}: was made with a certificate, not with a key", hint="model_signing verify checks such ones"
        )
    if not key.made(made, pae(payload)):
        hint = material["publicKey"].get("hint")
        if isinstance(hint, str) and hint != key.hint:
            raise BadSignature(str(path), f"is not of the key {key.name} ({key.hint[:12]}) but of another ({hint[:12]!a})")
        raise BadSignature(str(path), f"does not hold under the key {key.name}: it was changed, or another key made it")
    try:
        return statement_of(path, json.loads(payload), key)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise FormatError(path, f"is signed with {key.name}, and is no statement of version 1.0: {reason(error)}") from error


def content(path: Path) -> bytes:
    """The bytes of a bundle.

    Raises:
        PlanError: It is not there.
        FormatError: It is too large, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise PlanError(
            f"--signature {path}: is not there, so nothing is signed", hint="get it from the publisher, or name it"
        ) from error
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error
    if len(found) > LARGEST or sum(map(found.count, (b"[", b"{", b","))) > MOST:
        more = f"{LARGEST} bytes" if len(found) > LARGEST else f"{MOST} parts"
        raise FormatError(path, f"has more than {more}, so it is no signature; get it again")
    return found


def statement_of(path: Path, statement: Any, key: PublicKey) -> Signed:
    """What a payload says; ``ValueError`` and the like where it says something else."""
    if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
        raise ValueError(f"it is of {str(statement['predicateType'])[:60]!a}")
    (subject,) = statement["subject"]
    how, resources = statement["predicate"]["serialization"], statement["predicate"]["resources"]
    if how["method"] != "files":
        raise ValueError(f"digests by {str(how['method'])[:20]!a} are not checked here; model_signing verify does it")
    if how["hash_type"] not in HASHES or not isinstance(how["allow_symlinks"], bool):
        raise ValueError("its serialization is none that is known")
    entries = tuple(entry_of(one, how["hash_type"]) for one in resources)
    if not entries or len({one.path for one in entries}) != len(entries):
        raise ValueError("it names no file, or one twice")
    root = hashlib.sha256(b"".join(bytes.fromhex(one.digest.hex) for one in entries)).hexdigest()
    if subject["digest"]["sha256"] != root:
        raise ValueError("the digest of its subject is not that of its files")
    ignored = tuple(one for one in map(said, how.get("ignore_paths", [])) if is_plain(one))
    return Signed(path, key.name, key.hint, said(subject["name"])[:200], entries, ignored, how["allow_symlinks"])


def entry_of(resource: Any, algorithm: str) -> Entry:
    """A file and its digest; ``ValueError`` where it is none."""
    name = said(resource["name"])
    if not name.isprintable() or not (name == "." or is_plain(name)):
        raise ValueError(f"{name[:80]!a} is no file in a folder")
    if resource["algorithm"] != algorithm:
        raise ValueError(f"{name[:80]!a} has a digest of another kind than it says")
    return Entry(name, Digest(algorithm, said(resource["digest"])))


def is_plain(path: str) -> bool:
    """Whether a path is one below a folder, written in the one way in which it is."""
    try:
        return path != "." and inside(path) == path
    except ValueError:
        return False


def said(value: Any) -> str:
    """A text; ``ValueError`` where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!a} stands where a text is wanted")
    return value


def decoded(value: Any) -> bytes:
    """Base64, of either alphabet."""
    return base64.b64decode(said(value).replace("-", "+").replace("_", "/"), validate=True)


def reason(error: Exception) -> str:
    """Why, in a few words."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "it is no JSON"
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!a}"
    return str(error)[:160] if type(error) is ValueError else "it is built otherwise"
