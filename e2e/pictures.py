#!/usr/bin/env python3
"""Draws the chart's dashboards from the data of a Prometheus: docs/pictures/DASHBOARD.svg.

    pictures.py FOLDER [OUT]

FOLDER is what the story story_46_seen leaves: `prometheus` in the folder of its world. A Prometheus (PROMETHEUS, default
.build/bin/prometheus) is started on a copy of its data, and asked the panels' own queries over all of its time. It is no Grafana: of a
panel it takes title, unit, place and queries, and draws lines, or the last value.
"""

import contextlib
import html
import json
import math
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
DASHBOARDS = CHECKOUT / "charts/gridstake/files/dashboards"
PROMETHEUS = os.environ.get("PROMETHEUS", CHECKOUT / ".build/bin/prometheus")
INTERVAL = 2  # seconds between scrapes, as in e2e/src/prometheus.rs
POINTS = 160  # of a line
COLUMN, ROW, GAP, TOP = 50, 26, 4, 34  # pixels of a grid's unit, between panels, and above them
LINES = 3  # of a legend's column
COLOURS = ["#3572b0", "#d9822b", "#4a9c5d", "#c0453e", "#7e63b5", "#8a6d3b", "#c86aa8", "#5f6b76", "#a8a13c", "#3aa5b0"]


class Server:
    """A Prometheus that only answers."""

    def __init__(self, data):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.folder = pathlib.Path(tempfile.mkdtemp())
        shutil.copytree(data, self.folder / "data", ignore=shutil.ignore_patterns("lock"))
        (self.folder / "none.yaml").write_text("{}")
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [PROMETHEUS, f"--config.file={self.folder}/none.yaml", f"--storage.tsdb.path={self.folder}/data",
                 "--storage.tsdb.retention.time=10y", f"--web.listen-address={self.address}"], stdout=log, stderr=log)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)

    def get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.address}{path}?{query}", timeout=30) as answer:
            return answer.read()

    def until_ready(self):
        while True:
            if self.process.poll() is not None:
                sys.exit((self.folder / "log").read_text())
            with contextlib.suppress(urllib.error.URLError):
                self.get("/-/ready")
                return
            time.sleep(0.1)

    def ask(self, path, **parameters):
        return json.loads(self.get(path, **parameters))["data"]

    def span(self):
        """From when to when there is data, in Unix seconds."""
        head = self.ask("/api/v1/status/tsdb")["headStats"]
        return head["minTime"] / 1000, head["maxTime"] / 1000


def filled_in(expression, step):
    """The query with Grafana's variables filled in, where everything is chosen."""
    rate = max(4 * INTERVAL, math.ceil(step) + INTERVAL)
    return expression.replace("$__rate_interval", f"{rate}s").replace("$chain", ".*").replace("$node", ".*")


def name_of(legend, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend).strip()


def with_unit(value, unit):
    """A number as people read it."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
            if abs(value) < 1024 or prefix == "Ti":
                return f"{value:.3g} {prefix}B"
            value /= 1024
    if unit == "s" and 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    end = {"s": " s", "ops": "/s", "watt": " W", "celsius": " °C", "joule": " J"}.get(unit, "")
    if abs(value) >= 10000:
        for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {prefix}{end.strip()}"
    return f"{value:.3g}{end}" if abs(value) < 1000 else f"{value:.0f}{end}"


def ticks(low, high):
    """Round numbers from low to high, both included."""
    raw = (high - low or abs(high) or 1) / 3
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def text(x, y, words, size=11, colour="#4b535c", anchor="start", weight="normal"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{html.escape(words)}</text>')


def clipped(words, width, size=10):
    most = max(int(width / (size * 0.56)), 4)
    return words if len(words) <= most else words[: most - 1] + "…"


def series_of(server, panel, span, step):
    """Every series of a panel: its name, and its points."""
    found = []
    for target in panel["targets"]:
        answer = server.ask("/api/v1/query_range", query=filled_in(target["expr"], step), start=span[0], end=span[1], step=step)
        for series in answer["result"]:
            points = [(moment, float(value)) for moment, value in series["values"] if value != "NaN"]
            if points:
                found.append((name_of(target["legendFormat"], series["metric"]), points))
    return found


def draw_stat(series, unit, x, y, width, height):
    """The last values, each with its name where there are several."""
    if not series:
        return [text(x + width / 2, y + height / 2 + 12, "none", 20, anchor="middle")]
    if len(series) == 1:
        name, points = series[0]
        return [text(x + width / 2, y + height / 2 + 16, with_unit(points[-1][1], unit), 30, "#2f7d4f", "middle", "bold"),
                text(x + width / 2, y + height - 9, clipped(name, width), 10, anchor="middle")]
    parts = []
    for index, (name, points) in enumerate(series[:3]):
        parts.append(text(x + 12, y + 42 + 18 * index, clipped(f"{name}: {with_unit(points[-1][1], unit)}", width, 13), 13))
    return parts


def line(points, at, step):
    """A path; points in the midst of a level stretch are left out."""
    kept = []
    for index, point in enumerate(points):
        gap = index > 0 and point[0] - points[index - 1][0] > 1.5 * step
        level = 0 < index < len(points) - 1 and points[index - 1][1] == point[1] == points[index + 1][1]
        near = level and points[index + 1][0] - point[0] <= 1.5 * step
        if gap or not near:
            kept.append((gap or index == 0, *at(*point)))
    return "".join(f"{'M' if begins else 'L'}{x:.1f} {y:.1f}" for begins, x, y in kept)


def draw_lines(series, panel, span, step, x, y, width, height):
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    # Those that move first; many lines at 0 say one thing.
    series = sorted(series, key=lambda one: (-max(value for _, value in one[1]), one[0]))
    level = [one for one in series if all(value == 0 for _, value in one[1])]
    legend = [one for one in series if one not in level] or level[:1]
    columns = 2 if width > 450 else 1
    shown = legend[: LINES * columns]
    words = [(name, COLOURS[index % len(COLOURS)]) for index, (name, _) in enumerate(shown)]
    rest = len(legend) - len(shown)
    zero = len(level) - (1 if legend and legend[0] in level else 0)
    more = ", ".join(([f"{rest} more"] if rest else []) + ([f"{zero} at 0"] if zero else []))
    entries = len(words) + (1 if more else 0)
    below = 14 * math.ceil(entries / columns) + 8
    left, right, top, bottom = x + 58, x + width - 12, y + 34, y + height - below - 18
    values = [value for _, points in series for _, value in points if math.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    if "min" in defaults:
        low = min(defaults["min"], low)
    size = 1024 ** int(math.log(high, 1024)) if unit == "bytes" and high > 1 else 1
    marks = [size * mark for mark in ticks(low / size, (high if high > low else low + 1) / size)]
    low, high = marks[0], marks[-1]
    total = span[1] - span[0]

    def at(moment, value):
        return left + (moment - span[0]) / total * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    parts = []
    for mark in marks:
        height_of = at(span[0], mark)[1]
        parts.append(f'<path d="M{left:.0f} {height_of:.1f}H{right:.0f}" stroke="#e3e6ea"/>')
        parts.append(text(left - 5, height_of + 4, with_unit(mark, unit), 10, anchor="end"))
    minutes = next(size for size in (1, 2, 5, 10, 30, 60, 240, 1440) if total / 60 / size <= 7)
    for index in range(int(total / 60 / minutes) + 1):
        moment = span[0] + index * minutes * 60
        parts.append(text(at(moment, low)[0], bottom + 13, f"{index * minutes} min", 9, "#8a929b", "middle"))
    for index, (_, points) in reversed(list(enumerate(shown + [one for one in series if one not in shown]))):
        colour = COLOURS[index % len(COLOURS)] if index < len(shown) else "#b9bfc6"
        finite = [(moment, value) for moment, value in points if math.isfinite(value)]
        parts.append(f'<path d="{line(finite, at, step)}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linejoin="round"/>')
    each = (width - 20) / columns
    for index, (name, colour) in enumerate([*words, *([(more, None)] if more else [])]):
        at_x = x + 12 + each * (index % columns)
        at_y = y + height - below + 12 + 14 * (index // columns)
        if colour:
            parts.append(f'<path d="M{at_x:.0f} {at_y - 4:.0f}h12" stroke="{colour}" stroke-width="3"/>')
        parts.append(text(at_x + 17, at_y, clipped(name, each - 20), 10))
    return parts


def draw(server, dashboard, span):
    step = max((span[1] - span[0]) / POINTS, INTERVAL)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    width, height = 24 * COLUMN + 2 * GAP, bottom * ROW + TOP + 2 * GAP
    parts = [f'<rect width="{width}" height="{height}" fill="#f3f5f7"/>',
             text(12, 23, dashboard["title"], 16, "#20262d", weight="bold")]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN + GAP, place["y"] * ROW + TOP
        wide, high = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        if panel["type"] == "row":
            parts.append(text(x + 8, y + 16, panel["title"], 13, "#20262d", weight="bold"))
            continue
        parts.append(f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="3" fill="#fff" stroke="#d8dde2"/>')
        parts.append(text(x + 12, y + 19, clipped(panel["title"], wide - 10, 12), 12, "#20262d", weight="bold"))
        series = series_of(server, panel, span, step)
        if panel["type"] == "stat":
            parts += draw_stat(series, panel["fieldConfig"]["defaults"]["unit"], x, y, wide, high)
        elif series:
            parts += draw_lines(series, panel, span, step, x, y, wide, high)
        else:
            print(f"{dashboard['title']}: {panel['title']}: no series", file=sys.stderr)
            parts.append(text(x + wide / 2, y + high / 2, "none", 14, anchor="middle"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="Inter, Helvetica, Arial, sans-serif">\n' + "\n".join(parts) + "\n</svg>\n")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else CHECKOUT / "docs/pictures"
    out.mkdir(parents=True, exist_ok=True)
    server = Server(pathlib.Path(sys.argv[1]) / "data")
    try:
        server.until_ready()
        span = server.span()
        if span[1] <= span[0]:
            sys.exit(f"{sys.argv[1]} holds no data")
        for path in sorted(DASHBOARDS.glob("*.json")):
            picture = draw(server, json.loads(path.read_text()), span)
            (out / f"{path.stem}.svg").write_text(picture)
            print(f"{path.stem}.svg: {len(picture) // 1024} KiB, of {(span[1] - span[0]) / 60:.0f} minutes")
    finally:
        server.close()


if __name__ == "__main__":
    main()
