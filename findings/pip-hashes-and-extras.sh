#!/usr/bin/env bash
# A lock file with hashes pins every package of the set, `engine==1.0` among them. Another of the
# packages asks for `engine[fast]`. Does pip install the set?
#
# One would expect: yes, today as on the day it was locked: engine is pinned, with its hash.
# What happens: pip 23.2.1, which comes with CPython 3.11, installs it for as long as 1.0 is the
# newest engine. The day engine 1.1 is published, the same file on the same machine is refused
# ("all requirements must have their versions pinned with =="), for pip takes engine[fast] for a
# requirement of its own that nobody has pinned. From pip 23.3 on it is installed on both days. A
# pin written as engine[fast]==1.0 works with every pip, on both days.
# Why a gateway's user cares: an installation that was green last week fails without a change of
# yours, and only with an older pip. Pins have to carry the extras that the set asks for.
#
# 2026-11-30, the versions pinned below; the packages are made here and come from a folder.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat >wheels.py <<'PY'
import base64, hashlib, sys, zipfile

def wheel(name, version, *metadata):
    path, info = f"shelf/{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]
    files = {
        f"{name}.py": f"version = '{version}'\n",
        f"{info}/METADATA": "\n".join(lines),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return hashlib.sha256(open(path, "rb").read()).hexdigest()

gateway = wheel("gateway", "1.0", "Requires-Dist: engine[fast]")
engine = wheel("engine", "1.0", "Provides-Extra: fast")
for name, pin in ("plain", "engine==1.0"), ("extra", "engine[fast]==1.0"):
    with open(f"{name}.lock", "w") as lock:
        lock.write(f"gateway==1.0 --hash=sha256:{gateway}\n{pin} --hash=sha256:{engine}\n")
if "newer" in sys.argv:
    wheel("engine", "1.1", "Provides-Extra: fast")
PY
mkdir shelf
python3 -m venv venv
for pip in 23.2.1 23.3; do
  venv/bin/pip install -qq --no-compile --target "pip-$pip" "pip==$pip"
done
for day in before newer; do
  python3 wheels.py $day
  for pip in 23.2.1 23.3; do
    for lock in plain extra; do
      rm -rf target
      PYTHONPATH="pip-$pip" venv/bin/python -m pip --isolated install -qq --no-index \
        --find-links shelf --require-hashes --target target -r $lock.lock 2>errors &&
        said=installed || said=$(head -1 errors | cut -d, -f1)
      echo "$day, pip $pip, $lock pin: $said"
    done
  done
done | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
before, pip 23.2.1, plain pin: installed
before, pip 23.2.1, extra pin: installed
before, pip 23.3, plain pin: installed
before, pip 23.3, extra pin: installed
newer, pip 23.2.1, plain pin: ERROR: In --require-hashes mode
newer, pip 23.2.1, extra pin: installed
newer, pip 23.3, plain pin: installed
newer, pip 23.3, extra pin: installed
END
