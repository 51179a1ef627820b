"""Mixture of task adapters (Xie et al., arXiv 2309.11042) for Hugging Face language models.

The paper's own setting is `MTAConfig(layers="last_1", encoder_layers="last_1", adapter="ffn", mixing="output")` on T5.
"""

from alter_core.mta.bundle import bundle_digest, load_bundle, read_manifest, save_bundle
from alter_core.mta.config import MTAConfig
from alter_core.mta.fold import export, fold, fold_loss
from alter_core.mta.heatmap import draw_gates
from alter_core.mta.inject import inject
from alter_core.mta.layer import MTALayer
from alter_core.mta.model import MTAModel, task_ids_context

__all__ = [
    "MTAConfig",
    "MTALayer",
    "MTAModel",
    "bundle_digest",
    "draw_gates",
    "export",
    "fold",
    "fold_loss",
    "inject",
    "load_bundle",
    "read_manifest",
    "save_bundle",
    "task_ids_context",
]
