"""Confidence from agreement: one task is asked several times; the answer is the most frequent one, its confidence the
share that gave it. Pure.

In: the number of samples, how many agreeing answers are enough, and the ends of the samples as they come. Out: None
while more samples must end, else the answer with its confidence, or the error. It makes no call.
"""

from __future__ import annotations

from dataclasses import replace

from agents_io.errors import AgentError, ClientError, Unsupported
from agents_io.rules.confidence import agreed, from_agreement
from agents_io.transport import Answer

FOR_ALL = (ClientError, Unsupported)
"""Errors of the task or its registration: every sample would end in the same way."""


class Agreement:
    """The samples of one task. Three ends: 1 `enough` answers agree. 2 All samples ended, more than half with an
    answer: the most frequent answer (of equals, the first that came). 3 At least half of the samples cannot answer: the
    last error.

    >>> samples = Agreement(3, 2)
    >>> samples.add(Answer("ham", 0.0)), samples.add(Answer("spam", 0.0))
    (None, None)
    >>> samples.add(Answer("Spam", 0.0))
    Answer(value='spam', confidence=0.6, metadata={'agreement': {'samples': 3, 'agree': 2}})
    """

    __slots__ = ("_answers", "_enough", "_lost", "_samples")

    def __init__(self, samples: int, enough: int) -> None:
        self._samples = samples
        self._enough = enough
        self._answers: list[Answer] = []
        self._lost = 0

    def add(self, end: Answer | AgentError) -> Answer | AgentError | None:
        """Add the final end of a sample. Returns the task's end if it is known now; add nothing after it."""
        if isinstance(end, AgentError):
            self._lost += 1
            if 2 * self._lost >= self._samples or (isinstance(end, FOR_ALL) and not end.retryable):
                return end
        else:
            self._answers.append(end)
        answer, agree = self._leading()
        if answer is None or (agree < self._enough and len(self._answers) + self._lost < self._samples):
            return None
        confidence = from_agreement([one.value for one in self._answers])[1]
        counts = {"samples": len(self._answers), "agree": agree}
        return replace(answer, confidence=confidence, metadata={**answer.metadata, "agreement": counts})

    def _leading(self) -> tuple[Answer | None, int]:
        """The most frequent answer so far, and its count."""
        if not self._answers:
            return None, 0
        place, votes = agreed([one.value for one in self._answers])
        return self._answers[place], votes
