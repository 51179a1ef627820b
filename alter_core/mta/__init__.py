"""Mixture of task adapters (Xie et al., arXiv 2309.11042) for Hugging Face language models.

The paper's own setting is `MTAConfig(layers="last_1", adapter="ffn", shared_adapters=0, mixing="output")` on T5.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alter_core.mta.manifest import bundle_digest, read_manifest
from alter_core.spec.mta import MTAConfig

if TYPE_CHECKING:
    from alter_core.mta.bundle import load_bundle, save_bundle
    from alter_core.mta.folding import export, fold, fold_loss
    from alter_core.mta.injection import inject
    from alter_core.mta.layer import MTALayer
    from alter_core.mta.model import MTAModel

__all__ = [
    "MTAConfig",
    "MTALayer",
    "MTAModel",
    "bundle_digest",
    "export",
    "fold",
    "fold_loss",
    "inject",
    "load_bundle",
    "read_manifest",
    "save_bundle",
]

# These bring torch in, and a spec is read without it: hence on first use (PEP 562). No module may be called as what it
# offers: its import would take that name's place here.
_HOMES = {
    "bundle": ("load_bundle", "save_bundle"),
    "folding": ("export", "fold", "fold_loss"),
    "injection": ("inject",),
    "layer": ("MTALayer",),
    "model": ("MTAModel",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"alter_core.mta.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
