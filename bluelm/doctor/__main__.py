"""The command: one line a finding, or JSON. Ends with 1 where there is a fault, 2 for a wrong argument."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from bluelm.doctor import Check, Finding, Level, look, machine, setting

CHECKS: list[Check] = [
    machine.python, machine.packages, machine.torch, machine.cards, machine.triton,
    setting.settings, setting.demo_model, setting.model, setting.data_folder, setting.port, setting.addresses,
]  # fmt: skip
MARKS = {Level.OK: "ok   ", Level.NOTE: "note ", Level.FAULT: "FAULT"}


def line(finding: Finding) -> str:
    cure = f" -> {finding.cure}" if finding.cure else ""
    return f"{MARKS[finding.level]}  {finding.about}: {' '.join(finding.found.split())}{cure}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bluelm.doctor", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="findings as a JSON list")
    as_json = parser.parse_args().json
    findings = look(CHECKS)
    faults = sum(finding.level is Level.FAULT for finding in findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=1))
    else:
        print(*map(line, findings), sep="\n")
        print(f"{faults} fault(s): the app needs what is named above." if faults else "Nothing stands in the way.")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
