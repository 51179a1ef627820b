"""Signatures of registered bundles, by OpenSSF model-signing (the extra `signing`), with keys that settings name.

Off while no key is named. Who names a public key gets no version whose bundle was not signed with its private one.
"""

import os
import re
from importlib.metadata import version as installed
from pathlib import Path

from registry.errors import RegistryInputError, VerificationError

SIGNING_KEY, VERIFYING_KEY = "ALTER_SIGNING_KEY", "ALTER_VERIFYING_KEY"
SIGNATURE = "bundle.sig"  # beside the bundle, in the stored model; `registry.scoring_model` has the name too
REQUIREMENTS = ("model-signing", "pyOpenSSL")  # the first imports the second and does not ask for it


def key_problem(given: str, private: bool) -> str | None:
    """What is wrong with a key's file, in words; None for a PEM file with an elliptic key, and for no file at all."""
    if not given:
        return None
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    kind = "private" if private else "public"
    try:
        pem = Path(given).read_bytes()
        key = load_pem_private_key(pem, None) if private else load_pem_public_key(pem)
    except OSError as error:
        return f"{given} cannot be read ({error.strerror}); correct or unset it"
    except (ValueError, TypeError):  # TypeError: it has a password
        return f"{given} holds no {kind} key as PEM without a password; correct or unset it"
    if not isinstance(key, EllipticCurvePrivateKey | EllipticCurvePublicKey):
        return f"{given} holds a key of another kind than elliptic (P-256, P-384 or P-521); correct or unset it"
    return None


def sign(bundle: Path, folder: Path) -> Path | None:
    """Write the signature of a bundle into `folder`; its file, or None where no key is set. Raises RegistryInputError
    for a key that cannot be used."""
    if not (key := os.environ.get(SIGNING_KEY)):
        return None
    if problem := key_problem(key, private=True):
        raise RegistryInputError(f"{SIGNING_KEY}: {problem}")
    from model_signing.signing import Config

    file = folder / SIGNATURE
    Config().use_elliptic_key_signer(private_key=key).sign(bundle, file)
    return file


def requirements() -> list[str]:
    """Pins of what a signed model needs beside the others."""
    return [f"{name}=={installed(name)}" for name in REQUIREMENTS]


def verify(bundle: Path, signature: Path, what: str) -> None:
    """Hold the signature of `what` against the public key that is set; nothing where none is.

    Raises VerificationError for a bundle without a signature, of another key, or changed since; RegistryInputError for
    a key that cannot be used.
    """
    if not (key := os.environ.get(VERIFYING_KEY)):
        return
    if problem := key_problem(key, private=False):
        raise RegistryInputError(f"{VERIFYING_KEY}: {problem}")
    from model_signing.verifying import Config

    advice = f"choose a version that was signed, or unset {VERIFYING_KEY}"
    if not signature.is_file():
        raise VerificationError(
            f"{what} was registered without a signature, and {VERIFYING_KEY} asks for one; {advice}"
        )
    try:
        Config().use_elliptic_key_verifier(public_key=key).verify(bundle, signature)
    except Exception as error:  # of the library, which has no error of its own
        why = re.sub(r": Expected .*", "", " ".join(str(error).split()))[:300]
        raise VerificationError(f"{what} is not what was signed with the key of {key}: {why}; {advice}") from error
