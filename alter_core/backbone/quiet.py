"""How transformers is asked: without bars and advice, and with its errors told as ours."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from alter_core.errors import AlterError, BackboneError


@contextmanager
def explained(given: str, advice: str = "check that its files are whole, or choose another backbone") -> Iterator[None]:
    """Errors of transformers and what it stands on, as ours: of files that others made it may raise any."""
    try:
        yield
    except AlterError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or ["transformers does not say why"])[0]
        if isinstance(error, KeyError):
            text = f"its files speak of {text}, which this version of transformers does not know"
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            text = "it needs code of its own to load, which is never run here"
            advice = "choose a model that transformers knows"
        raise BackboneError(f"backbone {given}: cannot be loaded: {text}; {advice}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice from transformers on a terminal that shows our own progress."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    with ExitStack() as stack:
        stack.callback(logging.set_verbosity, level)
        if bars:
            stack.callback(logging.enable_progress_bar)
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        stack.callback(setattr, gguf_reader, "tqdm", gguf_reader.tqdm)  # this bar asks nobody
        gguf_reader.tqdm = lambda items, **_: items
        yield
