import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from alter_core.evaluation.metrics import interval, measure, resamples, row_scores


def one(metric: str, prediction: str, target: str) -> float:
    return float(row_scores(metric, [prediction], [target])[0])  # type: ignore[arg-type]


def test_accuracy_wants_the_label_to_the_letter() -> None:
    assert row_scores("accuracy", ["yes", "Yes"], ["yes", "yes"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("prediction", "target", "wanted"),
    [
        ("The card.", "card", 1),
        ("ValueError; TypeError", "valueerror typeerror", 1),
        ("cards", "card", 0),
        ("", "a", 0),
    ],
)
def test_exact_match_sets_case_punctuation_and_articles_aside(prediction: str, target: str, wanted: float) -> None:
    assert one("exact_match", prediction, target) == wanted


def test_token_f1_counts_each_common_word_as_often_as_both_have_it() -> None:
    assert one("token_f1", "red red box", "the red box on a shelf") == pytest.approx(2 * 2 / (3 + 4))
    assert one("token_f1", "nothing", "red box") == 0


@pytest.mark.parametrize("text", ["return the mean of an array", "Return a mean_value, of 2 arrays!", "unrelated"])
def test_rouge_l_equals_the_package_on_ascii_text(text: str) -> None:
    target = "Return the mean_value of an array (axis 2)."
    assert one("rouge_l", text, target) == RougeScorer(["rougeL"]).score(target, text)["rougeL"].fmeasure


def test_rouge_l_of_texts_without_words_asks_whether_they_are_the_same() -> None:
    assert (one("rouge_l", "->", "->"), one("rouge_l", "->", "<-"), one("rouge_l", "->", "a")) == (1, 0, 0)


def test_rouge_l_reads_other_alphabets() -> None:
    assert one("rouge_l", "मेरी किताब", "मेरी किताब") == 1
    assert one("rouge_l", "मेरी किताब", "मेरा कुतुब") == 0
    assert one("rouge_l", "größe der straße", "die größe der straße") == pytest.approx(6 / 7)
    assert one("rouge_l", "今日は雨", "今日は晴れ") == pytest.approx(2 * 3 / 9)


def test_macro_f1_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets, answers = ([f"label {i}" for i in rng.integers(0, n, 60)] for n in (4, 5))
    wanted = f1_score(targets, answers, average="macro")
    value, _ = measure("macro_f1", answers, targets, resamples(60, seed=0, count=1))
    assert value == pytest.approx(wanted)


def test_macro_f1_of_resamples_equals_scikit_learn_on_each() -> None:
    rng = np.random.default_rng(1)
    targets, answers = ([f"label {i}" for i in rng.integers(0, 3, 30)] for _ in range(2))
    picks = resamples(30, seed=3, count=5)
    value, spread = measure("macro_f1", answers, targets, picks)
    for found, pick in zip(spread, picks, strict=True):
        held = [targets[i] for i in pick], [answers[i] for i in pick]
        assert found == pytest.approx(2 * value - f1_score(*held, average="macro"))  # mirrored: the basic interval


def test_the_interval_holds_the_value_and_narrows_with_more_rows() -> None:
    widths = []
    for rows in (40, 4000):
        answers = ["a" if i % 4 else "b" for i in range(rows)]
        value, spread = measure("accuracy", answers, ["a"] * rows, resamples(rows, seed=0))
        found = interval(value, spread)
        assert found.low < found.value == 0.75 < found.high
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.3)


def test_macro_f1_of_many_classes_lies_in_its_interval_as_often_as_that_says() -> None:
    """77 classes, 400 rows, 8 of 10 right: percentiles of the resamples hold the truth 6 times of 10."""
    draw = np.random.default_rng(0)

    def answers(count: int) -> tuple[list[str], list[str]]:
        wanted = draw.integers(0, 77, count)
        found = np.where(draw.random(count) < 0.8, wanted, draw.integers(0, 77, count))
        return [str(n) for n in found], [str(n) for n in wanted]

    truth, _ = measure("macro_f1", *answers(100_000), resamples(100_000, seed=0, count=1))
    held = 0
    for trial in range(60):
        value, spread = measure("macro_f1", *answers(400), resamples(400, trial, 300))
        found = interval(value, spread)
        held += found.low <= truth <= found.high
        assert 0 <= found.low <= found.high <= 1
    assert held >= 50


@pytest.mark.parametrize(
    ("prediction", "target", "wanted"),
    [("\u6211\u6628\u5929\u53bb", "\u6211\u4eca\u5929\u53bb", 0.75),
     ("\u0e01\u0e31\u0e19\u0e44", "\u0e01\u0e31\u0e21\u0e44", 2 / 3)],
    ids=["Chinese", "Thai"],
)  # fmt: skip
def test_scripts_without_spaces_count_by_character(prediction: str, target: str, wanted: float) -> None:
    for metric in ("token_f1", "rouge_l"):
        assert row_scores(metric, [prediction], [target])[0] == pytest.approx(wanted)


def test_the_same_seed_gives_the_same_resamples() -> None:
    assert (resamples(9, seed=1) == resamples(9, seed=1)).all()
    assert (resamples(9, seed=1) != resamples(9, seed=2)).any()


def test_an_interval_leaves_out_a_fortieth_at_each_end() -> None:
    found = interval(0.5, np.arange(1001) / 1000)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
