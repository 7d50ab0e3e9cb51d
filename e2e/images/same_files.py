#!/usr/bin/env python3
"""Compares two image archives in Docker's format (pack.sh, `docker save`): the files of the root file system by path, kind, mode,
owner and link, the entry point and the user. Says what differs and ends with 1. An image with a shell in it differs from all.

    same_files.py ONE.tar OTHER.tar

Contents are not compared: two builds of a program are seldom the same bytes.
"""

import json
import os
import stat
import sys
import tarfile

# A layer may name the root folder itself.
ROOT = {"", "."}
SHELLS = {"ash", "bash", "busybox", "dash", "sh", "toybox", "zsh"}


def described(entry: tarfile.TarInfo) -> str:
    """All that is compared of one file. A hard link is the file that it names."""
    kind = "folder" if entry.isdir() else "link" if entry.issym() else "file"
    mode = "" if entry.issym() else f" {stat.S_IMODE(entry.mode):04o}"
    return f"{kind}{mode} {entry.uid}:{entry.gid}" + (f" -> {entry.linkname}" if entry.issym() else "")


def image(path: str) -> tuple[dict[str, str], dict[str, object]]:
    """Gives the files of all layers, one on the other, and what the configuration says of a container's start."""
    files: dict[str, str] = {}
    with tarfile.open(path) as archive:
        [manifest] = json.load(archive.extractfile("manifest.json"))
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                for entry in layer:
                    inside = os.path.normpath(entry.name).strip("/")
                    if inside not in ROOT:
                        files[inside] = described(entry)
        config = json.load(archive.extractfile(manifest["Config"]))["config"]
    return files, {"Entrypoint": config.get("Entrypoint"), "User": config.get("User") or "0:0"}


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    one, other = sys.argv[1:]
    (files, start), (other_files, other_start) = image(one), image(other)
    differences = []
    for path in sorted(files.keys() | other_files.keys()):
        mine, theirs = files.get(path, "nothing"), other_files.get(path, "nothing")
        if mine != theirs:
            differences.append(f"/{path}: {mine} in {one}, {theirs} in {other}")
        if os.path.basename(path) in SHELLS:
            differences.append(f"/{path}: an image of ours holds no shell")
    if start != other_start:
        differences.append(f"{start} in {one}, {other_start} in {other}")
    if not files:
        differences.append(f"{one} holds no file")
    if differences:
        sys.exit("\n".join(differences))
    print(f"the same {len(files)} files, the same start")


if __name__ == "__main__":
    main()
