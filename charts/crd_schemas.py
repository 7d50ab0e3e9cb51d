#!/usr/bin/env python3
"""Writes JSON schemas for kubeconform from our CustomResourceDefinitions, beside those of e2e/schemas.py.

    crd_schemas.py OUT <DEFINITIONS

DEFINITIONS are JSON documents, one a line; other lines are skipped. OUT gets KIND-GROUP-VERSION.json for each. The
schemas are strict, as the API server is under `--validate=strict`: a field that the kind does not have is an error. CEL
rules are the API server's to check.
"""

import json
import pathlib
import sys

# Words that JSON schema has with the same meaning. The others are Kubernetes' own, or descriptions.
WORDS = {"type", "properties", "additionalProperties", "items", "required", "enum", "pattern", "minimum", "maximum",
         "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "oneOf", "anyOf", "allOf",
         "not"}


def strict(schema):
    if not isinstance(schema, dict):  # additionalProperties: true
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {}
    for word, value in schema.items():
        if word not in WORDS:
            continue
        if word == "properties":
            value = {name: strict(field) for name, field in value.items()}
        elif word in ("oneOf", "anyOf", "allOf"):
            value = [strict(item) for item in value]
        elif word in ("items", "additionalProperties", "not"):
            value = strict(value)
        out[word] = value
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    if "properties" in out and "additionalProperties" not in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    for line in sys.stdin:
        if not line.startswith("{"):
            continue
        spec = json.loads(line)["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
            name = "-".join([spec["names"]["kind"], spec["group"].split(".")[0], version["name"]]).lower()
            (out / f"{name}.json").write_text(json.dumps(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
