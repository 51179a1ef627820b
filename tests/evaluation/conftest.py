"""The spec of inference's tests, with label and free-text tasks, serves for scoring too."""

from tests.inference.conftest import spec

__all__ = ["spec"]
