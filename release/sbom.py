#!/usr/bin/env python3
"""Writes what a program of this workspace is built of: a bill of materials in CycloneDX 1.6 (JSON) on standard output.

    sbom.py PACKAGE [TARGET]     TARGET: x86_64-unknown-linux-gnu (default) or another triple

It names the crates that Cargo.lock fixes for the program on that target, each with the checksum of its archive: normal dependencies,
not those of build scripts and tests. A feature that another program of the workspace asks for counts too, so it may name a crate
more than the program has, never one less. Equal Cargo.lock, equal output. The libraries that an image takes from its distribution
are not in it, nor is Solidity's code in the contracts.
"""

import json
import pathlib
import subprocess
import sys
import tomllib
import uuid

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent


def reference(package: dict) -> str:
    """The package URL, which is also what other components name it by."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package: dict, checksums: dict[tuple[str, str], str]) -> dict:
    """One crate. Ours have no archive and no checksum."""
    described = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "scope": "required",
        "purl": reference(package),
    }
    if package["license"]:
        # Cargo's old way to write OR.
        described["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package["source"] is not None:
        checksum = checksums.get((package["name"], package["version"]))
        if checksum is None:
            sys.exit(f"sbom.py: Cargo.lock has no checksum of {package['name']} {package['version']}")
        described["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return described


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    program, target = sys.argv[1], (sys.argv[2:] or ["x86_64-unknown-linux-gnu"])[0]
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout)
    lock = tomllib.loads((CHECKOUT / "Cargo.lock").read_text())
    checksums = {(crate["name"], crate["version"]): crate["checksum"] for crate in lock["package"] if "checksum" in crate}
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {
        node["id"]: sorted({edge["pkg"] for edge in node["deps"] if any(kind["kind"] is None for kind in edge["dep_kinds"])})
        for node in metadata["resolve"]["nodes"]
    }
    roots = [member for member in metadata["workspace_members"] if packages[member]["name"] == program]
    if not roots:
        names = ", ".join(sorted(packages[member]["name"] for member in metadata["workspace_members"]))
        sys.exit(f"sbom.py: no package {program} in this workspace; there are {names}")
    reached, frontier = set(), roots[:]
    while frontier:
        package = frontier.pop()
        if package not in reached:
            reached.add(package)
            frontier += edges[package]
    root = component(packages[roots[0]], checksums) | {"type": "application"}
    del root["scope"]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root, "properties": [{"name": "cargo:target", "value": target}]},
        "components": sorted((component(packages[name], checksums) for name in reached - set(roots)), key=lambda it: it["bom-ref"]),
        "dependencies": sorted(
            ({"ref": reference(packages[name]), "dependsOn": sorted(reference(packages[other]) for other in edges[name])} for name in reached),
            key=lambda it: it["ref"],
        ),
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))}"
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
