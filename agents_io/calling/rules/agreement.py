"""Confidence from agreement: one task asked several times, the answer that most samples give, and how many gave it. Pure.

In: how often to ask and how many answers that agree are enough; the ends of the samples, one by one, in the order they come. Out:
nothing while more must be known, else the answer with its confidence, or the error the task ends with. It makes no call.
"""

from __future__ import annotations

from dataclasses import replace

from agents_io.errors import AgentError, ClientError, Unsupported
from agents_io.rules.confidence import agreed, from_agreement
from agents_io.transport import Answer

FOR_ALL = (ClientError, Unsupported)
"""The task or its registration is wrong: every sample would end so."""


class Agreement:
    """The samples of one task. Three ends: 1 `enough` answers agree. 2 every sample has ended, and more than half of them with an
    answer: the answer most of them give (of several, the one that came first). 3 half of them can give none: the last error.

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
        """A sample ended for good. The task's end, if that is known now; nothing is added after it."""
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
        """The answer that most samples gave so far, and how many."""
        if not self._answers:
            return None, 0
        place, votes = agreed([one.value for one in self._answers])
        return self._answers[place], votes
