"""Detectors a user switches on: river's run as river ships them, restarts change nothing, mistakes name their field."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from schemas.codec import pack
from schemas.messages import Anomaly, ConfidenceDataPoint
from streams.cli.anomalies import row_of
from streams.rules.detection.alarms import Moment, SeriesId
from streams.rules.detection.detectors import Detectors, Thresholds
from streams.rules.detection.port import Point
from streams.rules.detection.river_adapter import MEMORY, build
from streams.rules.detection.specs import CATALOGUE, DetectorSpec, parse_spec, parse_specs
from streams.settings import SettingsError, load
from streams.statistics.registered import RegisteredDetectors
from streams.statistics.state import thresholds_of

SERIES = SeriesId("a", "p", "agent")
START = Moment(0, 0, 0)
USES = sorted(CATALOGUE)


def made(seed: int, count: int) -> list[tuple[float, bool, int]]:
    """Confidence, outcome, time bucket; a drop in the middle and three single low points."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        mean = 0.85 if index < count // 2 else 0.5
        value = rng.betavariate(20 * mean, 20 * (1 - mean))
        if index in (count // 4, count // 3):
            value = 0.02
        found.append((value, rng.random() < value, 300 + rng.randrange(40)))
    return found


def run(detectors: Detectors, points: list[tuple[float, bool, int]], start: int = 0) -> list[Anomaly]:
    """All transitions."""
    return [
        anomaly
        for index, (value, success, bucket) in enumerate(points, start)
        for anomaly in detectors.observe(value, Moment(0, index, index * 1000), success, bucket)
    ]


def chosen(found: list[Anomaly], use: str) -> list[Anomaly]:
    """Those of one chosen detector."""
    return [anomaly for anomaly in found if anomaly.details.detector == use]


@pytest.mark.parametrize("use", USES)
def test_a_chosen_detector_finds_a_drop_or_a_point_and_names_itself(use: str) -> None:
    """Each of the catalogue, with its defaults (Page-Hinkley's threshold is for errors far beyond 1)."""
    parameters = {"threshold": 2.0} if use.endswith("PageHinkley") else {}
    limits = Thresholds(chosen=(parse_spec("mine", {"use": use, "parameters": parameters}),))
    found = chosen(run(Detectors(SERIES, limits), made(1, 1200)), use)
    fired = [anomaly for anomaly in found if anomaly.state == "firing"]
    assert fired
    first = fired[0]
    assert first.type == ("drift" if CATALOGUE[use].kind == "drift" else "outlier")
    assert first.details.parameters is not None
    assert first.details.parameters["name"] == "mine"
    assert parameters.items() <= first.details.parameters.items()
    if first.type == "outlier":
        assert first.details.score is not None
    wire = first.wire()
    assert wire["details"]["detector"] == use
    shown = row_of(wire)
    assert shown["detector"] == use
    assert "name=mine" in shown["parameters"]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("every", [37, 300])
def test_a_restart_changes_nothing_for_a_chosen_detector(use: str, every: int) -> None:
    """State through JSON, no pickle; beyond two rebuilds of the recent points."""
    spec = parse_spec("mine", {"use": use, "parameters": {"n_trees": 2, "height": 4}} if "Trees" in use else use)
    limits = Thresholds(chosen=(spec,))
    points = made(2, 5 * MEMORY)
    whole = run(Detectors(SERIES, limits), points)
    detectors, parts = Detectors(SERIES, limits), []
    for start in range(0, len(points), every):
        parts += run(detectors, points[start : start + every], start)
        written = json.dumps(detectors.to_json())
        assert len(written) < 16_384
        detectors = Detectors.from_json(json.loads(written), SERIES, limits)
    assert parts == whole
    assert chosen(whole, use)


@pytest.mark.parametrize("use", USES)
def test_the_same_points_give_the_same_scores_in_any_process(use: str) -> None:
    """A detector that was restored scores as one that was never interrupted, at every point."""
    points = [Point(round(value, 4), success, bucket / 1152) for value, success, bucket in made(3, 2 * MEMORY + 50)]
    spec = parse_spec("mine", use)
    one, other = build(spec), build(spec)
    for index, point in enumerate(points):
        if index in (100, MEMORY * 2 - 1, MEMORY * 2, MEMORY * 2 + 1):
            restored = build(spec)
            restored.load(json.loads(json.dumps(other.to_json())))
            other = restored
        assert one.update(point) == other.update(point), index
    assert one.promise


def test_scope_is_all_agents_one_agent_or_one_pattern() -> None:
    """A detector runs on the series it concerns."""
    assert parse_spec("x", "river.drift.ADWIN").concerns("any", "thing")
    assert parse_spec("x", {"use": "river.drift.ADWIN", "agent": "a"}).concerns("a", "p")
    assert not parse_spec("x", {"use": "river.drift.ADWIN", "agent": "a"}).concerns("b", "p")
    assert not parse_spec("x", {"use": "river.drift.ADWIN", "pattern": "q"}).concerns("a", "p")
    limits = Thresholds(chosen=(parse_spec("x", {"use": "river.drift.ADWIN", "agent": "b"}),))
    assert chosen(run(Detectors(SERIES, limits), made(1, 1200)), "river.drift.ADWIN") == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("river.drift.NOPE", r"x\.use: 'river.drift.NOPE' is not one of river\.anomaly|x\.use"),
        ({"use": "river.drift.ADWIN", "delta": 1}, r"x\.delta: unknown field"),
        (
            {"use": "river.drift.ADWIN", "parameters": {"dleta": 1}},
            r"x\.parameters\.dleta: unknown parameter; known: delta",
        ),
        ({"use": "river.drift.ADWIN", "parameters": {"delta": "small"}}, r"x\.parameters\.delta: must be between"),
        ({"use": "river.drift.ADWIN", "parameters": {"clock": 1.5}}, r"x\.parameters\.clock: must be a whole number"),
        ({"use": "river.drift.ADWIN", "parameters": [1]}, r"x\.parameters: must be a table"),
        ({"use": "river.drift.ADWIN", "threshold": 1}, r"x\.threshold: only for detectors of river\.anomaly"),
        ({"use": "river.anomaly.GaussianScorer", "quantile": 2}, r"x\.quantile: must be between 0\.5 and"),
        ({"use": "river.anomaly.GaussianScorer", "quantile": 0.9, "threshold": 1}, r"x\.threshold: give either"),
        (
            {"use": "river.drift.PageHinkley", "parameters": {"mode": "sideways"}},
            r"x\.parameters\.mode: must be one of up",
        ),
        (
            {"use": "river.drift.KSWIN", "parameters": {"stat_size": 60}},
            r"x\.parameters\.stat_size: must be less than half",
        ),
        ({"use": "river.drift.ADWIN", "agent": 7}, r"x\.agent: must be a name"),
        (7, r"x: must be a class name or a table"),
    ],
)
def test_a_mistake_names_its_field(value: object, message: str) -> None:
    """No traceback, no silence."""
    with pytest.raises(ValueError, match=message):
        parse_spec("x", value)


def test_settings_choose_detectors_by_file_and_by_environment(tmp_path: Path) -> None:
    """`[stats.detectors.NAME]`, one line of it, and JSON in the environment."""
    (tmp_path / "parallax.toml").write_text(
        "[stats.detectors.adwin]\n"
        'use = "river.drift.ADWIN"\nagent = "gpt"\nparameters = { delta = 0.01 }\n'
        '[stats.detectors]\nsvm = "river.anomaly.OneClassSVM"\n'.replace(
            "[stats.detectors]\nsvm", "[stats.detectors.svm]\nuse"
        )
    )
    limits = thresholds_of(load({}, {}, tmp_path))
    assert limits is not None
    assert [(spec.name, spec.use, spec.agent) for spec in limits.chosen] == [
        ("adwin", "river.drift.ADWIN", "gpt"),
        ("svm", "river.anomaly.OneClassSVM", None),
    ]
    (tmp_path / "parallax.toml").write_text('stats.detectors.adwin = { use = "river.drift.ADWIN", agent = "gpt" }\n')
    assert load({}, {}, tmp_path).stats.detectors[0].agent == "gpt"
    environ = {"PARALLAX_STATS__DETECTORS": '{"k": "river.drift.KSWIN"}'}
    assert load({}, environ, tmp_path).stats.detectors == parse_specs({"k": "river.drift.KSWIN"})
    with pytest.raises(SettingsError, match=r"STATS__DETECTORS: k\.use"):
        load({}, {"PARALLAX_STATS__DETECTORS": '{"k": "nope"}'}, tmp_path)
    with pytest.raises(SettingsError, match="detectors: must be a table"):
        load({}, {"PARALLAX_STATS__DETECTORS": "nope"}, tmp_path)


def registration(value: Any, key: bytes = b"a") -> ConsumerRecord:
    """One record of the topic `agents`."""
    body = None
    if value is not None:
        body = pack({"id": key.decode(), "endpoint": "http://a.example", "metadata": {"detectors": value}})
    return ConsumerRecord("agents", 0, 0, 0, 0, key, body, None, 0, 0, ())


async def test_a_registration_chooses_detectors_for_its_agent() -> None:
    """And stops doing so; one that cannot be read is ignored."""
    registered = RegisteredDetectors({"bootstrap_servers": "localhost:1"}, "x")
    registered.apply(registration(["river.drift.ADWIN"]))
    assert [spec.use for spec in registered.of("a")] == ["river.drift.ADWIN"]
    assert registered.of("b") == ()
    registered.apply(registration({"mine": {"use": "nope"}}))
    assert registered.of("a") == ()
    registered.apply(registration({"mine": {"use": "river.drift.KSWIN"}}))
    assert registered.of("a")[0].name == "mine"
    registered.apply(registration(None))
    assert registered.of("a") == ()


def test_detectors_of_a_registration_keep_their_state_through_a_restart() -> None:
    """The row is read before the registration is known to the series; its detector continues all the same."""
    specs: tuple[DetectorSpec, ...] = parse_specs(["river.drift.ADWIN"])
    points = made(4, 900)
    one = Detectors(SERIES, Thresholds())
    one.choose(specs, START)
    whole = run(one, points)
    other = Detectors(SERIES, Thresholds())
    other.choose(specs, START)
    parts = run(other, points[:430])
    for _ in range(2):  # twice without a point in between: what is not claimed yet is kept
        other = Detectors.from_json(json.loads(json.dumps(other.to_json())), SERIES, Thresholds())
    other.choose(specs, START)
    assert parts + run(other, points[430:], 430) == whole
    assert chosen(whole, "river.drift.ADWIN")
    other.choose((), START)
    assert chosen(run(other, made(5, 900), 900), "river.drift.ADWIN") == []
    assert not any("/" in key for key in other.alarms.firing)


def test_the_state_tells_what_the_agents_topic_said_only_through_apply() -> None:
    """`State` asks for an agent's registered detectors at each of its points."""
    from types import SimpleNamespace
    from typing import cast

    from streams.rules.windows.windows import Span
    from streams.statistics.state import State

    spans: Any = {"minute": Span(60_000, 0, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
    asked = {"a": parse_specs(["river.drift.ADWIN"])}
    state = State(
        table=cast("Any", SimpleNamespace(data={})),
        spans=spans,
        limits=Thresholds(),
        registered=lambda agent: asked.get(agent, ()),
    )
    found: list[Anomaly] = []
    for index, (value, success, _) in enumerate(made(6, 1200)):
        for agent in ("a", "b"):
            point = ConfidenceDataPoint(
                agent_id=agent,
                pattern_name="",
                task_type="agent",
                confidence=value,
                success=success,
                timestamp=1_795_348_800_000 + index * 1000,
                execution_time=10,
            )
            live = state.apply(point, 0, 2 * index + (agent == "b"))
            found += live.series.anomalies
            live.series.anomalies.clear()
    assert {anomaly.agent_id for anomaly in chosen(found, "river.drift.ADWIN")} == {"a"}
    kinds = {kind for kind, _ in state.counters()["firing"]}
    assert not any("/" in kind for kind in kinds)
    series = state.of_agent("a")[0].series
    for index in range(1200, 3000):
        state.apply(
            point.model_copy(update={"agent_id": "a", "confidence": 0.9 - index // 150 % 2 * 0.6}), 0, 2 * index
        )
        if any(key.startswith("drift/") and not key.startswith("drift//") for key in series.detectors.alarms.firing):
            break
    asked.clear()
    series.anomalies.clear()
    for offset in (2 * index, 2 * index + 2):  # one that was counted, and a new one
        state.apply(point.model_copy(update={"agent_id": "a"}), 0, offset)
        ended = [a.details.window for a in chosen(series.anomalies, "river.drift.ADWIN")]
        assert ended == (["this detector is no longer chosen"] if offset > 2 * index else [])


def test_a_worker_without_statistics_does_not_import_river() -> None:
    """Nor do the settings, the command line and the dispatch processor."""
    code = (
        "import sys, streams.worker, streams.cli.main, streams.settings, streams.dispatch.handler; "
        "print([name for name in ('river', 'numpy', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def _folded(points: list[ConfidenceDataPoint], limits: Thresholds, kills: bool) -> dict[tuple[str, str], str]:
    """Batches of random sizes; some die after their anomalies were published and before their rows were written."""
    from types import SimpleNamespace
    from typing import cast

    from streams.rules.windows.windows import Span
    from streams.statistics.state import State

    spans: Any = {"minute": Span(60_000, 30_000, 60), "hour": Span(3_600_000, 0, 24), "day": Span(86_400_000, 0, 30)}
    table = SimpleNamespace(data={})
    state, rng, published = State(table=cast("Any", table), spans=spans, limits=limits), random.Random(9), {}
    start = 0
    while start < len(points):
        stop = min(start + rng.randrange(1, 300), len(points))
        touched = {}
        for offset in range(start, stop):
            live = state.apply(points[offset], 0, offset)
            touched[live.key] = live
        for live in touched.values():
            for anomaly in live.series.anomalies:
                text = anomaly.model_dump_json()
                assert published.setdefault((anomaly.id, anomaly.state), text) == text
            live.series.anomalies.clear()
        if rng.random() < 0.3 and kills:
            state = State(table=cast("Any", table), spans=spans, limits=limits)
            await state.load()
            continue
        for live in touched.values():
            for key, value in state.rows(live):
                table.data[key] = value
                if value is None:
                    del table.data[key]
            live.series.windows.touched.clear()
            live.leaving.clear()
        start = stop
    return published


async def test_anomalies_after_kills_equal_those_of_an_undisturbed_run_with_rivers_detectors_on() -> None:
    """The same ids, the same records, whatever was counted twice."""
    limits = Thresholds(
        chosen=parse_specs(
            {
                "adwin": "river.drift.ADWIN",
                "hinkley": {"use": "river.drift.PageHinkley", "parameters": {"threshold": 2.0}},
                "gauss": "river.anomaly.GaussianScorer",
                "svm": "river.anomaly.OneClassSVM",
            }
        )
    )
    rng, points = random.Random(4), []
    for index in range(6000):
        level = 0.4 if index % 4 == 2 and 3000 < index < 4000 else 0.85
        points.append(
            ConfidenceDataPoint(
                agent_id=f"agent-{index % 4}",
                pattern_name="p",
                task_type="agent",
                confidence=min(max(rng.gauss(level, 0.05), 0.0), 1.0),
                success=rng.random() < level,
                timestamp=1_795_348_800_000 + index * 1500,
                execution_time=100 + rng.randrange(50),
            )
        )
    undisturbed = await _folded(points, limits, kills=False)
    assert await _folded(points, limits, kills=True) == undisturbed
    found = "".join(undisturbed.values())
    assert all(use in found for use in ("ADWIN", "PageHinkley", "GaussianScorer", "OneClassSVM", "sudden_drop"))


def test_a_registered_detector_sees_the_pattern_it_names() -> None:
    """As one of the settings does."""
    other = parse_specs({"mine": {"use": "river.drift.ADWIN", "pattern": "q"}})
    detectors = Detectors(SERIES, Thresholds())
    detectors.choose(other, START)
    assert chosen(run(detectors, made(1, 1200)), "river.drift.ADWIN") == []
    mine = parse_specs({"mine": {"use": "river.drift.ADWIN", "pattern": "p"}})
    detectors = Detectors(SERIES, Thresholds())
    detectors.choose(mine, START)
    assert chosen(run(detectors, made(1, 1200)), "river.drift.ADWIN")


@pytest.mark.parametrize("from_settings", [True, False], ids=["setting", "registration"])
@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_an_episode_ends_with_its_detector(from_settings: bool, restarts: int) -> None:
    """It is no longer chosen, in the same process or after a restart: no later point could end the episode."""
    specs = parse_specs({"mine": "river.drift.ADWIN"})
    limits = Thresholds(chosen=specs) if from_settings else Thresholds()
    registered = () if from_settings else specs
    detectors = Detectors(SERIES, limits)
    detectors.choose(registered, START)
    points = made(4, 900)
    for index, (value, success, bucket) in enumerate(points):
        detectors.observe(value, Moment(0, index, index * 1000), success, bucket)
        if "drift/mine" in detectors.alarms.firing:
            break
    episode = detectors.alarms.firing["drift/mine"].id
    if restarts or from_settings:
        for _ in range(max(restarts, 1)):  # a setting changes with a restart only
            detectors = Detectors.from_json(json.loads(json.dumps(detectors.to_json())), SERIES, Thresholds())
    found = detectors.choose((), Moment(0, 901, 901_000))
    assert [(a.id, a.state, a.detected_at, a.details.detector) for a in found] == [
        (episode, "resolved", 901_000, "mine")
    ]
    assert not any(spell.covers(2000) for spell in detectors.alarms.spells["drift/mine"])
    assert detectors.choose((), Moment(0, 902, 902_000)) == []
