"""Writes the answers of the present server to `requests/*.yaml` down: `make record`.

    python tests/replay/record.py [GROUP ...]

What it writes is what `test_replay.py` holds every later server to: read the difference before it
is committed.
"""

import argparse

from played import SETUPS, flat, group, played, recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("groups", nargs="*", help="default: all")
    wanted = parser.parse_args().groups
    for setup, found in SETUPS.items():
        if wanted and not set(wanted) & set(found["groups"]):
            continue
        for name, text in played(setup).items():
            if not wanted or name in wanted:
                recording(name).write_text(text)
                print(f"{name}: {len(list(flat(group(name))))} requests")


if __name__ == "__main__":
    main()
