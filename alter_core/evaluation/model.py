"""What is scored: a bundle or the plain backbone, ready to answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from alter_core.backbone import backbone_digest, load_backbone
from alter_core.inference.predict import Predictor
from alter_core.mta.fingerprint import backbone_digests, digests_digest, task_digest
from alter_core.mta.layer import MTALayer
from alter_core.mta.manifest import MANIFEST, BundleManifest
from alter_core.spec import DomainSpec
from alter_core.whole import digest_of


@dataclass(frozen=True)
class Model:
    """A model with what tells its answers from another's."""

    predictor: Predictor
    layers: tuple[MTALayer, ...]
    """None in the plain backbone."""
    about: str
    """Digest of what all tasks answer with: backbone, tokenizer, configuration, prompt format and precision."""

    @classmethod
    def of(cls, bundle: str | None, backbone: Path, spec: DomainSpec) -> "Model":
        """The bundle, or without one the backbone in that folder, zero-shot, with the tasks of `spec`.

        Raises BundleError and BackboneError where they cannot be used.
        """
        about: list[object] = []
        if bundle is None:
            model, tokenizer = load_backbone(backbone)
            predictor = Predictor.placed(model, tokenizer, spec, None)
            about.append(backbone_digest(backbone))
        else:
            predictor = Predictor.from_bundle(bundle, backbone)
            manifest: BundleManifest = json.loads((Path(bundle) / MANIFEST).read_text(encoding="utf-8"))  # as checked
            tokenizer_files = {name: part for name, part in manifest["parts"].items() if name.startswith("tokenizer/")}
            # As it is in memory: a last stage's bundle holds the backbone that the others refer to.
            about += [manifest["config"], digests_digest(backbone_digests(predictor.model)), tokenizer_files]
        about += [predictor.prompt_format, str(predictor.model.dtype)]
        return cls(predictor, tuple(m for m in predictor.model.modules() if isinstance(m, MTALayer)), digest_of(about))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it can be asked; an older bundle may lack a task that the domain has by now."""
        return self.predictor.spec.task_names

    def key(self, task: str) -> str:
        """Of all that its answers to rows of `task` depend on, beside the code."""
        return digest_of(
            self.about, task_digest(self.layers, self.tasks.index(task)), self.predictor.spec.task(task).content
        )
