"""A signed version is loaded where the key fits, and nowhere else."""

from pathlib import Path

import mlflow
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from registry.errors import VerificationError
from registry.signing import SIGNING_KEY, VERIFYING_KEY, key_problem
from tests.registry.conftest import EXAMPLE, Store


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """PEM files: `ours` and `theirs`, each .pem and .pub."""
    return {name: file for who in ("ours", "theirs") for name, file in _pair(tmp_path, who).items()}


def _pair(folder: Path, who: str) -> dict[str, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{who}.pem", folder / f"{who}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return {private.name: private, public.name: public}


@pytest.fixture
def signed(store: Store, parts: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Store:
    """Version 1 is signed with our key, version 2 with none."""
    monkeypatch.setenv(SIGNING_KEY, str(keys["ours.pem"]))
    store.register(parts, "signed", requirements=["numpy==2.4.6"])
    monkeypatch.delenv(SIGNING_KEY)
    store.register(parts, "unsigned")
    return store


def test_a_signed_version_is_read_with_its_key_and_says_what_reads_it(
    signed: Store, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFYING_KEY, str(keys["ours.pub"]))
    bundle = signed.models.bundle_path("tiny", 1)
    needs = (bundle.parent.parent / "requirements.txt").read_text()
    assert {line.partition("==")[0] for line in needs.splitlines()} >= {"model-signing", "pyOpenSSL", "numpy"}


def test_without_a_key_signed_and_unsigned_versions_are_read(signed: Store) -> None:
    assert all(signed.models.bundle_path("tiny", version).is_dir() for version in (1, 2))


@pytest.mark.parametrize(
    ("version", "key", "harm", "why"),
    [
        (2, "ours.pub", None, "version 2 was registered without a signature, and ALTER_VERIFYING_KEY asks for one"),
        (1, "theirs.pub", None, "version 1 is not what was signed with the key .*theirs.pub: Key mismatch"),
        (1, "ours.pub", "altered", "Hash mismatch for .*mta.safetensors"),
        (1, "ours.pub", "added", "Extra files found"),
        (1, "ours.pub", "removed", "mta.safetensors"),
        (1, "ours.pub", "signature", "version 1 is not what was signed"),
    ],
)
def test_what_the_key_does_not_vouch_for_is_not_loaded(
    signed: Store,
    keys: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    key: str,
    harm: str | None,
    why: str,
) -> None:
    bundle = signed.models.bundle_path("tiny", version)
    if harm == "altered":
        (bundle / "mta.safetensors").write_bytes(b"\1" * 64)
    elif harm == "added":
        (bundle / "more.json").write_text("{}")
    elif harm == "removed":
        (bundle / "mta.safetensors").unlink()
    elif harm == "signature":
        (bundle.parent / "bundle.sig").write_text("{}")
    monkeypatch.setenv(VERIFYING_KEY, str(keys[key]))
    with pytest.raises(VerificationError, match=why):
        signed.models.bundle_path("tiny", version)


def test_mlflow_serves_a_signed_version_with_its_key_alone(
    store: Store, bundle: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys["ours.pem"]))
    store.register(bundle, "signed", example=EXAMPLE)
    place = str(store.models.logged_model(store.models.get("tiny", 1)).artifact_location)
    monkeypatch.setenv(VERIFYING_KEY, str(keys["ours.pub"]))
    assert len(mlflow.pyfunc.load_model(place).predict([EXAMPLE])) == 1
    monkeypatch.setenv(VERIFYING_KEY, str(keys["theirs.pub"]))
    with pytest.raises(ValueError, match="Key mismatch"):
        mlflow.pyfunc.load_model(place)


def test_a_key_that_cannot_be_used_is_told_before_anything_runs(keys: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "rsa.pem"
    other.write_bytes(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    assert key_problem(str(keys["ours.pem"]), private=True) is None
    assert key_problem(str(keys["ours.pub"]), private=False) is None
    assert "no private key" in (key_problem(str(keys["ours.pub"]), private=True) or "")
    assert "no public key" in (key_problem(str(keys["ours.pem"]), private=False) or "")
    assert "another kind than elliptic" in (key_problem(str(other), private=True) or "")
    assert "cannot be read (No such file" in (key_problem(str(tmp_path / "none.pem"), private=True) or "")
