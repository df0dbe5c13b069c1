"""Which failures a wait may mend. In: an exception from aiokafka. Out: yes or no.

Brokers that are away, leaders that are being chosen, replicas that are missing: these pass, however long they take, and must
never end a worker. A refusal (not authorised, a setting the broker does not take) or a fault of our own does not pass.
"""

from __future__ import annotations

from aiokafka.errors import (
    BrokerNotAvailableError,
    ConcurrentTransactions,
    KafkaError,
    KafkaTimeoutError,
    KafkaUnavailableError,
    ReplicaNotAvailableError,
)

_PASSING = (
    BrokerNotAvailableError,
    ConcurrentTransactions,
    KafkaTimeoutError,
    KafkaUnavailableError,
    ReplicaNotAvailableError,
)


def passing(error: BaseException) -> bool:
    """Whether trying again later may help by itself.

    >>> passing(TimeoutError()), passing(KafkaError("lost the coordinator")), passing(ValueError())
    (True, True, False)
    """
    if isinstance(error, KafkaError):
        # A bare KafkaError is aiokafka's wrapping of whatever ended one of its tasks: a connection that broke, as a rule.
        return bool(error.retriable) or isinstance(error, _PASSING) or type(error) is KafkaError
    return isinstance(error, TimeoutError | OSError)
