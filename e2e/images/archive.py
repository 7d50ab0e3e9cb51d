#!/usr/bin/env python3
"""Packs a folder into an image archive that `ctr images import`, `docker load` and `kind load image-archive` read.

    archive.py ROOTFS OUT.tar NAME:TAG [--entrypoint PROGRAM [--entrypoint ARGUMENT]...] [--user UID:GID]

The archive has the docker-archive format: one uncompressed layer, one configuration, one manifest. It depends only
on the names, contents and modes of the files in the folder: equal folders give an equal archive. OUT.tar is left
alone when it would not change. Needs only Python's standard library.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import stat
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    """Adds one entry that carries no time and belongs to root."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def layer_of(rootfs: str) -> bytes:
    """Gives the layer: every file, folder and link below the folder, in the order of their names."""
    entries = []
    for folder, folders, files in os.walk(rootfs):
        entries += [os.path.relpath(os.path.join(folder, name), rootfs) for name in folders + files]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(entries):
            path = os.path.join(rootfs, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                add(tar, name, type=tarfile.SYMTYPE, linkname=os.readlink(path), mode=0o777)
            elif stat.S_ISDIR(status.st_mode):
                add(tar, name, type=tarfile.DIRTYPE, mode=mode)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    add(tar, name, file.read(), mode=mode)
            else:
                sys.exit(f"archive.py: {path} is neither a file, a folder nor a link")
    return buffer.getvalue()


def archive_of(layer: bytes, name: str, entrypoint: list[str], user: str) -> bytes:
    """Gives the whole archive around one layer."""
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        sys.exit(f"archive.py: unknown machine {platform.machine()}; known: {', '.join(ARCHITECTURES)}")
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": entrypoint or None, "User": user, "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "e2e/images/archive.py"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, config_name, config)
        add(tar, f"{digest}.tar", layer)
        add(tar, "manifest.json", json.dumps(manifest).encode())
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rootfs")
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("--entrypoint", action="append", default=[])
    parser.add_argument("--user", default="0:0")
    arguments = parser.parse_args()
    archive = archive_of(layer_of(arguments.rootfs), arguments.name, arguments.entrypoint, arguments.user)
    try:
        with open(arguments.out, "rb") as old:
            if old.read() == archive:
                return
    except FileNotFoundError:
        pass
    partial = f"{arguments.out}.partial"
    with open(partial, "wb") as file:
        file.write(archive)
    os.replace(partial, arguments.out)


if __name__ == "__main__":
    main()
