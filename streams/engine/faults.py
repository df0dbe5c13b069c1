"""Classifies exceptions from aiokafka: transient ones, and what the brokers deny. Out: yes or no; a few words.

Unreachable brokers, leader elections, missing replicas: these are transient, however long they take, and must never end
a worker. A refusal (not authorised, a setting the broker does not accept) or a fault of our own is not.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiokafka.errors import (
    BrokerNotAvailableError,
    ClusterAuthorizationFailedError,
    ConcurrentTransactions,
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    KafkaError,
    KafkaTimeoutError,
    KafkaUnavailableError,
    ReplicaNotAvailableError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

MAX_CAUSES = 8
_UNAUTHORIZED = {
    TopicAuthorizationFailedError: "topic",
    GroupAuthorizationFailedError: "group",
    TransactionalIdAuthorizationFailed: "transactional id",
    ClusterAuthorizationFailedError: "the cluster",
}
_WRONG_SETTING = {
    InvalidSessionTimeoutError: "Kafka refuses session_timeout: it must lie between group.min.session.timeout.ms and "
    "group.max.session.timeout.ms of the brokers (6s and 30m unless changed)",
    InconsistentGroupProtocolError: "Kafka refuses this worker as a member: its group has members of another kind. Does "
    "another program use app_id and topic_prefix of this installation?",
}
_TRANSIENT = (
    BrokerNotAvailableError,
    ConcurrentTransactions,
    KafkaTimeoutError,
    KafkaUnavailableError,
    ReplicaNotAvailableError,
)


def is_transient(error: BaseException) -> bool:
    """Whether a later try may succeed by itself.

    >>> is_transient(TimeoutError()), is_transient(KafkaError("lost the coordinator")), is_transient(ValueError())
    (True, True, False)
    """
    if unauthorized(error) is not None:
        return False
    if isinstance(error, KafkaError):
        # A bare KafkaError wraps the error that ended one of aiokafka's tasks: usually a broken connection.
        return bool(error.retriable) or isinstance(error, _TRANSIENT) or type(error) is KafkaError
    return isinstance(error, TimeoutError | OSError)


def unauthorized(error: BaseException) -> str | None:
    """What the brokers deny this user, as the end of a sentence; None for any other error.

    aiokafka wraps some refusals in general errors, so causes are examined.

    >>> unauthorized(TopicAuthorizationFailedError({"p.results"})), unauthorized(TimeoutError())
    ('access to topic p.results', None)
    """
    for link in _causes(error):
        for kind, what in _UNAUTHORIZED.items():
            if isinstance(link, kind):
                names = link.args[0] if link.args else ()
                names = [names] if isinstance(names, str) else sorted(names)
                return " ".join(["access to", what, ", ".join(names)]).rstrip()
    return None


def is_refused(error: BaseException) -> bool:
    """Whether the brokers refuse this user or its settings, so that a new connection would meet the same.

    >>> is_refused(InvalidSessionTimeoutError()), is_refused(KafkaError("lost the coordinator"))
    (True, False)
    """
    return unauthorized(error) is not None or type(error) in _WRONG_SETTING


def describe_error(error: BaseException) -> str:
    """The error for a log or a user: a refusal as a sentence with its remedy, any other unchanged.

    >>> describe_error(GroupAuthorizationFailedError("shop-dispatch"))
    'Kafka refuses access to group shop-dispatch; what is needed is printed by: parallax docs acls'
    """
    refused = unauthorized(error)
    if refused is not None:
        return f"Kafka refuses {refused}; what is needed is printed by: parallax docs acls"
    return _WRONG_SETTING.get(type(error)) or repr(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if link is None:
            return
        yield link
        link = link.__cause__
