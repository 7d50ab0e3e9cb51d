#!/usr/bin/env python3
"""Gives the chart gridstake values with every wrong type at every place, and a misspelt key in every object, and fails unless
each is refused at its place. The places are those of values.schema.json, and each default of values.yaml must be one of them
(values_page.py).

    refusals.py HELM

Many mistakes stand in one set of values: helm names all that it finds. `null` is not tried: to Helm it means that a default is
taken away, before the schema is asked.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

CHART = pathlib.Path(__file__).resolve().parent / "gridstake"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
WRONG = {"string": "wrong type", "number": 1.5, "boolean": True, "array": [], "object": {}}
# Only Helm fills it, for charts within charts.
FREE = {"/global"}
NOTHING = object()
mistakes = []


def resolved(schema):
    while isinstance(schema, dict) and "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def types(schema):
    """Gives the types of JSON that may stand at a place."""
    schema = resolved(schema)
    if "oneOf" in schema:
        return set().union(*(types(one) for one in schema["oneOf"]))
    if "allOf" in schema:
        return set.intersection(*(types(one) for one in schema["allOf"] if types(one)))
    if "enum" in schema:
        return {"string" if isinstance(value, str) else "number" for value in schema["enum"]}
    return {schema["type"]} if "type" in schema else set()


def below(schema):
    """Gives the keys below a place with their schemas; of a list and of a map with keys of the user's own one each."""
    schema = resolved(schema)
    if schema.get("type") == "array":
        return {0: schema["items"]}
    if schema.get("type") != "object":
        return {}
    known = {key: one for key, one in schema.get("properties", {}).items() if one is not False}
    others = list(schema.get("patternProperties", {}).values())
    if isinstance(schema.get("additionalProperties"), dict):
        others.append(schema["additionalProperties"])
    # A key that fits the patterns of names of nodes and of variables alike is not to be had.
    for pattern in schema.get("patternProperties", {"": None}):
        if others:
            known["AWS_KEY" if "AWS" in pattern else "key"] = others[0]
    return known


def places(schema, path=()):
    """Gives every place with its schema."""
    yield path, resolved(schema)
    for key, one in below(schema).items():
        yield from places(one, (*path, key))


def document(mistaken):
    """Gives values that have what is wrong at each place of `mistaken` (path -> value), and nothing else."""
    def build(schema, path):
        if path in mistaken:
            return mistaken[path]
        found = {key: build(one, (*path, key)) for key, one in below(schema).items()}
        found = {key: value for key, value in found.items() if value is not NOTHING}
        if resolved(schema).get("type") == "array" and found:
            return [found[0]]
        return found if found else NOTHING
    return build(SCHEMA, ())


def pointer(path):
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def complaints(helm, values):
    """Gives what helm says of values: lines with the place that each is about."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        command = [helm, "template", "gridstake", str(CHART), "--kube-version", "1.34.0", "--values", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return re.findall(r"at '([^']*)': (.*)", done.stderr) if done.returncode != 0 else []


def try_types(helm, known):
    """Puts each type where it does not belong: at all places that have so many keys above them at a time."""
    tried = 0
    for depth in sorted({len(path) for path, _ in known if path}):
        for kind, value in WRONG.items():
            mistaken = {}
            for path, schema in known:
                allowed = types(schema)
                if len(path) == depth and kind not in allowed:
                    mistaken[path] = value
            if not mistaken:
                continue
            refused = {place for place, _ in complaints(helm, document(mistaken))}
            for path in mistaken:
                tried += 1
                if pointer(path) not in refused:
                    mistakes.append(f"{pointer(path)}: {json.dumps(value)} is not refused")
    return tried


def try_keys(helm, known):
    """Puts a misspelt key into every object whose keys are the chart's own."""
    closed = []
    for path, schema in known:
        if schema.get("type") != "object" or pointer(path) in FREE:
            continue
        if schema.get("additionalProperties") is False:
            closed.append(path)
        elif not isinstance(schema.get("additionalProperties"), dict):
            mistakes.append(f"{pointer(path)}: the schema says nothing of additionalProperties, so that every key is taken")
    for depth in sorted({len(path) for path in closed}):
        chosen = {path: {"mis spelt": 1} for path in closed if len(path) == depth}
        found = {place for place, words in complaints(helm, document(chosen)) if "'mis spelt'" in words}
        for path in chosen:
            if pointer(path) not in found:
                mistakes.append(f"{pointer(path) or '/'}: a misspelt key is not refused")
    return len(closed)


if __name__ == "__main__":
    everything = list(places(SCHEMA))
    wrong_types, misspelt = try_types(sys.argv[1], everything), try_keys(sys.argv[1], everything)
    for mistake in mistakes:
        print(f"refusals.py: {mistake}", file=sys.stderr)
    if not mistakes:
        print(f"charts: {wrong_types} wrong types and {misspelt} misspelt keys refused")
    sys.exit(1 if mistakes else 0)
