"""A backbone's conversion into a folder of the workspace: read, checked, written, read back, and only then recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alter_core.backbone.find import Source, find
from alter_core.backbone.load import loader, read_folder
from alter_core.backbone.quiet import explained, parsed_once, quiet
from alter_core.backbone.record import RECORD, is_converted
from alter_core.backbone.tokenizer import check_ids, check_same, check_tokenizer
from alter_core.errors import BackboneError
from alter_core.memory import release_free_memory
from alter_core.spec import BackboneSpec
from alter_core.whole import digest_of, digest_of_files, write_json, written_whole
from alter_core.workspace import Workspace

MAX_PARAMETERS = 1_000_000_000
_FORMAT = 2  # raise it when the conversion changes what it writes or refuses
_SAID = {"eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache"}
_SAID |= {"_from_model_config", "output_attentions", "output_hidden_states", "max_length", "max_new_tokens"}
_PLAIN = {".json", ".safetensors", ".jinja"}

Progress = Callable[..., None]


def resolve_backbone(
    spec: BackboneSpec, workspace: Workspace, progress: Progress | None = None, base: Path | None = None
) -> Path:
    """Folder of the converted backbone in the workspace; converts it when it is not there yet, or no longer whole.

    A conversion is done when the folder has been read back and holds the very weights, ids and settings that were read
    from the source. What a reader should know of the source stands in the record's `notes`.

    base: the folder that a relative local path is under; the current one when unset.
    progress: called as progress(done, total, text=...) with four parts of work.
    Raises BackboneError when the model cannot be found, is not safetensors or GGUF, needs code of its own, has over
    a billion parameters, or would not be the model that lies there; the message says what to do.
    """
    advance = progress or (lambda *_args, **_fields: None)
    advance(0, 4, text=f"looking for {spec.model}")
    source = find(spec, base or Path.cwd())
    target = _converted(source, workspace)
    if is_converted(target):
        advance(4, 4, text="converted already")
        return target
    with _asked(source):
        config = _config(source)
        if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
            raise BackboneError(
                f"backbone {spec.model}: its configuration has no decoder_start_token_id, the token that every answer "
                "begins with; write it into config.json"
            )
        parameters = _count(config, source)
        workspace.need(parameters * 5, f"converting {spec.model}")  # the copy in fp32 at most, and some room
        advance(1, 4, text=f"reading {parameters / 1e6:,.0f} million parameters")
        model, notes = _model(config, source)
        advance(2, 4, text="reading the tokenizer")
        tokenizer = _tokenizer(source)
        notes += check_ids(model, tokenizer, source.given)
        advance(3, 4, text="writing safetensors")
        with written_whole(target) as folder:
            facts = {
                "source": spec.model,
                "revision": source.identity.partition("@")[2] or None,
                "parameters": parameters,
                "dtype": str(model.dtype).removeprefix("torch."),
                "architecture": config.model_type,
                "licence": spec.licence,
                "notes": notes,
            }
            written = _write(folder, model, tokenizer, source)
            del model  # before another one of its size is read
            _read_back(folder, written, tokenizer, source)
            files = {path.name: path for path in folder.iterdir() if path.is_file()}
            sizes = {name: path.stat().st_size for name, path in files.items()}
            write_json(folder / RECORD, {**facts, "digest": digest_of_files(files), "files": sizes})
    release_free_memory(now=True)  # two models have been here
    advance(4, 4, text="converted")
    return target


def converted_backbone(spec: BackboneSpec, workspace: Workspace, base: Path | None) -> Path | None:
    """The folder that `resolve_backbone` would give without converting anything; None where it would convert.

    Of a hub model no weights are fetched. Raises BackboneError when the model cannot be found.
    """
    folder = _converted(find(spec, base or Path.cwd(), weights=False), workspace)
    return folder if is_converted(folder) else None


def find_reader(spec: BackboneSpec, workspace: Workspace, base: Path | None = None) -> tuple[Any, Any]:
    """The backbone's tokenizer and configuration: nothing is converted, and of a hub model no weights are fetched.

    base: as for `resolve_backbone`. Raises BackboneError.
    """
    source = find(spec, base or Path.cwd(), weights=False)
    converted = _converted(source, workspace)
    if is_converted(converted):
        source = Source(spec.model, converted, None, source.identity)
    with _asked(source):
        return _tokenizer(source), _config(source)


@contextmanager
def _asked(source: Source) -> Iterator[None]:
    """Around what transformers is asked of a source; only a GGUF file needs the package that reads it."""
    with quiet(), explained(source.given), parsed_once() if source.gguf else nullcontext():
        yield


def _converted(source: Source, workspace: Workspace) -> Path:
    return workspace.backbones / digest_of(_FORMAT, source.identity)


def _config(source: Source) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(**source.where)


def _count(config: Any, source: Source) -> int:
    """Parameters, tied ones once, without memory for them. Raises BackboneError over the limit."""
    import torch

    with torch.device("meta"):
        model = loader(config).from_config(config, trust_remote_code=False)
    model.tie_weights()
    count: int = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        raise BackboneError(
            f"backbone {source.given} has {count / 1e9:.2f} billion parameters; this factory extends small models, "
            f"up to {MAX_PARAMETERS / 1e9:.0f} billion: choose a smaller one"
        )
    return count


def _model(config: Any, source: Source) -> tuple[Any, list[str]]:
    """The model that lies at the source, and notes. Raises BackboneError where it would be another one."""
    import torch

    from alter_core.backbone.weights import check_weights, stored_dtype, untie

    notes = []
    if not source.gguf and getattr(config, "quantization_config", None):
        raise BackboneError(
            f"backbone {source.given}: its weights are quantised, and adapters are taught on plain ones; choose the "
            "model before it was quantised, or a GGUF file of it"
        )
    if getattr(config, "auto_map", None):
        notes.append("its config.json names code of its own, which is not run: it is read as transformers knows it")
    model, about = loader(config).from_pretrained(
        **source.where,
        config=config,
        dtype=torch.float32 if source.gguf else stored_dtype(source) or "auto",
        use_safetensors=True,
        output_loading_info=True,
    )
    notes += check_weights(model, about, source)
    if not source.gguf:
        read = {path.name for path in source.weight_files}
        if unread := sorted(p.name for p in source.folder.glob("*.safetensors") if p.name not in read):
            notes.append(f"weights beside the model that are not read: {', '.join(unread)}")
    settings = model.generation_config.to_diff_dict().items()
    if own := [f"{name} {value}" for name, value in settings if name not in _SAID]:
        notes.append(f"settings of its own for generation, which are not used, as answers are greedy: {', '.join(own)}")
    return _unquantised(model) if source.gguf else model, notes + untie(model)


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    # Its files are here by now. Unsaid, transformers writes HF_HUB_OFFLINE into the tokenizer's configuration, and so
    # into the backbone's digest: two workers with different settings would train everything in turn.
    tokenizer = AutoTokenizer.from_pretrained(**source.where, local_files_only=True)
    check_tokenizer(tokenizer, source.given)
    return tokenizer


def _write(folder: Path, model: Any, tokenizer: Any, source: Source) -> dict[str, str]:
    """Digests of the weights written. Raises BackboneError for a tokenizer that a bundle could not hold."""
    from alter_core.mta.fingerprint import backbone_digests

    model.save_pretrained(folder, max_shard_size="100GB")
    tokenizer.save_pretrained(folder)
    if foreign := sorted(path.name for path in folder.iterdir() if path.suffix not in _PLAIN):
        raise BackboneError(
            f"backbone {source.given}: its tokenizer keeps files that are neither JSON nor safetensors, which a bundle "
            "does not hold; save its fast form with the weights (`AutoTokenizer`, from the package tokenizers)",
            foreign,
        )
    return backbone_digests(model)


def _read_back(folder: Path, written: dict[str, str], tokenizer: Any, source: Source) -> None:
    """Raises BackboneError unless the folder gives the weights and ids that were written."""
    from alter_core.mta.fingerprint import backbone_digests

    model, read = read_folder(folder)
    found = backbone_digests(model)
    if other := sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name)):
        raise BackboneError(
            f"backbone {source.given}: {len(other)} of its weights are not what was written once its folder is read "
            "back; save the model again with the installed version of transformers, or choose another backbone",
            other[:5],
        )
    check_same(tokenizer, read, source.given)


def _unquantised(model: Any) -> Any:
    """The weights are plain floats by now; transformers would still refuse to save them as a quantised model."""
    import torch

    model.hf_quantizer = None
    model.is_quantized = False
    for holder, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(holder, name):
            delattr(holder, name)
    # Four bits a weight before: bf16 holds the values as well as fp32, in half the space.
    return model.to(torch.bfloat16)
