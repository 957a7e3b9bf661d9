"""The lock files pin whatever a member asks for, so that no later release stops an installation."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from locks import Asked, Pin, for_every_set_of_extras, pins
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
DEV = PYPROJECT["dependency-groups"]["dev"]
DEMANDED_BY_US = {
    "requirements.lock": RUNTIME,
    "requirements-dev.lock": RUNTIME + EXTRAS["sdk"] + EXTRAS["local"] + DEV,
}
both = pytest.mark.parametrize("name", DEMANDED_BY_US)


def read(name: str) -> str:
    return (ROOT / name).read_text()


def in_force(lock: str) -> list[Pin]:
    """The pins that are for this Python on this machine."""
    return [pin for pin in pins(lock) if pin.marker is None or pin.marker.evaluate()]


def installed(pin: Pin) -> Distribution:
    """The pinned release, as it is installed."""
    found = distribution(pin.asked.name)
    assert found.version == pin.version, f"{found.name} is not as pinned: `make .venv/dev` installs"
    return found


def asks(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a package that is installed with these extras asks for this."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def demands(name: str, lock: str) -> list[tuple[str, Asked]]:
    """Who asks for what: we ourselves, and every pinned package with the extras of its pin."""
    asking = [("pyproject.toml", wanted, frozenset[str]()) for wanted in DEMANDED_BY_US[name]]
    for pin in in_force(lock):
        wants = installed(pin).requires or ()
        asking += [(str(pin.asked), wanted, pin.asked.extras) for wanted in wants]
    parsed = [(who, Requirement(wanted), extras) for who, wanted, extras in asking]
    return [(who, Asked.of(wanted)) for who, wanted, extras in parsed if asks(wanted, extras)]


def missing(name: str, lock: str) -> list[str]:
    """Demands without a pin for exactly that name with exactly these extras."""
    there = {pin.asked for pin in in_force(lock)}
    return [f"{who} asks for {what}" for who, what in demands(name, lock) if what not in there]


@both
def test_there_is_a_pin_for_each_set_of_extras_that_a_member_asks_for(name: str) -> None:
    assert missing(name, read(name)) == [], "`make lock` writes the pins that are missing"


@both
def test_an_extra_that_is_taken_out_of_a_pin_is_missed(name: str) -> None:
    """Each extra that is asked for in turn, and each pin without extras beside one with some."""
    lock = read(name)
    with_extras = {pin.asked.name for pin in pins(lock) if pin.asked.extras}
    planted = {what for _, what in demands(name, lock) if what.name in with_extras}
    assert any(what.extras for what in planted)
    for what in planted:
        found = missing(name, "".join(str(pin) for pin in pins(lock) if pin.asked != what))
        assert {line.partition(" asks for ")[2] for line in found} == {str(what)}


def test_every_set_of_extras_is_written_once() -> None:
    rest = "==2 ; python_version > '3' \\\n    --hash=y\n"
    other = "a==1 \\\n    --hash=x\n"
    written = for_every_set_of_extras(f"{other}b[q,p]{rest}")
    assert written == other + "".join(f"{b}{rest}" for b in ("b", "b[p]", "b[q]", "b[p,q]"))
    assert for_every_set_of_extras(written) == written


def test_the_locks_agree_and_name_no_address() -> None:
    runtime, dev = (set(map(str, pins(read(name)))) for name in DEMANDED_BY_US)
    assert runtime < dev
    pin = r"[a-z0-9\[\],-]+==[\w.]+( ; [\w.'<>=! ]+)? \\"
    form = re.compile(pin + r"|    --hash=sha256:[0-9a-f]{64}( \\)?")
    lines = [line for name in DEMANDED_BY_US for line in read(name).splitlines()]
    assert [line for line in lines if not form.fullmatch(line)] == []


@both
def test_pip_installs_a_lock_when_everything_has_a_newer_release(name: str, tmp_path: Path) -> None:
    """With this environment's pip: CI has the oldest that we support, and the newest."""
    lock = []
    for pin in in_force(read(name)):
        stub(tmp_path, installed(pin), "9999")
        digest = stub(tmp_path, installed(pin), pin.version)
        lock.append(f"{pin.asked}=={pin.version} --hash=sha256:{digest}")
    assert refusal(tmp_path, lock) == ""
    without = [line for line in lock if not line.startswith("mako==")]  # alembic asks for it
    assert len(without) == len(lock) - 1
    assert "must have their versions pinned" in refusal(tmp_path, without)


def stub(folder: Path, like: Distribution, version: str) -> str:
    """Writes a wheel that asks for what the distribution asks for; returns its sha256."""
    name = f"{like.name.replace('-', '_')}-{version}"
    lines = [f"Name: {like.name}", f"Version: {version}"]
    for key in ("Requires-Dist", "Provides-Extra"):
        lines += [f"{key}: {value}" for value in like.metadata.get_all(key) or ()]
    files = {
        "METADATA": "\n".join(["Metadata-Version: 2.1", *lines]),
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        for file, text in files.items():
            # with no time in it: the same wheel has the same digest whenever it is written
            made.writestr(zipfile.ZipInfo(f"{name}.dist-info/{file}"), text)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def refusal(wheels: Path, lock: list[str]) -> str:
    """What pip says against installing the lock from these wheels; it installs nothing."""
    requirements = wheels / "requirements.txt"
    requirements.write_text("\n".join(lock))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--no-index", "--find-links", str(wheels)]
    command += ["--require-hashes", "--quiet", "-r", str(requirements)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    env["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return done.stderr if done.returncode else ""
