"""Options for aiokafka, and which of its log lines a user sees."""

from __future__ import annotations

import gc
import logging
import socket
import time
import warnings
from pathlib import Path

import aiokafka.errors as kafka_errors
import pytest
from aiokafka import AIOKafkaProducer

from streams.broker.kafka import BrokerUnreachable, client_options, reach, start
from streams.broker.noise import ExpectedNoise, quiet_logs
from streams.broker.processes import free_port
from streams.settings import KafkaSettings, Settings, SettingsError


def record(template: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    """A line as aiokafka's sender writes it."""
    return logging.LogRecord("aiokafka.producer.sender", level, __file__, 1, template, args, None)


def test_plain_options_have_no_secrets_in_them() -> None:
    """Without SASL and TLS only address, protocol and timeout are given."""
    assert client_options(Settings(bootstrap_servers="a:1,b:2")) == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
        "request_timeout_ms": 30_000,
    }


def test_sasl_over_tls_gives_credentials_and_a_checking_context() -> None:
    """The password is unwrapped for the client only; host names are checked."""
    kafka = KafkaSettings(
        security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="u", sasl_password="p"
    )
    options = client_options(Settings(kafka=kafka))
    assert (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "SCRAM-SHA-512",
        "u",
        "p",
    )
    assert options["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("kafka", "named"),
    [
        (KafkaSettings(security_protocol="SASL_PLAINTEXT"), "kafka.sasl_username"),
        (KafkaSettings(security_protocol="SSL", ssl_cafile="/no/such/ca.pem"), "kafka.ssl_cafile"),
        (KafkaSettings(security_protocol="SSL", ssl_certfile="/no/such/cert.pem"), "kafka.ssl_certfile"),
    ],
)
def test_what_is_missing_is_named(kafka: KafkaSettings, named: str) -> None:
    """A wrong setting is an error of settings, not of the network."""
    with pytest.raises(SettingsError, match=named):
        client_options(Settings(kafka=kafka))


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    """Any file is not a certificate."""
    path = tmp_path / "ca.pem"
    path.write_text("nothing", "utf-8")
    with pytest.raises(SettingsError, match=r"ca\.pem"):
        client_options(Settings(kafka=KafkaSettings(security_protocol="SSL", ssl_cafile=str(path))))


async def test_closed_port_is_one_clear_line_within_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    """The address, the reason, and nothing in the log."""
    address = f"127.0.0.1:{free_port()}"
    begun_s = time.monotonic()
    with pytest.raises(BrokerUnreachable) as caught:
        await reach(Settings(bootstrap_servers=address), 0.5)
    assert 0.4 < time.monotonic() - begun_s < 10
    assert str(caught.value) == f"Kafka is not reachable at {address}: connection refused"
    assert caplog.records == []


async def test_a_listener_that_says_nothing_is_given_up() -> None:
    """A port that accepts and stays silent is not a broker."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnreachable, match="no answer in time"):
            await reach(Settings(bootstrap_servers=address), 0.5)


async def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking a name server, which may take its time to say no."""

    async def resolve_nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("streams.broker.kafka.create_conn", resolve_nothing)
    with pytest.raises(BrokerUnreachable, match=r"broker\.invalid:9092: unknown host"):
        await reach(Settings(bootstrap_servers="broker.invalid:9092"), 0.2)


async def test_a_name_that_dns_cannot_hold_is_an_unknown_host() -> None:
    """Python refuses to encode a label of more than 63 characters."""
    with pytest.raises(BrokerUnreachable, match="unknown host"):
        await reach(Settings(bootstrap_servers="a" * 70), 0.2)


@pytest.mark.parametrize("servers", ["localhost:abc", "a:1,,b", "a:0", "a:99999", " "])
def test_addresses_that_are_none_are_refused(servers: str) -> None:
    """Before anything is connected."""
    with pytest.raises(SettingsError, match="bootstrap_servers"):
        client_options(Settings(bootstrap_servers=servers))


def test_retriable_answers_are_hidden_and_final_ones_shown() -> None:
    """aiokafka retries the former itself."""
    noise = ExpectedNoise()
    template = "Got error produce response on topic-partition %s, retrying. Error: %s"
    assert not noise.filter(record(template, "t-0", kafka_errors.NotEnoughReplicasError))
    assert not noise.filter(
        record("Group Coordinator Request failed: %s", kafka_errors.GroupCoordinatorNotAvailableError())
    )
    assert noise.filter(
        record("Could not add partition %s: %s", "t-0", kafka_errors.InvalidTopicError, level=logging.ERROR)
    )
    assert noise.filter(record("Unexpected error in sender routine", level=logging.ERROR))


def test_lost_connections_are_told_once_in_a_while() -> None:
    """The first line passes, its repetitions do not."""
    noise = ExpectedNoise()
    line = record("Unable connect to node with id %s: %s", 1, OSError("refused"), level=logging.ERROR)
    assert [noise.filter(line) for _ in range(3)] == [True, False, False]


def test_the_aftermath_of_a_producer_that_was_given_up_is_hidden() -> None:
    """asyncio tells of its futures and callbacks at ERROR; of everything else it must still tell."""

    def told(message: str, error: Exception | None) -> logging.LogRecord:
        info = None if error is None else (type(error), error, None)
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), info)

    noise = ExpectedNoise()
    unexpected = kafka_errors.KafkaError("Unexpected error during batch delivery")
    assert not noise.filter(told("Future exception was never retrieved", unexpected))
    forgotten = "Exception in callback MessageAccumulator._pop_batch.<locals>.cb()"
    assert not noise.filter(told(forgotten, KeyError("batch")))
    cut = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    assert not noise.filter(told("SSL error in data received", cut)), "a TLS connection that was cut off (uvloop)"
    assert noise.filter(told("SSL error in data received", RuntimeError("ours")))
    assert noise.filter(told("Future exception was never retrieved", ValueError("ours")))
    assert noise.filter(told("Exception in callback ours()", KeyError("ours")))


def test_debug_shows_everything() -> None:
    """Whoever asks for DEBUG gets it."""
    noise = ExpectedNoise()
    line = record("Error: %s", kafka_errors.NotEnoughReplicasError)
    logger = logging.getLogger(line.name)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        assert noise.filter(line)
    finally:
        logger.setLevel(before)


def test_quiet_logs_reaches_every_logger_of_aiokafka_once() -> None:
    """Filters do not pass down to child loggers, so each has it; twice changes nothing."""
    quiet_logs()
    quiet_logs()
    sender = logging.getLogger("aiokafka.producer.sender")
    try:
        assert sum(isinstance(found, ExpectedNoise) for found in sender.filters) == 1
    finally:
        for name in ["aiokafka", "asyncio", *logging.Logger.manager.loggerDict]:
            logger = logging.getLogger(name)
            for found in [found for found in logger.filters if isinstance(found, ExpectedNoise)]:
                logger.removeFilter(found)


async def test_a_client_that_cannot_be_started_is_closed() -> None:
    """It would warn of that when it is collected, in the middle of something else."""
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1", request_timeout_ms=500)
    with pytest.raises(kafka_errors.KafkaConnectionError):
        await start(producer)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del producer
        gc.collect()
    assert warned == []


def test_no_login_goes_to_a_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    """aiokafka logs every request it sends; with PLAIN one of them holds the password."""
    from aiokafka.protocol.admin import SaslAuthenticateRequest_v1

    noise = logging.getLogger("aiokafka.test")
    quiet_logs()
    with caplog.at_level(logging.DEBUG, "aiokafka.test"):
        noise.debug("Request to %s %s: %s", "b:9092", 3, SaslAuthenticateRequest_v1(b"\0me\0hidden"))
        noise.debug("Request to %s %s: %s", "b:9092", 4, "Metadata")
    assert "hidden" not in caplog.text
    assert "Metadata" in caplog.text
