#!/usr/bin/env python3
"""Writes docs/access.md from charts/gridstake/tests/access.csv, which the story story_40_access asks a cluster about, cell by cell.

    access_page.py             write it
    access_page.py --check     fail if it differs from what it should be
"""

import csv
import pathlib
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
TABLE = CHECKOUT / "charts/gridstake/tests/access.csv"
PAGE = CHECKOUT / "docs/access.md"
PLACES = {
    "own": "In the tenant's own namespace",
    "other": "In another tenant's namespace",
    "release": "In the release's namespace",
    "cluster": "In the whole cluster",
}
HEAD = """# Who may do what

What RBAC grants to whom, with the chart's default values. `charts/access_page.py` writes this page from
`charts/gridstake/tests/access.csv`; the story `story_40_access` asks a real cluster about every cell and every verb, as
`kubectl auth can-i` does: what is not named is refused. The admission policies narrow it further, to single objects and fields
([POLICIES.md](../charts/gridstake/POLICIES.md)).

| who | is |
|---|---|
| operator, agent, simulation | the ServiceAccounts `gridstake-operator`, `gridstake-device-agent` and `gridstake-simulated-gpus` of the release's namespace |
| provider, viewer, auditor | who is bound to `gridstake-provider`, `gridstake-viewer` or `gridstake-auditor` by a ClusterRoleBinding |
| tenant, tenant-view | who has Kubernetes' own `edit` or `view` in one namespace, by a RoleBinding |
| cluster-view | who has Kubernetes' own `view` in the whole cluster, by a ClusterRoleBinding |
| anybody | everybody else who is logged in |

"read" is get, list and watch; "-" is nothing; "?" is what Kubernetes' own roles give, which no part of Gridstake changes.
"""


def page():
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    people = [key for key in rows[0] if key not in ("place", "resource", "name")]
    parts = [HEAD]
    for place, title in PLACES.items():
        lines = [f"| resource | {' | '.join(people)} |", "|---|" + "---|" * len(people)]
        for row in rows:
            if row["place"] != place:
                continue
            name = f" {row['name']}" if row["name"] else ""
            cells = [", ".join(row[who].split()) for who in people]
            lines.append(f"| `{row['resource']}`{name} | {' | '.join(cells)} |")
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    if unknown := {row["place"] for row in rows} - PLACES.keys():
        sys.exit(f"access_page.py: places {unknown} in access.csv; there are {', '.join(PLACES)}")
    return "\n".join(parts)


if "--check" in sys.argv[1:]:
    if not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("access_page.py: docs/access.md is not what access.csv gives; run charts/render.sh")
else:
    PAGE.write_text(page())
