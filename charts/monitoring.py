#!/usr/bin/env python3
"""Holds together what is measured and what is said of it: the code's metrics, docs/metrics.md, the alerts and their tests,
the runbook, and the dashboards. Prints what does not fit and ends with 1.

    monitoring.py PANELS <DOCUMENTS

DOCUMENTS are charts/gridstake/files/alerts.yaml and its tests as JSON, one a line; other lines are skipped. PANELS gets a file of
rules with every dashboard's queries, for promtool to parse.
"""

import json
import pathlib
import re
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
CHART = CHECKOUT / "charts/gridstake"
CODE = {"operator": CHECKOUT / "operator/src", "agent": CHECKOUT / "device-agent/src"}
# Labels that Prometheus adds to what it scrapes; `node` by the chart's ServiceMonitor.
OF_TARGETS = {"job", "instance", "node"}
NAME = r"gridstake_[a-z0-9_]+"
mistakes = []


def mistake(text):
    mistakes.append(text)


def registered():
    """What the code registers: name -> (where it is, whether it is a histogram, labels that stand beside its name, the file's
    text)."""
    found = {}
    for part, folder in CODE.items():
        for path in sorted(folder.rglob("*.rs")):
            if path.stem == "tests" or path.stem.endswith("_tests"):
                continue
            text = re.split(r"#\[cfg\(test\)\]\nmod \w+ \{", path.read_text())[0]
            for match in re.finditer(rf'(HistogramOpts::new\(\s*)?"({NAME})"', text):
                # The call goes on with the help text and, if there are any, labels: an array, or one for counters_by.
                rest = re.match(r'\s*,\s*"[^"]*"\s*,?\s*\)?\s*,?\s*(&\[[^\]]*\]|"[a-z_]+")?', text[match.end():])
                labels = re.findall(r'"([a-z_]+)"', rest.group(1) or "") if rest else []
                found[match.group(2)] = (part, match.group(1) is not None, labels, path, text)
    return found


def documented():
    """The tables of docs/metrics.md: name -> (part, type, labels, uses as they are written)."""
    found, part = {}, None
    for line in (CHECKOUT / "docs/metrics.md").read_text().splitlines():
        if heading := re.fullmatch(r"## The (operator|agent).*", line):
            part = heading.group(1)
        row = re.match(rf"\| `({NAME})` \|", line)
        if not row:
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 6:
            mistake(f"docs/metrics.md: the row of {row.group(1)} has {len(cells)} cells; 6 are expected")
        elif row.group(1) in found:
            mistake(f"docs/metrics.md has two rows of {row.group(1)}")
        else:
            found[row.group(1)] = (part, cells[1], set(re.findall(r"`([a-z_]+)`", cells[2])), cells[5])
    return found


def compare_page_with_code(page, code):
    for name in sorted(code.keys() - page.keys()):
        mistake(f"{name} is registered in {code[name][3].relative_to(CHECKOUT)}, and docs/metrics.md has no row of it")
    for name in sorted(page.keys() - code.keys()):
        mistake(f"docs/metrics.md has a row of {name}, which no code registers")
    for name in sorted(page.keys() & code.keys()):
        (part, sort, labels, _), (in_code, histogram, beside, path, text) = page[name], code[name]
        expected = "histogram" if histogram else "counter" if name.endswith("_total") else "gauge"
        if sort != expected:
            mistake(f"docs/metrics.md: {name} is a {expected}, not a {sort}")
        if part != in_code:
            mistake(f"docs/metrics.md: {name} is the {in_code}'s, and stands among those of the {part}")
        for label in sorted(set(beside) - labels):
            mistake(f"docs/metrics.md: {name} has the label {label}, which its row lacks")
        for label in sorted(labels):
            if f'"{label}"' not in text:
                mistake(f"docs/metrics.md: {name} cannot have the label {label}: {path.relative_to(CHECKOUT)} does not name it")


def metrics_of(expression, where, page, legend=""):
    """The documented metrics in an expression; says where it names others, or labels that they do not have."""
    used, known, grouped = set(), set(OF_TARGETS), set()
    for match in re.finditer(rf"\b({NAME})(\{{[^}}]*\}})?", expression):
        name = match.group(1)
        base = name
        if name not in page and name.endswith(("_bucket", "_sum", "_count")):
            base = name.rsplit("_", 1)[0]
            if page.get(base, ("", ""))[1] == "histogram":
                known.add("le")
        if base not in page:
            mistake(f"{where} names {name}, which docs/metrics.md does not have")
            continue
        used.add(base)
        known |= page[base][2]
        for label in re.findall(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"', match.group(2) or ""):
            if label not in page[base][2] | OF_TARGETS:
                mistake(f"{where} chooses {name} by the label {label}, which it does not have")
    for match in re.finditer(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        grouped |= set(re.findall(r"[a-z_]+", match.group(1)))
    grouped |= set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", legend))
    for label in sorted(grouped - known):
        mistake(f"{where} uses the label {label}, which none of its metrics has")
    return used


def look_at_alerts(rules, tests, page, uses):
    runbook = (CHECKOUT / "docs/runbook.md").read_text()
    headings = set(re.findall(r"^### (Gridstake\w+)$", runbook, re.MULTILINE))
    expectations = {}
    for group in tests:
        for test in group["tests"]:
            for case in test.get("promql_expr_test", []):
                if "exp_samples" not in case:
                    mistake(f"alerts' tests: {test['name']}: exp_samples is missing")
                    continue
                # Whether an alert fires shows in what is expected; one that is absent there and was asked for does not fire.
                asked = set(re.findall(r'alertname="(\w+)"', case["expr"]))
                fires = {name for sample in case["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
                for name in asked:
                    expectations.setdefault(name, set()).add(name in fires)
    names = set()
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        name, annotations = rule["alert"], rule.get("annotations", {})
        where = f"the alert {name}"
        names.add(name)
        words = annotations.get("summary", "") + annotations.get("description", "")
        for metric in metrics_of(rule["expr"], where, page, words):
            uses.setdefault(metric, ([], []))[0].append(name)
        if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
            mistake(f"{where} has no severity, critical or warning")
        for annotation in ("summary", "description"):
            if not annotations.get(annotation):
                mistake(f"{where} has no {annotation}")
        if annotations.get("runbook_url") != f"docs/runbook.md#{name.lower()}":
            mistake(f"{where} must have the runbook_url docs/runbook.md#{name.lower()}")
        if name not in headings:
            mistake(f"docs/runbook.md has no section ### {name}")
        for fires, word in ((True, "firing"), (False, "not firing")):
            if fires not in expectations.get(name, set()):
                mistake(f"{where} has no test in which it is {word}")
    for name in sorted((headings | expectations.keys()) - names):
        mistake(f"there is a section of the runbook or a test about {name}, which is no alert")


def overlap(one, other):
    return (one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
            and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"])


def look_at_dashboard(path, page, uses):
    """Returns its queries as recording rules."""
    dashboard, rules = json.loads(path.read_text()), []
    if dashboard.get("uid") != f"gridstake-{path.stem}":
        mistake(f"{path.name}: the uid must be gridstake-{path.stem}")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if variables.get("datasource", {}).get("query") != "prometheus":
        mistake(f"{path.name} has no variable datasource for Prometheus")
    for variable in variables.values():
        if variable["type"] == "query":
            asked = re.fullmatch(rf"label_values\(({NAME}), ([a-z_]+)\)", variable["query"]["query"])
            if not asked:
                mistake(f"{path.name}: the variable {variable['name']} must be label_values(METRIC, LABEL)")
            else:
                metrics_of(f'{asked.group(1)}{{{asked.group(2)}=""}}', f"{path.name}: the variable {variable['name']}", page)
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        mistake(f"{path.name}: two panels have one id")
    for index, panel in enumerate(panels):
        where = f"{path.name}: the panel {panel['title']!r}"
        if any(overlap(panel["gridPos"], other["gridPos"]) for other in panels[:index]):
            mistake(f"{where} lies on another one")
        if panel["type"] == "row":
            continue
        for part in [panel, *panel["targets"]]:
            if part.get("datasource", {}).get("uid") != "${datasource}":
                mistake(f"{where} does not use the variable datasource")
        for target in panel["targets"]:
            for metric in metrics_of(target["expr"], where, page, target["legendFormat"]):
                uses.setdefault(metric, ([], []))[1].append(path.stem)
            for variable in re.findall(r"\$(\w+)", target["expr"]):
                if variable not in variables and not variable.startswith("__"):
                    mistake(f"{where} uses the variable {variable}, which the dashboard does not have")
            # promtool knows no variables; the others stand in strings.
            expression = target["expr"].replace("$__rate_interval", "5m")
            rules.append({"record": f"panel:{path.stem}:{panel['id']}:{target['refId']}", "expr": expression})
    return {"name": path.stem, "rules": rules}


def compare_uses(page, uses):
    for name, (_, _, _, written) in page.items():
        alerts, dashboards = uses.get(name, ([], []))
        expected = ", ".join([f"`{alert}`" for alert in dict.fromkeys(alerts)] + sorted(set(dashboards))) or "–"
        if written != expected:
            mistake(f"docs/metrics.md: {name} is used by {expected}, not by {written}")


def main():
    documents = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    rules = next(document for document in documents if "groups" in document)
    tests = [document for document in documents if "tests" in document]
    page, code, uses = documented(), registered(), {}
    compare_page_with_code(page, code)
    look_at_alerts(rules, tests, page, uses)
    dashboards = sorted((CHART / "files/dashboards").glob("*.json"))
    groups = [look_at_dashboard(path, page, uses) for path in dashboards]
    compare_uses(page, uses)
    pathlib.Path(sys.argv[1]).write_text(json.dumps({"groups": groups}))
    for text in mistakes:
        print(f"monitoring.py: {text}", file=sys.stderr)
    if mistakes:
        sys.exit(1)
    queries = sum(len(group["rules"]) for group in groups)
    print(f"monitoring: {len(page)} metrics, {sum(len(group['rules']) for group in rules['groups'])} alerts, "
          f"{queries} queries on {len(dashboards)} dashboards")


if __name__ == "__main__":
    main()
