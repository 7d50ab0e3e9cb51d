#!/usr/bin/env python3
"""Holds the table of threats in docs/security.md to the tests: each line names at least one, and each that is named exists. Prints
what does not fit and ends with 1.
"""

import pathlib
import re
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
RUST = ["crds", "ledger", "operator", "device-agent", "kubectl-gridstake", "e2e"]


def tests() -> set[str]:
    """The names of all tests: functions after an attribute that says so, and the contracts' by their names."""
    found = set()
    for folder in RUST:
        for path in (CHECKOUT / folder).rglob("*.rs"):
            # Attributes and comments may stand between.
            found.update(re.findall(r"#\[(?:tokio::)?test[^\]]*\]\s*(?:(?:#\[[^\]]*\]|//[^\n]*)\s*)*(?:async )?fn (\w+)\(", path.read_text()))
    for path in (CHECKOUT / "contracts/test").glob("*.sol"):
        found.update(re.findall(r"function ((?:test|invariant)\w*)\(", path.read_text()))
    return found


def rows() -> list[list[str]]:
    """The lines of the table, without its head."""
    section = (CHECKOUT / "docs/security.md").read_text().split("\n## Threats\n")[1].split("\n## ")[0].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| threat ")]


def main() -> None:
    known, mistakes, named = tests(), [], 0
    found = rows()
    if len(found) < 10:
        mistakes.append(f"the table has {len(found)} lines; it cannot be read")
    for cells in found:
        if len(cells) != 3:
            mistakes.append(f"{cells[0]}: {len(cells)} cells; 3 are expected")
            continue
        names = [name for name in re.findall(r"`(\w+)`", cells[2])]
        named += len(names)
        if not names:
            mistakes.append(f"{cells[0]}: no test is named")
        mistakes += [f"{cells[0]}: there is no test {name}" for name in names if name not in known]
    if mistakes:
        sys.exit("docs/security.md, Threats:\n" + "\n".join(mistakes))
    print(f"{len(found)} threats, {named} tests named, all of them there")


if __name__ == "__main__":
    main()
