#!/usr/bin/env python3
"""Writes JSON schemas for kubeconform from Kubernetes' own OpenAPI document.

    schemas.py SWAGGER.json OUT

OUT gets one file per kind, KIND-GROUP-VERSION.json in lower case (GROUP is the first word of the API group, left out
for core kinds), as kubeconform's template '{{ .ResourceKind }}{{ .KindSuffix }}.json' asks for, and definitions.json
which they refer to. The schemas are strict: a field that the API does not have is an error.
"""

import json
import pathlib
import sys


def strict(schema: object) -> object:
    """Gives the schema with three things put right: OpenAPI 2 says less than the API server checks."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    reference = schema.get("$ref")
    if reference is not None:
        # A quantity may be written as a number.
        if reference.endswith("io.k8s.apimachinery.pkg.api.resource.Quantity"):
            return {"type": ["string", "number"]}
        return {"$ref": reference}
    out = {}
    for key, value in schema.items():
        if key == "properties":  # its keys are names of fields, no words of the schema language
            out[key] = {name: strict(field) for name, field in value.items()}
        elif key != "format" and not key.startswith("x-kubernetes-"):
            out[key] = strict(value)
    if "properties" in out and "additionalProperties" not in out:
        out["additionalProperties"] = False
    return out


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        definitions = json.load(file)["definitions"]
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            words = [kind["kind"], kind["group"].split(".")[0], kind["version"]]
            path = out / f"{'-'.join(word for word in words if word).lower()}.json"
            path.write_text(json.dumps({"$ref": f"definitions.json#/definitions/{name}"}), encoding="utf-8")
    text = json.dumps({"definitions": {name: strict(definition) for name, definition in definitions.items()}})
    (out / "definitions.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
