"""Keys that sign and check signatures: PEM files of elliptic-curve keys, read with the package cryptography, an extra."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from weightkit.core.errors import PlanError, WeightkitError
from weightkit.core.installed import adding_extra

__all__ = ["PASSPHRASE", "PrivateKey", "PublicKey", "private_key", "public_key"]

HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Curve -> the hash of its signatures. Source: ossf/model-signing-spec, algorithm-registry.md; model-signing 1.1.1."""

PASSPHRASE = "WEIGHTKIT_SIGN_PASSPHRASE"
"""The variable in the environment that opens an encrypted key."""

LARGEST = 64 << 10
A_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY.pem makes one"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Who may have signed.

    Attributes:
        name: The file, as it was named.
        hint: SHA-256 of its PEM, as signatures name it.
    """

    name: str
    hint: str
    key: Any = field(repr=False, compare=False)

    def made(self, signature: bytes, data: bytes) -> bool:
        """Whether the private half of this key signed the data."""
        ec = cryptography("hazmat.primitives.asymmetric.ec")
        try:
            self.key.verify(signature, data, ec.ECDSA(hash_of(self.key)))
        except cryptography("exceptions").InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Who signs.

    Attributes:
        public: Its public half.
    """

    public: PublicKey
    key: Any = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """ECDSA, DER; deterministic (RFC 6979), so that equal files get equal signatures.

        Raises:
            WeightkitError: The OpenSSL that is there cannot.
        """
        ec = cryptography("hazmat.primitives.asymmetric.ec")
        try:
            signed: bytes = self.key.sign(data, ec.ECDSA(hash_of(self.key), deterministic_signing=True))
        except (TypeError, cryptography("exceptions").UnsupportedAlgorithm) as error:
            raise WeightkitError(
                f"the package cryptography, or its OpenSSL, is too old to sign: {adding_extra('sign')}"
            ) from error
        return signed


def cryptography(module: str) -> Any:
    """A module of the package.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        return import_module(f"cryptography.{module}")
    except ImportError as error:
        raise WeightkitError(f"signatures need the package cryptography: {adding_extra('sign')}") from error


def hash_of(key: Any) -> Any:
    """The hash that goes with a key's curve."""
    return getattr(cryptography("hazmat.primitives.hashes"), HASHES[key.curve.name])()


def private_key(path: Path) -> PrivateKey:
    """The key that signs, from PEM; opened by what the environment's ``PASSPHRASE`` says, where it is encrypted.

    Raises:
        PlanError: It is none, cannot be read or opened, or is of a kind that OMS does not sign with.
        WeightkitError: The package cryptography is not installed.
    """
    load = cryptography("hazmat.primitives.serialization").load_pem_private_key
    pem = content(path, "--sign")
    phrase = os.environ.get(PASSPHRASE, "")
    if b"PUBLIC KEY" in pem and b"PRIVATE KEY" not in pem:
        raise PlanError(f"--sign {path}: is a public key, and the private one signs", hint="name that")
    if b"ENCRYPTED" in pem and not phrase:
        raise PlanError(f"--sign {path}: is encrypted", hint=f"set {PASSPHRASE} to its passphrase")
    key = loaded(lambda: load(pem, phrase.encode() if b"ENCRYPTED" in pem else None), path, "--sign", "private key")
    return PrivateKey(known(key.public_key(), path, "--sign"), key)


def public_key(path: Path) -> PublicKey:
    """The key that a signature is checked with, from PEM.

    Raises:
        PlanError: It is none, cannot be read, or is of a kind that OMS does not sign with.
        WeightkitError: The package cryptography is not installed.
    """
    load = cryptography("hazmat.primitives.serialization").load_pem_public_key
    pem = content(path, "--public-key")
    if b"PRIVATE KEY" in pem:
        raise PlanError(
            f"--public-key {path}: is a private key, which nobody but the signer may have",
            hint="openssl pkey -in KEY.pem -pubout gives the public one",
        )
    if b"CERTIFICATE" in pem:
        raise PlanError(
            f"--public-key {path}: is a certificate", hint="openssl x509 -in CERT.pem -pubkey -noout gives the key in it"
        )
    return known(loaded(lambda: load(pem), path, "--public-key", "public key"), path, "--public-key")


def content(path: Path, role: str) -> bytes:
    """The bytes of a key's file.

    Raises:
        PlanError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST + 1)
    except OSError as error:
        raise PlanError(f"{role} {path}: cannot be read: {error.strerror}") from error
    if len(found) > LARGEST:
        raise PlanError(f"{role} {path}: has more than {LARGEST} bytes, so it is no key")
    return found


def loaded(load: Callable[[], Any], path: Path, role: str, what: str) -> Any:
    """A key.

    Raises:
        PlanError: It is none.
    """
    try:
        return load()
    except (ValueError, TypeError, cryptography("exceptions").UnsupportedAlgorithm) as error:
        wrong = f"is not opened by {PASSPHRASE}" if role == "--sign" and os.environ.get(PASSPHRASE) else f"is no {what} in PEM"
        raise PlanError(f"{role} {path}: {wrong}", hint=A_KEY if role == "--sign" else "get it again") from error


def known(public: Any, path: Path, role: str) -> PublicKey:
    """A public key of a kind that OMS signs with.

    Raises:
        PlanError: It is of another.
    """
    curve = getattr(getattr(public, "curve", None), "name", "")
    if curve not in HASHES:
        kind = f"on the curve {curve}" if curve else f"a key of {type(public).__name__.strip('_').removesuffix('PublicKey')}"
        raise PlanError(f"{role} {path}: is {kind}, and signatures are made with P-256, P-384 or P-521", hint=A_KEY)
    serialization = cryptography("hazmat.primitives.serialization")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(str(path), hashlib.sha256(pem).hexdigest(), public)
