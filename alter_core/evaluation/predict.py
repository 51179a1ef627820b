"""The name under which models that were registered before the house was rebuilt import their Predictor."""

from alter_core.inference.predict import Predictor

__all__ = ["Predictor"]
