"""Model and tokenizer of a folder that transformers reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alter_core.backbone.quiet import explained, quiet
from alter_core.backbone.record import RECORD
from alter_core.errors import BackboneError

if TYPE_CHECKING:
    import torch  # elsewhere at first use: a backbone that is converted already is found without it


def load_backbone(folder: Path, dtype: "torch.dtype | None" = None) -> tuple[Any, Any]:
    """Model (in eval mode) and tokenizer of a converted folder; dtype None keeps the weights' own.

    Raises BackboneError when the folder is not whole.
    """
    again = "run `alter run` again to make it"
    if not (folder / RECORD).is_file():
        raise BackboneError(f"{folder} is no converted backbone: {RECORD} is missing; {again}")
    with quiet(), explained(str(folder), f"remove that folder and {again}"):
        return read_folder(folder, dtype)


def read_folder(folder: Path, dtype: "torch.dtype | None" = None) -> tuple[Any, Any]:
    """As `load_backbone`, of a folder that has no record yet; raises what transformers raises."""
    from transformers import AutoConfig, AutoTokenizer

    from alter_core.mta.bundle_parts import own_memory

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = loader(config).from_pretrained(folder, dtype=dtype or "auto", trust_remote_code=False, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    own_memory(model)
    return model.eval(), tokenizer


def loader(config: Any) -> Any:
    """The class of transformers that loads a language model of `config`."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
