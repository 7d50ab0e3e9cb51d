#!/usr/bin/env python3
"""Checks the roles among rendered manifests: each rule has its reason as a comment right above it, none has a wildcard, and none
gives what nothing of ours may ever have. Prints what does not fit and ends with 1.

    role_reasons.py FILE...      as `helm template` and charts/render.sh write them: comments and all
"""

import pathlib
import re
import sys

# Of these, a single one is as much as the whole cluster, or another tenant's secrets.
NEVER = {"secrets", "pods/exec", "pods/attach", "pods/ephemeralcontainers", "nodes/proxy", "serviceaccounts/token", "roles",
         "clusterroles", "rolebindings", "clusterrolebindings", "escalate", "bind", "impersonate"}
RULE = re.compile(r"( *)- (apiGroups|nonResourceURLs|resources|verbs|resourceNames):")
mistakes, seen = set(), set()


def check(text):
    """Checks one document."""
    kind = re.search(r"^kind: (Role|ClusterRole)$", text, re.MULTILINE)
    rules = re.search(r"^rules:.*", text, re.MULTILINE | re.DOTALL)
    if not kind:
        return
    name = f"{kind.group(1)} {re.search(r'^  name: (.*)$', text, re.MULTILINE).group(1)}"
    if not rules:
        if "\naggregationRule:" not in text:
            mistakes.add(f"{name} has neither rules nor aggregationRule")
        return
    lines = rules.group().splitlines()
    for number, line in enumerate(lines):
        if line.lstrip().startswith("#"):
            continue
        if start := RULE.match(line):
            seen.add((name, number))
            if not re.match(start.group(1) + r"# .*\S[.:]$", lines[number - 1]):
                mistakes.add(f"{name}: a rule without its reason as a comment right above it: {line.strip()}")
        if "*" in line:
            mistakes.add(f"{name} has a wildcard: {line.strip()}")
        for word in re.findall(r"[a-z]+(?:/[a-z]+)?", line):
            if word in NEVER:
                mistakes.add(f"{name} gives {word}")


for path in sys.argv[1:]:
    for document in re.split(r"^---$", pathlib.Path(path).read_text(), flags=re.MULTILINE):
        check(document)
for mistake in sorted(mistakes):
    print(f"role_reasons.py: {mistake}", file=sys.stderr)
if not seen:
    sys.exit("role_reasons.py: there is no rule in what was given")
if not mistakes:
    print(f"charts: {len({name for name, _ in seen})} roles, each rule with its reason")
sys.exit(1 if mistakes else 0)
