#!/usr/bin/env python3
"""Writes docs/values.md: every value of the chart gridstake with its type, its default and what values.yaml says of it.

    values_page.py             write it
    values_page.py --check     fail if it differs from what it should be

A value without a comment, one that the schema does not know, and one of the schema that values.yaml does not show are mistakes.
values.yaml is read by lines, for its comments: block style, two spaces a level, lists as `- item` in one line.
"""

import json
import pathlib
import re
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
CHART = CHECKOUT / "charts/gridstake"
PAGE = CHECKOUT / "docs/values.md"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
HEAD = """# Values of the chart gridstake

`charts/values_page.py` writes this page from `charts/gridstake/values.yaml` and `values.schema.json`; the schema refuses every other
key and type. How the values work together is told in [install.md](install.md). `global` is let through for charts that include
this one, and nothing reads it.
"""
mistakes = []


class Value:
    """A key of a YAML file with what is said of it."""

    def __init__(self, key, indent, text, comment):
        self.key, self.indent, self.text, self.comment = key, indent, text, comment
        self.children, self.items = [], []

    def default(self):
        """Gives what stands there in flow style."""
        if self.items:
            return "[" + ", ".join(self.items) + "]"
        if self.children:
            return "{" + ", ".join(f"{child.key}: {child.default()}" for child in self.children) + "}"
        return self.text


def parse(lines):
    """Gives the keys of the outermost level, each with those below it."""
    root = Value("", -1, "", [])
    path, comment = [root], []
    for line in lines:
        stripped = line.strip()
        if not stripped:
            comment = []
            continue
        if stripped.startswith("#"):
            comment.append(stripped[1:].removeprefix(" "))
            continue
        indent = len(line) - len(line.lstrip())
        while path[-1].indent >= indent:
            path.pop()
        if stripped.startswith("- ") and not re.match(r"- [A-Za-z]+: ", stripped):
            path[-1].items.append(stripped[2:])
            continue
        if stripped.startswith("- "):  # the first key of an entry: the others stand below it
            indent, stripped = indent + 2, stripped[2:]
        key, text, trailing = re.fullmatch(r"([^:\s]+):\s*(.*?)\s*(?:\s#\s*(.*))?", stripped).groups()
        if trailing:
            comment.append(trailing)
        value = Value(key, indent, text, comment)
        path[-1].children.append(value)
        path.append(value)
        comment = []
    return root.children


def resolved(schema):
    while "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        schema = {"name": name, **SCHEMA["definitions"][name], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def is_section(schema):
    """Whether the values below it have lines of their own."""
    return bool(schema.get("properties")) and "title" not in schema


def type_of(schema):
    """Says in words what the schema lets through."""
    schema = resolved(schema)
    if "title" in schema:
        return schema["title"]
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "oneOf" in schema:
        return " or ".join(type_of(one) for one in schema["oneOf"])
    if "allOf" in schema:
        return type_of(schema["allOf"][0])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of: {type_of(schema['items'])}"
    if kind == "object" and schema.get("properties"):
        return "map with " + ", ".join(f"`{key}`" for key in schema["properties"])
    text = {"object": "map", "boolean": "true or false"}.get(kind, kind)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        text += f", {low} to {high}"
    elif low is not None:
        text += f", {low} or more"
    if description := schema.get("description"):
        text += f"; {description}"
    elif pattern := schema.get("pattern"):
        text += f" like `{pattern}`"
    return text


def cell(text):
    return text.replace("|", "\\|")


def rows(values, schema, path):
    """Gives the table's lines for the values below `path`."""
    schema = resolved(schema)
    known, required = schema["properties"], schema.get("required", [])
    for key in known.keys() - {value.key for value in values} - {"global"}:
        mistakes.append(f"values.schema.json has {path}{key}; values.yaml does not show it")
    for value in values:
        name = path + value.key
        if value.key not in known:
            mistakes.append(f"values.yaml has {name}; values.schema.json does not know it")
            continue
        below = resolved(known[value.key])
        if is_section(below) and value.children:
            if value.comment:
                yield f"| `{name}` | | | {cell(' '.join(value.comment))} |"
            yield from rows(value.children, below, name + ".")
            continue
        if not value.comment:
            mistakes.append(f"values.yaml says nothing of {name}: write a comment above it")
        default = value.default()
        yield f"| `{name}` | {cell(type_of(known[value.key]))}{', required' if value.key in required else ''} | {f'`{cell(default)}`' if default else ''} | {cell(' '.join(value.comment))} |"


def table(lines, first="value", third="default"):
    return "\n".join([f"| {first} | type | {third} | |", "|---|---|---|---|", *lines])


def chain_entries(comment):
    """Gives what stands in the comment of `chains`: prose, and the example with its table."""
    parts, example, keys = [], [], []

    def end_of_example():
        if example:
            parts.append("```yaml\n" + "\n".join(example) + "\n```")
            keys.extend(example)
            example.clear()

    prose = []
    for line in comment:
        if line.startswith("  "):
            if prose:
                parts.append(" ".join(prose))
                prose = []
            example.append(line[2:])
        elif not line:
            if prose:
                parts.append(" ".join(prose))
                prose = []
        else:
            end_of_example()
            prose.append(line)
    if prose:
        parts.append(" ".join(prose))
    end_of_example()
    entry = [value for value in parse(keys)]
    # `chains:` of the first part, whose entry's keys are below it; those of the second part follow.
    entry = [key for value in entry for key in (value.children if value.key == "chains" else [value])]
    schema = SCHEMA["definitions"]["chain"]
    return "\n\n".join([*parts, table(rows(entry, schema, "chains[]."), third="in the example")])


def page():
    sections, general = [], []
    values = parse((CHART / "values.yaml").read_text().splitlines())
    for key in SCHEMA["properties"].keys() - {value.key for value in values} - {"global"}:
        mistakes.append(f"values.schema.json has {key}; values.yaml does not show it")
    for value in values:
        schema = SCHEMA["properties"].get(value.key)
        if schema is None:
            mistakes.append(f"values.yaml has {value.key}; values.schema.json does not know it")
        elif value.key == "chains":
            sections.append(f"## chains\n\n{chain_entries(value.comment)}")
        elif value.children and is_section(resolved(schema)):
            intro = " ".join(value.comment)
            lines = rows(value.children, schema, value.key + ".")
            sections.append(f"## {value.key}\n\n" + (intro + "\n\n" if intro else "") + table(lines))
        else:
            general.append(value)
    lines = [line for line in rows_of(general)]
    return HEAD + "\n" + "\n\n".join([*sections, "## Others\n\n" + table(lines)]) + "\n"


def rows_of(values):
    only = {"properties": {value.key: SCHEMA["properties"][value.key] for value in values}}
    return rows(values, only, "")


if __name__ == "__main__":
    text = page()
    for mistake in mistakes:
        print(f"values_page.py: {mistake}", file=sys.stderr)
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit("values_page.py: docs/values.md is not what values.yaml and its schema give; run charts/render.sh")
    else:
        PAGE.write_text(text)
    sys.exit(1 if mistakes else 0)
