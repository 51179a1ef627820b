"""The room in short: texts and their tasks go in, in any order; answers come out, each with its probability."""

from alter_core.inference.predict import Predictor
from alter_core.spec import DomainSpec
from tests.inference.conftest import Subject


def test_each_row_is_answered_under_its_own_task(subject: Subject, spec: DomainSpec) -> None:
    model, tokenizer, mta = subject
    topic, title = Predictor(model, tokenizer, spec, mta).predict(["topic", "title"], ["my card", "my card"])
    assert topic.text in (spec.task("topic").labels or ())  # nothing else can come out
    assert 0 < topic.score <= 1
    assert isinstance(title.text, str)
    assert not title.truncated
