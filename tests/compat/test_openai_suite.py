"""openai-python's own suite passes, but for what is said not to."""

from xml.etree import ElementTree

import pytest
from compat.openai_suite import (
    CHAT,
    CONVERSATIONS,
    EXPECTED_TO_FAIL,
    ITEMS,
    MODELS,
    Report,
    judge,
    run,
)

CLIENTS = [
    ("", "loose"),
    ("", "strict"),
    ("async ", "loose"),
    ("async ", "strict"),
    ("async ", "aiohttp"),
]


@pytest.fixture(scope="module")
def report() -> Report:
    return run()


def test_nothing_fails(report: Report) -> None:
    assert not report.failed, f"{report}\n{report.output[-6000:]}"


def test_every_client_and_operation_that_is_served_passes(report: Report) -> None:
    served = [
        (CHAT, "create_overload_1"),
        (CHAT, "create_overload_2"),
        (MODELS, "retrieve"),
        (MODELS, "list"),
    ]
    served += [
        (CONVERSATIONS, operation) for operation in ("create", "retrieve", "update", "delete")
    ]
    served += [(ITEMS, operation) for operation in ("create", "retrieve", "list", "delete")]
    for file, operation in served:
        for way in ("method", "raw_response", "streaming_response"):
            clients = {name.partition("::")[2] for name in report.passed if name.startswith(file)}
            wanted = {f"{kind}test_{way}_{operation}[{client}]" for kind, client in CLIENTS}
            assert wanted <= clients, wanted - clients


def test_the_exclusions_are_exact(report: Report) -> None:
    assert not report.stale and not report.unknown, str(report)
    assert len(report.excused) == len(EXPECTED_TO_FAIL) * len(CLIENTS)
    assert all(EXPECTED_TO_FAIL.values())
    assert report.good


def test_a_failure_and_a_stale_exclusion_are_seen() -> None:
    chat, models = (f"{path.removesuffix('.py').replace('/', '.')}.Test" for path in (CHAT, MODELS))
    results = ElementTree.fromstring(
        f'<testsuites><testcase classname="{chat}Completions" name="test_method_create_overload_1[loose]"><failure/></testcase>'
        f'<testcase classname="{chat}AsyncCompletions" name="test_method_delete[strict]"/>'
        f'<testcase classname="{models}Models" name="test_method_delete[loose]"><failure/></testcase>'
        f'<testcase classname="{models}Models" name="test_method_list[loose]"><skipped/></testcase>'
        f'<testcase classname="{models}Models" name="test_path_params_delete[loose]"/></testsuites>'
    )
    report = judge(results, "")
    assert report.failed == [
        f"{CHAT}::test_method_create_overload_1[loose]",
        f"{MODELS}::test_method_list[loose]",
    ]
    assert report.stale == [f"{CHAT}::async test_method_delete[strict]"]
    assert (
        report.excused == [f"{MODELS}::test_method_delete[loose]"] and len(report.client_only) == 1
    )
    assert (
        not report.passed and not report.good and f"{CHAT}::test_method_retrieve" in report.unknown
    )
