"""A scikit-learn classifier as an agent: the class's probability is the confidence.

parallax agent serve docs.examples.sklearn_spam:spam --port 9000
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from agents_io import agent, from_proba

EXAMPLES = [
    ("win a free prize now", "spam"),
    ("free money, click here", "spam"),
    ("cheap pills, limited offer", "spam"),
    ("claim your prize today", "spam"),
    ("lunch tomorrow at noon?", "ham"),
    ("the minutes of our meeting", "ham"),
    ("can you review my change", "ham"),
    ("see you at the station", "ham"),
]


class Mail(BaseModel):
    """What the agent judges."""

    text: str


@lru_cache(maxsize=1)
def model() -> Any:
    """Trained once; load yours here."""
    classifier = make_pipeline(TfidfVectorizer(), MultinomialNB(alpha=0.3))
    return classifier.fit([text for text, _ in EXAMPLES], [label for _, label in EXAMPLES])


@agent("spam", capabilities=["classify"])
def spam(mail: Mail) -> tuple[str, float]:
    """A plain function: it runs in a thread."""
    label, confidence = from_proba(model().predict_proba([mail.text]), model().classes_)
    return str(label), confidence


if __name__ == "__main__":
    spam.serve(port=9000)
