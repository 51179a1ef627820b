import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from alter_core.backbone import RECORD, backbone_digest, find_reader, load_backbone, resolve_backbone
from alter_core.backbone.quiet import parsed_once
from alter_core.errors import BackboneError
from alter_core.spec import BackboneSpec
from alter_core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def resolve(model: object, workspace: Workspace, **more: Any) -> Path:
    return resolve_backbone(BackboneSpec(model=str(model), licence="none"), workspace, **more)


def test_a_local_folder_is_converted_once_and_loads_the_same_weights(tiny_backbone: Path, workspace: Workspace) -> None:
    folder = resolve(tiny_backbone, workspace)
    first = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(tiny_backbone, workspace) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == first
    model, tokenizer = load_backbone(folder)
    wanted = load_file(tiny_backbone / "model.safetensors")
    assert {n: p.tolist() for n, p in model.state_dict().items() if n in wanted} == {
        n: p.tolist() for n, p in wanted.items()
    }
    assert (
        tokenizer("the red ball")["input_ids"] == AutoTokenizer.from_pretrained(tiny_backbone)("the red ball").input_ids
    )


def test_the_tokenizer_is_found_without_converting_anything(tiny_backbone: Path, workspace: Workspace) -> None:
    spec = BackboneSpec(model=str(tiny_backbone), licence="none")
    ids = find_reader(spec, workspace)[0]("the red ball")["input_ids"]
    assert not workspace.backbones.exists()
    _, converted = load_backbone(resolve(tiny_backbone, workspace))
    assert converted("the red ball")["input_ids"] == ids
    assert find_reader(spec, workspace)[0]("the red ball")["input_ids"] == ids


def test_the_record_says_what_was_converted(tiny_backbone: Path, workspace: Workspace) -> None:
    folder = resolve(tiny_backbone, workspace)
    record = json.loads((folder / RECORD).read_text())
    parameters = sum(p.numel() for p in LlamaForCausalLM.from_pretrained(tiny_backbone).parameters())
    assert record["parameters"] == parameters
    assert (record["source"], record["licence"], record["dtype"]) == (str(tiny_backbone), "none", "float32")
    assert record["digest"] == backbone_digest(folder)


def test_other_weights_in_the_same_place_are_another_backbone(
    tiny_backbone: Path, workspace: Workspace, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_backbone, copy)
    before = resolve(copy, workspace)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(copy)).save_pretrained(copy)
    after = resolve(copy, workspace)
    assert after != before
    assert backbone_digest(after) != backbone_digest(before)


def test_a_relative_folder_is_looked_for_under_the_base(tiny_backbone: Path, workspace: Workspace) -> None:
    assert resolve(tiny_backbone.name, workspace, base=tiny_backbone.parent).is_dir()


def test_an_encoder_decoder_folder_loads_as_one(tiny_backbone: Path, workspace: Workspace, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone)
    folder = tmp_path / "t5"
    tokenizer.save_pretrained(folder)
    config = T5Config(vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    with pytest.raises(BackboneError, match="no decoder_start_token_id, the token that every answer begins with"):
        resolve(folder, workspace)
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    model, _ = load_backbone(resolve(folder, workspace))
    assert isinstance(model, T5ForConditionalGeneration)


def test_over_a_billion_parameters_are_refused_before_weights_are_read(
    tiny_backbone: Path, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "large"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"has \d\.\d\d billion parameters.*choose a smaller one"):
        resolve(folder, workspace)
    assert not workspace.backbones.exists() or not any(workspace.backbones.iterdir())


def test_pickled_weights_are_refused_with_the_remedy(tiny_backbone: Path, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_backbone, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"only pytorch_model.bin, which could run code(.|\n)*save_pretrained"):
        resolve(folder, workspace)


def without_head(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    model.base_model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))


def with_(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_a_token_too_many(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<one more>"})
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_head, r"lack 1 of the weights(.|\n)*lm_head\.weight"),
        (lambda folder: with_(folder, num_hidden_layers=9), r"lack \d+ of the weights(.|\n)*and \d+ more"),
        (lambda folder: with_(folder, num_attention_heads=0), "cannot be loaded"),
        (lambda folder: with_(folder, hidden_size="32"), "cannot be loaded"),
        (cut_off, "cannot be loaded"),
        (with_a_token_too_many, "embeddings do not reach(.|\n)*<one more> is"),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    spoil: Any, says: str, tiny_backbone: Path, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny_backbone, folder)
    spoil(folder)
    with pytest.raises(BackboneError, match=says):
        resolve(folder, workspace)
    assert not list(workspace.backbones.glob("*"))


@pytest.mark.parametrize("lost", ["tokenizer.json", "model.safetensors"])
def test_a_converted_folder_that_is_not_whole_is_told(lost: str, tiny_backbone: Path, workspace: Workspace) -> None:
    folder = resolve(tiny_backbone, workspace)
    (folder / lost).unlink()
    with pytest.raises(BackboneError, match=r"cannot be loaded: .*; remove that folder and run `alter run` again"):
        load_backbone(folder)


def test_a_model_with_code_of_its_own_is_refused(tiny_backbone: Path, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(BackboneError, match="code of its own"):
        resolve(folder, workspace)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "package:no_such_package/model.gguf",
            "no_such_package is not installed; install it: pip install no-such-package",
        ),
        ("package:yaml/model.gguf", "holds no such file"),
        ("package:yaml", "write package:NAME/FILE.gguf"),
        ("package:yaml/../yaml/__init__.py", "holds no such file"),
        ("/no/such/folder", "no such folder"),
        ("nobody/no-such-model", "HF_HUB_OFFLINE is set(.|\n)*unset HF_HUB_OFFLINE"),
        ("nobody/two..dots", "no such folder, and it is no hub id"),
        ("~nobody-has-this-name/model", "write the folder out"),
    ],
)
def test_a_model_that_cannot_be_found_is_refused_with_the_remedy(
    model: str, message: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=message):
        resolve(model, workspace)


def test_a_package_is_found_without_importing_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "carries_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('this ran')")
    (package / "model.gguf").write_bytes(b"not weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(BackboneError, match=r"carries_weights/model\.gguf: cannot be loaded"):
        resolve("package:carries_weights/model.gguf", workspace)
    assert "carries_weights" not in sys.modules


def test_a_folder_without_its_record_is_not_loaded(tiny_backbone: Path) -> None:
    with pytest.raises(BackboneError, match="no converted backbone"):
        load_backbone(tiny_backbone)


def test_progress_runs_to_its_end(tiny_backbone: Path, workspace: Workspace) -> None:
    seen: list[tuple[int, int]] = []
    resolve(tiny_backbone, workspace, progress=lambda done, total, **_: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    assert seen == sorted(seen)


def test_a_gguf_file_is_parsed_once_while_it_is_converted_and_anew_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: [path])
    with parsed_once():
        first = gguf.GGUFReader("a.gguf")
        assert gguf.GGUFReader(Path("a.gguf")) is first
        assert gguf.GGUFReader("b.gguf") == ["b.gguf"]
    assert gguf.GGUFReader("a.gguf") is not first


def test_only_a_gguf_file_needs_the_package_that_reads_it(
    tiny_backbone: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_gguf"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert (resolve(tiny_backbone, workspace) / RECORD).exists()
    with pytest.raises(BackboneError, match=r"carries_gguf/model\.gguf: cannot be loaded"):
        resolve("package:carries_gguf/model.gguf", workspace)
