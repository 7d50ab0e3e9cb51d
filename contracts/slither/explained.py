#!/usr/bin/env python3
"""Compares slither's findings with the committed explanations.

explained.txt: paragraphs of a head line `detector  place  hash` and then the reason, indented. The hash is of slither's
description without file names and line numbers, so an explanation holds until what was found changes, and code can move.
Usage: explained.py FOUND.json EXPLAINED.txt [--write]
"""

import hashlib
import json
import pathlib
import re
import sys


def findings(report: dict) -> dict[str, str]:
    """Head line of each finding, and slither's words for it."""
    found = {}
    for finding in report["results"].get("detectors", []):
        words = re.sub(r" \([^()]*\.sol#[0-9-]+(#[0-9-]+)?\)", "", finding["description"])
        words = re.sub(r"[^\s()]*\.sol#[0-9-]+", "", words)
        words = " ".join(words.split())
        element = finding["elements"][0] if finding["elements"] else {}
        parent = element.get("type_specific_fields", {}).get("parent", {})
        place = element.get("name", "-")
        while parent.get("type") in ("function", "contract"):
            place = f"{parent['name']}.{place}"
            parent = parent.get("type_specific_fields", {}).get("parent", {})
        if element.get("type") == "node":
            place = place.rsplit(".", 1)[0]
        head = f"{finding['check']}  {place}  {hashlib.sha256(words.encode()).hexdigest()[:8]}"
        found[head] = words
    return found


def explanations(text: str) -> dict[str, str]:
    """Head line to reason."""
    explained: dict[str, str] = {}
    head = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith(" "):
            explained[head] = f"{explained[head]} {line.strip()}".strip()
        else:
            head = line.strip()
            explained[head] = ""
    return explained


def main() -> int:
    found = findings(json.loads(pathlib.Path(sys.argv[1]).read_text()))
    file = pathlib.Path(sys.argv[2])
    text = file.read_text() if file.exists() else ""
    explained = explanations(text)
    if "--write" in sys.argv:
        heading = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
        body = "\n".join(
            f"{head}\n    {explained.get(head) or f'TODO: {words}'}\n" for head, words in sorted(found.items())
        )
        file.write_text(f"{heading}\n{body}")
        return 0
    unexplained = [head for head in found if not explained.get(head) or explained[head].startswith("TODO")]
    stale = [head for head in explained if head not in found]
    for head in unexplained:
        print(f"not explained: {head}\n    {found[head]}")
    for head in stale:
        print(f"explained, but not found any more: {head}")
    print(f"slither findings={len(found)} explained={len(found) - len(unexplained)} stale={len(stale)}")
    return int(bool(unexplained or stale))


if __name__ == "__main__":
    sys.exit(main())
