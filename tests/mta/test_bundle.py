"""Bundles: bit-equal round trips; missing, extra and altered parts are refused, all at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alter_core.errors import BundleError
from alter_core.mta import MTAModel, bundle_digest, inject, load_bundle, save_bundle
from alter_core.mta.bundle_parts import ALIGNMENT
from alter_core.mta.manifest import copy_with
from tests.mta.conftest import TASKS, batch_for, logits, plain_config, stir, tiny
from tests.mta.test_fold import tokenizer

ROWS = ["title", "intent", "nli", "title", "intent"]


def made(architecture: str = "llama", **settings: Any) -> MTAModel:
    mta = inject(tiny(architecture), plain_config(layers="last_1", rank=2, **settings), TASKS)
    stir(mta)
    mta.open_gates(0.8)
    return mta


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(made(), tokenizer(), tmp_path / "bundle", {"labels": {"intent": ["yes", "no"]}})
    return tmp_path / "bundle"


def changed_manifest(bundle: Path, place: tuple[Any, ...], value: Any) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    here = manifest
    for step in place[:-1]:
        here = here[step]
    here[place[-1]] = value
    (bundle / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("place", ["hold", "refer"])
@pytest.mark.parametrize("kind", ["ffn", "lora"])
@pytest.mark.parametrize("architecture", ["llama", "t5", "opt", "gpt2"])
def test_a_round_trip_gives_bit_equal_logits(architecture: str, kind: str, place: Any, tmp_path: Path) -> None:
    mta = made(architecture, adapter=kind, shared_adapters=1)
    with torch.no_grad():
        mta.blocks[0].get_parameter(next(n for n, _ in mta.blocks[0].named_parameters())).add_(0.1)
    mta.use_adapters(task=True, shared=False)
    batch = batch_for(mta.model)
    save_bundle(mta, None, tmp_path / "bundle", backbone=place)
    loaded, none, metadata = load_bundle(tmp_path / "bundle", tiny(architecture) if place == "refer" else None)
    assert torch.equal(logits(loaded, batch, ROWS), logits(mta, batch, ROWS))
    assert loaded.gate_table() == mta.gate_table()
    assert loaded.config == mta.config
    assert (none, metadata) == (None, {})


@pytest.mark.parametrize("place", ["hold", "refer"])
def test_weights_lie_as_torch_places_its_own(place: Any, tmp_path: Path) -> None:
    """Where a file happens to put them, products of AVX2 processors have other last bits."""
    tiny("llama").save_pretrained(tmp_path / "backbone")
    save_bundle(made(), None, tmp_path / "bundle", backbone=place, source=str(tmp_path / "backbone"))
    loaded, _, _ = load_bundle(tmp_path / "bundle")
    assert {parameter.data_ptr() % ALIGNMENT for parameter in loaded.model.parameters()} == {0}


def test_a_copy_says_more_and_is_another_bundle_of_the_same_weights(bundle: Path, tmp_path: Path) -> None:
    before = bundle_digest(bundle)
    copy_with(bundle, tmp_path / "copy", {"temperatures": {"intent": 2.0}})
    assert bundle_digest(bundle) == before != bundle_digest(tmp_path / "copy")
    (ours, _, said), (theirs, _, _) = load_bundle(tmp_path / "copy"), load_bundle(bundle)
    assert said == {"labels": {"intent": ["yes", "no"]}, "temperatures": {"intent": 2.0}}
    batch = batch_for(ours.model)
    assert torch.equal(logits(ours, batch, ROWS), logits(theirs, batch, ROWS))


def test_dtypes_survive_even_mixed(tmp_path: Path) -> None:
    model = tiny("llama").bfloat16()
    mta = inject(model, plain_config(layers="last_1"), TASKS, dtype=torch.float32)
    model.model.layers[0].input_layernorm.float()
    save_bundle(mta, None, tmp_path / "bundle")
    loaded, _, _ = load_bundle(tmp_path / "bundle")
    for (name, ours), (other, theirs) in zip(
        mta.model.named_parameters(), loaded.model.named_parameters(), strict=True
    ):
        assert (name, ours.dtype) == (other, theirs.dtype)
        assert torch.equal(ours, theirs)


def test_tokenizer_and_metadata_come_back(bundle: Path) -> None:
    _, own, metadata = load_bundle(bundle)
    assert own("w3 w8").input_ids == tokenizer()("w3 w8").input_ids  # type: ignore[misc]
    assert metadata == {"labels": {"intent": ["yes", "no"]}}


def test_a_bundle_is_safetensors_and_json_only(bundle: Path) -> None:
    assert {p.suffix for p in bundle.rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_a_bundle_that_refers_holds_only_changed_weights(tmp_path: Path) -> None:
    mta = made()
    with torch.no_grad():
        mta.model.model.norm.weight.add_(1)  # type: ignore[union-attr, operator]
    save_bundle(mta, None, tmp_path / "bundle", backbone="refer")
    assert set(load_file(tmp_path / "bundle" / "changed.safetensors")) == {"model.norm.weight"}
    assert not (tmp_path / "bundle" / "backbone" / "model.safetensors").exists()


def test_a_backbone_in_a_folder_is_found_by_the_source_of_the_bundle(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "backbone")
    mta = made()
    save_bundle(mta, None, tmp_path / "bundle", backbone="refer", source=str(tmp_path / "backbone"))
    loaded, _, _ = load_bundle(tmp_path / "bundle")
    batch = batch_for(mta.model)
    assert torch.equal(logits(loaded, batch, ROWS), logits(mta, batch, ROWS))


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    save_bundle(made(), None, tmp_path / "bundle", backbone="refer")
    with pytest.raises(BundleError, match="another backbone") as caught:
        load_bundle(tmp_path / "bundle", tiny("llama", seed=9))
    assert "differs" in str(caught.value)
    with pytest.raises(BundleError, match="names no source"):
        load_bundle(tmp_path / "bundle")


def test_a_backbone_of_another_class_is_refused_before_it_is_made(tmp_path: Path) -> None:
    save_bundle(made(), None, tmp_path / "bundle", backbone="refer")
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(BundleError, match=r"is a LlamaForCausalLM, and .*gpt2 holds a model of type gpt2"):
        load_bundle(tmp_path / "bundle", tmp_path / "gpt2")


def test_a_backbone_that_was_not_read_cannot_be_referred_to(tmp_path: Path) -> None:
    mta = inject(tiny("llama"), plain_config(layers="last_1", rank=2), TASKS, fingerprint=False)
    with pytest.raises(BundleError, match="fingerprint=True"):
        save_bundle(mta, None, tmp_path / "bundle", backbone="refer")
    assert not (tmp_path / "bundle").exists()


def test_the_digest_tells_bundles_apart(tmp_path: Path) -> None:
    mta = made()
    first = save_bundle(mta, None, tmp_path / "a")
    assert first == bundle_digest(tmp_path / "a") == save_bundle(mta, None, tmp_path / "b")
    stir(mta, seed=7)
    assert save_bundle(mta, None, tmp_path / "c") != first


class TestTampering:
    """Every problem is named, at once, before any tensor is used."""

    def test_missing_extra_and_altered_parts(self, bundle: Path) -> None:
        (bundle / "backbone" / "config.json").unlink()
        (bundle / "extra.json").write_text("{}")
        with (bundle / "mta.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")
        with pytest.raises(BundleError) as caught:
            load_bundle(bundle)
        text = str(caught.value)
        assert "backbone/config.json: missing" in text
        assert "extra.json: not part of the bundle" in text
        assert "mta.safetensors: altered" in text

    def test_a_link_is_no_part(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "mta.safetensors").rename(tmp_path / "elsewhere")
        (bundle / "mta.safetensors").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BundleError, match=r"mta\.safetensors: altered"):
            load_bundle(bundle)

    def test_no_bundle_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="is no bundle"):
            load_bundle(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"parts": {}}'])
    def test_a_broken_manifest(self, bundle: Path, text: str) -> None:
        (bundle / "bundle.json").write_text(text)
        with pytest.raises(BundleError, match="is no bundle"):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"format": 99}, "format 99"),
            ({"config": {"layers": "some"}}, "does not describe"),
            ({"tasks": ["one"]}, "decoder.1 is described for 3 tasks, the bundle has 1"),
            ({"layers": []}, "are not those"),
            ({"layers": [{"name": "decoder.1"}]}, "does not describe"),
            ({"backbone": {"place": "hold", "class": "Popen", "dtype": "float32"}}, "no model class"),
        ],
    )
    def test_a_manifest_of_something_else(self, bundle: Path, change: dict[str, Any], says: str) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text())
        (bundle / "bundle.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(BundleError, match=says):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        ("place", "value", "says"),
        [
            (("config", "adapter"), "bottleneck", "adapter: bottleneck"),
            (("config", "homes"), {"nli": "gone"}, "task gone was removed"),
            (("layers", 0, "homes", 1), None, r"decoder\.1: an adapter was pruned"),
            (("layers", 0, "shared_adapters"), 2, r"decoder\.1: a shared adapter was pruned"),
        ],
    )
    def test_what_only_earlier_versions_had_is_named(
        self, bundle: Path, place: tuple[Any, ...], value: Any, says: str
    ) -> None:
        changed_manifest(bundle, place, value)
        with pytest.raises(BundleError, match=rf"commit c66842c of alter-factory(.|\n)*{says}"):
            load_bundle(bundle)

    def test_what_earlier_versions_had_and_did_not_use_changes_nothing(self, bundle: Path) -> None:
        before, _, _ = load_bundle(bundle)
        changed_manifest(bundle, ("config", "width"), 64)
        changed_manifest(bundle, ("config", "shared_adapter"), "bottleneck")  # of no shared adapter
        after, _, _ = load_bundle(bundle)
        batch = batch_for(before.model)
        assert torch.equal(logits(after, batch, ROWS), logits(before, batch, ROWS))

    def test_tensors_that_do_not_fit_are_named(self, bundle: Path) -> None:
        tensors = load_file(bundle / "mta.safetensors")
        tensors["decoder.1.gate.logits.7"] = tensors.pop("decoder.1.gate.logits.0")
        tensors["decoder.1.tasks.0.weight.up"] = torch.zeros(2, 2)
        save_file(tensors, bundle / "mta.safetensors")
        manifest = json.loads((bundle / "bundle.json").read_text())
        from alter_core.mta.manifest import file_digest

        manifest["parts"]["mta.safetensors"] = file_digest(bundle / "mta.safetensors")
        (bundle / "bundle.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError) as caught:
            load_bundle(bundle)
        text = str(caught.value)
        assert "decoder.1.gate.logits.7: not in the model" in text
        assert "decoder.1.gate.logits.0: missing" in text
        assert "decoder.1.tasks.0.weight.up: shape (2, 2), the model has (3, 24, 16)" in text


class TestSaving:
    """A bundle appears whole or not at all."""

    def test_nothing_is_written_over(self, bundle: Path) -> None:
        with pytest.raises(BundleError, match="exists already"):
            save_bundle(made(), None, bundle)

    def test_whoever_may_read_the_folder_may_read_its_files(self, bundle: Path) -> None:
        allowed = bundle.stat().st_mode & 0o044
        assert {path.stat().st_mode & 0o044 for path in bundle.rglob("*")} == {allowed}

    def test_metadata_that_is_no_json_leaves_nothing_behind(self, tmp_path: Path) -> None:
        for bad in ({"when": object()}, {"score": float("nan")}):
            with pytest.raises(BundleError, match="no JSON"):
                save_bundle(made(), None, tmp_path / "bundle", bad)
        assert list(tmp_path.iterdir()) == []

    def test_a_tokenizer_with_other_files_is_refused(self, tmp_path: Path) -> None:
        class Slow:
            def save_pretrained(self, folder: Path, **_: Any) -> None:
                folder.mkdir()
                (folder / "spiece.model").write_bytes(b"x")

        with pytest.raises(BundleError, match=r"fast tokenizer") as caught:
            save_bundle(made(), Slow(), tmp_path / "bundle")
        assert "tokenizer/spiece.model" in str(caught.value)
        assert list(tmp_path.iterdir()) == []
