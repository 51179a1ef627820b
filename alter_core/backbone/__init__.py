"""The backbone: found by hub id, local folder or package file, and converted once into a folder of the workspace.

    find (where it lies) -> convert (read, checked, written, read back) -> record, load

A converted folder holds config.json, model.safetensors, the tokenizer's files and alter_backbone.json, so that every
later step loads it in a second and knows exactly which weights it had. Nothing here runs code that comes with a model,
and only safetensors and GGUF weights are read.
"""

from alter_core.backbone.convert import converted_backbone, find_reader, resolve_backbone
from alter_core.backbone.load import load_backbone
from alter_core.backbone.quiet import quiet
from alter_core.backbone.record import RECORD, backbone_digest, backbone_record

__all__ = [
    "RECORD",
    "backbone_digest",
    "backbone_record",
    "converted_backbone",
    "find_reader",
    "load_backbone",
    "quiet",
    "resolve_backbone",
]
