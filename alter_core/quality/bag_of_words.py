"""A bag of words: what a user would take instead of a model, and what finds doubtful rows."""

from typing import Any

import regex

from alter_core.text import UNSPACED

# Words of any alphabet. Marks belong to their letter: without its vowel signs, a word of Hindi is another word.
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|(?:[^\W_{UNSPACED}]\p{{M}}*)+")
MOST_TERMS = 50_000


def bag_of_words() -> Any:
    """Logistic regression over TF-IDF of words and pairs of words, with settings that no task is tuned for; a pipeline
    of scikit-learn. It cannot learn from texts without any word."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second of imports that most processes do without
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(
        tokenizer=WORD.findall, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True, max_features=MOST_TERMS
    )
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=300))
