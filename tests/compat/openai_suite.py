"""openai-python's own tests of its resources, from its source distribution, against the real server.

The suite is fetched by pip, in the version that is installed, and run as it is. Everything in FILES
runs; EXPECTED_TO_FAIL says what cannot pass and why, and is exact: what fails without being in it
is a failure, what is in it and passes is stale.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from compat.seeding import environment
from process import chattable
from upstream import ScriptedUpstream

TESTS = Path(__file__).parents[1]
HOME = TESTS.parent / ".conformance"
CHAT = "tests/api_resources/chat/test_completions.py"
MODELS = "tests/api_resources/test_models.py"
CONVERSATIONS = "tests/api_resources/test_conversations.py"
ITEMS = "tests/api_resources/conversations/test_items.py"
FILES = (CHAT, MODELS, CONVERSATIONS, ITEMS)

STORED = (
    "stored completions are not served: a completion can be had once, in the answer to its request"
)
READ_ONLY = (
    "models come from the operator's config: DELETE /v1/models/{id} is for fine-tuned models, "
    "which nobody makes here"
)
# the suite calls every operation in these three ways
EACH_WAY = ("method", "raw_response", "streaming_response")
# file, test function -> why it cannot pass; whatever its client: loose or strict, sync, async or
# aiohttp
EXPECTED_TO_FAIL: dict[tuple[str, str], str] = {
    **{
        (CHAT, f"test_{way}_{operation}"): STORED
        for way in EACH_WAY
        for operation in ("retrieve", "update", "list", "delete")
    },
    (CHAT, "test_method_list_with_all_params"): STORED,
    **{(MODELS, f"test_{way}_delete"): READ_ONLY for way in EACH_WAY},
}
# These check the SDK's own arguments and never send a request: they say nothing about a server.
CLIENT_ONLY = re.compile(r"^test_path_params_")

CONFIG = """
providers:
  stub: {{kind: openai, base_url: {url}, retries: 0}}
models:
  gpt-6-astra: {{provider: stub}}
  "ft:gpt-4o-mini:acemeco:suffix:abc123": {{provider: stub}}
"""
KEY = "My API Key"  # the suite's own, spaces and all


@dataclass
class Report:
    """What came of every test, by `file::function[client]`."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)  # failed, as EXPECTED_TO_FAIL says
    # passed, although EXPECTED_TO_FAIL says otherwise
    stale: list[str] = field(default_factory=list)
    client_only: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # entries of EXPECTED_TO_FAIL that no test has
    output: str = ""

    @property
    def good(self) -> bool:
        return bool(self.passed) and not (self.failed or self.stale or self.unknown)

    def __str__(self) -> str:
        lines = [
            f"openai {version('openai')}: {len(self.passed)} passed, {len(self.failed)} failed, "
            f"{len(self.excused)} excused, {len(self.client_only)} ask no server"
        ]
        for title, names in (
            ("failed", self.failed),
            ("stale exclusion", self.stale),
            ("no such test", self.unknown),
        ):
            lines += [f"  {title}: {name}" for name in names]
        for reason in dict.fromkeys(EXPECTED_TO_FAIL.values()):
            lines.append(f"  excused: {reason}")
        return "\n".join(lines)


def suite() -> Path:
    """The folder of the unpacked source distribution, fetched when it is not there yet."""
    name = f"openai-{version('openai')}"
    folder, archive = HOME / name, HOME / f"{name}.tar.gz"
    if (folder / "tests" / "conftest.py").is_file():
        return folder
    HOME.mkdir(exist_ok=True)
    if not archive.is_file():
        options = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary",
            "openai",
            "--dest",
            str(HOME),
        ]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, name.replace("-", "==")], check=True
        )
    with tempfile.TemporaryDirectory(dir=HOME) as scratch, tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
        (Path(scratch) / name).rename(folder)  # at once, so that a broken run leaves no half of it
    return folder


def run() -> Report:
    """The whole suite against a server of its own."""
    folder = suite()
    with (
        ScriptedUpstream() as upstream,
        chattable(CONFIG.format(url=upstream.url)) as server,
        tempfile.TemporaryDirectory() as scratch,
    ):
        server.user_key("tester", key=KEY)
        seeds = environment(
            f"sqlite:///{server.directory}/chattable.db",
            server.admin("GET", "/admin/users/tester")["id"],
        )
        results = Path(scratch) / "results.xml"
        options = [
            "-q",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--timeout=60",
            f"--junitxml={results}",
        ]
        options += ["-p", "compat.seeding"]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OPENAI_", "PYTEST_", "PYTHONPATH"))
        }
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *FILES],
            cwd=folder,
            env=inherited
            | {"TEST_API_BASE_URL": f"{server.base_url}/v1", "PYTHONPATH": str(TESTS)}
            | dict(seeds),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        if not results.is_file():
            raise RuntimeError(
                f"openai's suite did not run:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            )
        return judge(ElementTree.parse(results).getroot(), done.stdout)


def judge(results: ElementTree.Element, output: str) -> Report:
    """What a run's JUnit file says, held against what is expected."""
    report, seen = Report(output=output), set()
    for case in results.iter("testcase"):
        file = case.get("classname", "").rpartition(".Test")[0].replace(".", "/") + ".py"
        name = case.get("name", "")
        function = name.partition("[")[0]
        seen.add((file, function))
        asynchronous = "TestAsync" in case.get("classname", "")
        full = f"{file}::{'async ' if asynchronous else ''}{name}"
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        excused = (file, function) in EXPECTED_TO_FAIL
        if passed and CLIENT_ONLY.match(function):
            report.client_only.append(full)
        elif passed:
            (report.stale if excused else report.passed).append(full)
        else:
            (report.excused if excused else report.failed).append(full)
    report.unknown = [
        f"{file}::{function}" for file, function in EXPECTED_TO_FAIL if (file, function) not in seen
    ]
    return report
