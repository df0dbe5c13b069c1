"""Tests use what is public: a rename inside of a class must break no test.

Private are names that begin with one underscore, on any other object than `self`, `cls` and `super()`; also as text for
`setattr` and the like, and as imports. Where a test cannot do without, the file is listed here with its names and the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Public in spite of their names: of named tuples, and `os._exit`."""
BY_TEXT = {"delattr", "getattr", "hasattr", "patch", "setattr"}

AIOKAFKA = "breaks or reads aiokafka where it offers no way: "
ALLOWED = {
    "tests/bench/marked_worker.py": (
        "wraps methods of a worker from any checkout, to note when tasks pass them",
        {"_admit", "_collect", "_finished", "_id", "_names", "_producer", "_transactional_id"},
    ),
    "tests/pipeline/test_kafka_agents.py": (AIOKAFKA + "the producer's task ends", {"_sender"}),
    "tests/simulation/client.py": (AIOKAFKA + "its requests, answered by a simulated broker", {"_transactional_id"}),
    "tests/simulation/leftovers.py": (
        "looks for what the product should have forgotten, which it shows to nobody",
        {
            "_aside",
            "_by_name",
            "_by_task",
            "_claims",
            "_due",
            "_flights",
            "_relocating",
            "_returning",
            "_store",
            "_tasks",
            "_timers",
            "_to_check",
            "_to_read",
            "_waiting",
        },
    ),
    "tests/simulation/loop.py": (
        "a loop of simulated time, on top of asyncio's own parts",
        {"_cancelled", "_scheduled", "_set_running_loop", "_when"},
    ),
    "tests/simulation/mutants.py": (
        "takes single fixes out of the product, each where it is made",
        {
            "_away",
            "_by_name",
            "_commit_rest",
            "_counts",
            "_cut_off",
            "_fail",
            "_found_out",
            "_from_ancestor",
            "_last_tasks",
            "_outputs",
            "_restore",
            "_step_moved",
        },
    ),
    "tests/simulation/node.py": (
        "asyncio must not complain of the tasks of a killed process",
        {"_log_destroy_pending"},
    ),
    "tests/simulation/test_statistics.py": ("takes a rule out of the product", {"_store"}),
    "tests/system/test_group_offsets.py": (AIOKAFKA + "its own request is compared", {"_coordinator"}),
    "tests/system/test_left_open.py": (AIOKAFKA + "a transaction without its end", {"_sender"}),
    "tests/system/test_watchdog.py": (
        AIOKAFKA + "its tasks end, its coordinator fails",
        {"_consumer", "_coordinator", "_fetch_task", "_fetcher", "_get_actions_per_node", "_thread"},
    ),
    "tests/unit/test_lease.py": (AIOKAFKA + "the request that the lease watches", {"_send_req"}),
    "tests/unit/test_newer_requests.py": (
        "pins the bytes of each request that aiokafka lacks",
        {
            "_DescribeTransactions",
            "_EpochEndRequest",
            "_GroupRights",
            "_ListTransactions",
            "_MetadataRequest",
            "_NamedHeartbeat",
            "_StableOffsetsRequest",
            "_TopicRights",
        },
    ),
    "tests/unit/test_strict_producer.py": (
        "the producer overrides parts of aiokafka's, which are driven one by one",
        {
            "_AddOffsets",
            "_AddPartitions",
            "_CommitOffsets",
            "_EndTxn",
            "_find_coordinator",
            "_message_accumulator",
            "_muted_partitions",
            "_sender",
            "_txn_manager",
        },
    ),
    "tests/unit/test_tls_closing.py": (
        AIOKAFKA + "a connection over a socket of the test",
        {"_closed_fut", "_create_reader_task", "_read_task", "_reader", "_writer"},
    ),
}


def is_private(name: str) -> bool:
    """One underscore before a name that is not documented."""
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in DOCUMENTED


def is_own(node: ast.expr) -> bool:
    """`self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_uses(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each use."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            names = [text.rpartition(".")[2] for text in texts] if called in BY_TEXT else []
        for name in names:
            if is_private(name):
                yield node.lineno, name


def test_tests_use_no_private_names() -> None:
    """But those that are listed, of the files that are listed; and those are all in use."""
    found: list[str] = []
    unused = {path: set(names) for path, (_, names) in ALLOWED.items()}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        _, allowed = ALLOWED.get(where, ("", set()))
        for line, name in private_uses(path.read_text("utf-8")):
            unused.get(where, set()).discard(name)
            if name not in allowed:
                found.append(f"{where}:{line}: {name}")
    assert found == [], "assert what shows from outside, or list the name with the reason"
    assert {path: names for path, names in unused.items() if names} == {}, "listed, and not in use"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("one._held\nself._held\nself.one._held\nsuper()._held()\ncls._held\n", ["_held", "_held"]),
        ("member._replace(a=1)\nos._exit(0)\none.__dict__\n", []),
        ('patch.setattr(one, "_held", 1)\nsetattr("a.b._held", 1)\nprint("_held")\n', ["_held", "_held"]),
        ("from a import _held, other\n", ["_held"]),
    ],
)
def test_the_check_finds_what_it_is_for(source: str, names: list[str]) -> None:
    assert [name for _, name in private_uses(source)] == names
