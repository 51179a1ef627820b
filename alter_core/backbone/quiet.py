"""How transformers is asked: without bars and advice, with its errors told as ours, and once for what a file says."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

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


@contextmanager
def parsed_once() -> Iterator[None]:
    """A GGUF file is parsed once meanwhile, which takes seconds for a vocabulary.

    transformers does so for its configuration, its weights and its tokenizer each, and makes the table of its tensors'
    names for every module of the model.
    """
    import gguf

    def once(function: Callable[..., object]) -> Callable[..., object]:
        kept = cache(function)
        return lambda path, *more: kept(str(path) if isinstance(path, Path) else path, *more)

    with ExitStack() as stack:
        for name in ("GGUFReader", "get_tensor_name_map"):
            stack.callback(setattr, gguf, name, getattr(gguf, name))
            setattr(gguf, name, once(getattr(gguf, name)))
        yield
