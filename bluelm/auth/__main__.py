"""python -m bluelm.auth NAME: make a key for a program, and say what to write into the key file."""

from __future__ import annotations

import argparse
import re
import sys

from bluelm.auth.keys import digest, new_key


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bluelm.auth", description=__doc__)
    parser.add_argument("name", help="whose key it is: letters, digits, - and _")
    name = parser.parse_args().name
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        sys.exit(f"{name!r} cannot be a name: use up to 64 letters, digits, - and _.")
    key = new_key()
    print(f'# Append to the file that BLUELM_KEYS names:\n[{name}]\nsha256 = "{digest(key)}"')
    print("# requests_per_minute = 60\n# simultaneous = 4\n# max_tokens = 1024")
    print(f"\nThe key of {name}, shown this once: {key}", file=sys.stderr)


if __name__ == "__main__":
    main()
