"""Bundle: an MTA model as a folder of safetensors and JSON, every part under a digest.

bundle.json            format, configuration, tasks, layers, digests of the parts and of the backbone, metadata
mta.safetensors        adapters and gates
backbone/              the backbone as transformers writes it; its weights only where the bundle holds them
changed.safetensors    where it only refers to the backbone: those of its weights that training changed
tokenizer/             the tokenizer, where one was given
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from alter_core.errors import BundleError
from alter_core.mta.bundle_parts import (
    assign_backbone,
    check_backbone,
    layer_state,
    load_backbone,
    mta_tensors,
    own_memory,
    restore,
    storable,
)
from alter_core.mta.fingerprint import backbone_tensors, digests_digest, tensor_digest
from alter_core.mta.injection import inject
from alter_core.mta.manifest import FORMAT, MANIFEST, BundleManifest, file_digest, list_files, read_manifest
from alter_core.mta.model import MTAModel
from alter_core.spec.mta import MTAConfig
from alter_core.whole import written_whole

_ALLOWED = {".json", ".safetensors"}


def save_bundle(
    mta: MTAModel,
    tokenizer: Any | None,
    directory: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    backbone: Literal["hold", "refer"] = "hold",
    source: str | None = None,
) -> str:
    """Write `mta` to `directory`, which appears whole or not at all, and return the bundle's digest.

    hold: the backbone's weights go in. refer: only a digest of each of them as it was before training does, with
    `source` (where to find it) and the weights that changed since. `metadata` must be JSON.

    Raises BundleError when `directory` exists, metadata is no JSON, the tokenizer has parts besides JSON, or a bundle
    would refer to a backbone that has no digests.
    """
    directory = Path(directory)
    if backbone == "refer" and not mta.backbone_digests:
        raise BundleError(
            "a bundle can refer only to a backbone that was read: inject with fingerprint=True, or hold it"
        )
    if directory.exists():
        raise BundleError(f"{directory} exists already: a bundle is never written over; name another folder")
    with written_whole(directory) as work:
        work.mkdir()
        return _write(work, mta, tokenizer, dict(metadata or {}), backbone, source)


def _write(
    work: Path, mta: MTAModel, tokenizer: Any | None, metadata: dict[str, Any], backbone: str, source: str | None
) -> str:
    model: Any = mta.model
    tensors = backbone_tensors(mta.model)
    save_file(storable(mta_tensors(mta)), work / "mta.safetensors")
    model.config.save_pretrained(work / "backbone")
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(work / "backbone")
    if backbone == "hold":
        save_file(storable(tensors), work / "backbone" / "model.safetensors", metadata={"format": "pt"})
    else:
        before = mta.backbone_digests
        changed = {n: t for n, t in tensors.items() if before.get(n) != tensor_digest(t)}
        save_file(storable(changed), work / "changed.safetensors")
    if tokenizer is not None:
        tokenizer.save_pretrained(work / "tokenizer", save_jinja_files=False)
    files = list_files(work)
    foreign = [name for name in files if Path(name).suffix not in _ALLOWED]
    if foreign:
        raise BundleError(
            "a bundle holds safetensors and JSON only, and this one writes other files; use a fast tokenizer", foreign
        )
    manifest: BundleManifest = {
        "format": FORMAT,
        "config": mta.config.model_dump(mode="json"),
        "tasks": mta.tasks,
        "layers": [layer_state(layer) for layer in mta.layers],
        "backbone": {
            "place": backbone,
            "source": source,
            "class": type(mta.model).__name__,
            "dtype": str(mta.model.dtype).removeprefix("torch."),
            "digest": digests_digest(mta.backbone_digests),
            "tensors": mta.backbone_digests,
        },
        "parts": {name: file_digest(work / name) for name in files},
        "metadata": metadata,
    }
    try:
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the bundle's metadata is no JSON: {error}; give plain values") from error
    (work / MANIFEST).write_text(text, encoding="utf-8")
    return file_digest(work / MANIFEST)


def load_bundle(
    directory: Path, backbone: str | Path | nn.Module | None = None
) -> tuple[MTAModel, Any | None, dict[str, Any]]:
    """Check every part of a bundle, then return (mta in eval mode, tokenizer or None, metadata).

    A bundle that only refers to its backbone needs it: a folder or hub id, or a loaded model, which then gets the MTA
    layers; unset means the source that the bundle names. One that holds its backbone does not look at it.
    Raises BundleError, with every problem found, for parts that are missing, extra or altered, another format, what
    this version no longer has, or a backbone other than the one trained on.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    try:
        config = _config_of(manifest, directory)
        about = manifest["backbone"]
        held = about["place"] == "hold"
        model = (
            backbone
            if isinstance(backbone, nn.Module) and not held
            else load_backbone(str(directory / "backbone" if held else backbone or about["source"] or ""), about)
        )
        if held:
            assign_backbone(model, load_file(directory / "backbone" / "model.safetensors"), directory, every=True)
        else:
            check_backbone(model, about["tensors"], directory)
            assign_backbone(model, load_file(directory / "changed.safetensors"), directory, every=False)
        mta = inject(model, config, manifest["tasks"], fingerprint=False)
        mta.backbone_digests = dict(about["tensors"])
        restore(mta, manifest["layers"], load_file(directory / "mta.safetensors"), directory)
        own_memory(mta.model)
        metadata = manifest["metadata"]
    except (KeyError, TypeError, IndexError, ValidationError) as error:
        raise BundleError(
            f"{directory}: {MANIFEST} does not describe a bundle ({' '.join(str(error).split())[:200]}); copy it anew"
        ) from error
    mta.model.eval()
    tokenizer = None
    if (directory / "tokenizer").is_dir():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    return mta, tokenizer, metadata


def _config_of(manifest: BundleManifest, where: Path) -> MTAConfig:
    """The configuration that a bundle was made with, also by a version that had more to set."""
    values = dict(manifest["config"])
    values.pop("width", None)  # of bottlenecks alone
    if not values["shared_adapters"]:
        values["shared_adapter"] = None
    gone = [f"{key}: bottleneck" for key in ("adapter", "shared_adapter") if values[key] == "bottleneck"]
    pruned = [layer["name"] for layer in manifest["layers"] if any(home is None for home in layer["homes"])]
    gone += [f"{name}: an adapter was pruned" for name in pruned]
    gone += [
        f"{layer['name']}: a shared adapter was pruned"
        for layer in manifest["layers"]
        if layer["shared_adapters"] != values["shared_adapters"]
    ]
    strange = {name for pair in values["homes"].items() for name in pair} - set(manifest["tasks"])
    gone += [f"task {name} was removed, and homes name it" for name in sorted(strange)]
    if gone:
        raise BundleError(
            f"{where}: made with what this version no longer has; commit c66842c of alter-factory is the last that "
            "reads it: use that one, or produce the domain again",
            gone,
        )
    return MTAConfig.model_validate_json(json.dumps(values))
