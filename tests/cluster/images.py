"""Images: built by buildah from the Dockerfiles, kept in one store, brought to a node.

The store is part of the cache: one OCI layout in which images share their layers. A node gets only
the blobs that it does not have, so that after a change of code a few megabytes move.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.build import BuildError, run
from cluster.network import Unavailable
from cluster.node import CTR, PAUSE, Node
from cluster.packages import install_packages
from cluster.parts import cache_folder

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "worker")
"""Those that tests need, by the names of their Dockerfiles."""

SUITE = "bookworm"
"""The release of Debian below them, for its Python 3.11."""

BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
DEADLINE = 2 * 60 * 60.0
"""Seconds for one step. Minutes are usual; five gigabytes take long where others compute."""
ROOM = 30 * 10**9
"""Bytes for the first images: torch is in buildah's store, in the layout, and on the node."""
NAME_ANNOTATION = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Image:
    """An image in the store: its name with tag, and the digest of its manifest."""

    name: str
    digest: str

    @property
    def by_digest(self) -> str:
        """The name that means exactly this content, as a chart pins it."""
        return f"{self.name.rpartition(':')[0]}@{self.digest}"


class Images:
    """The store of this user. Needs root on Linux. Raises BuildError, Unavailable."""

    def __init__(self) -> None:
        install_packages()
        self._folder = cache_folder() / "images"
        self._layout = self._folder / "layout"
        self._storage = self._folder / "buildah"
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._layout / "index.json").exists():
            _require_room(self._folder)

    def pause(self) -> Image:
        """The image that holds a pod's namespaces open: one static program that sleeps."""
        stored = self._stored(PAUSE)
        if stored is not None:
            return stored
        with self._locked():
            return self._stored(PAUSE) or self._from_scratch(
                PAUSE, {"/bin/busybox": "/busybox"}, ["/busybox", "sleep", "2147483647"]
            )

    def base(self) -> Image:
        """Debian with Python, in place of python:3.11-slim, which is in a registry."""
        packages = ",".join(BASE_PACKAGES)
        key = hashlib.sha256(f"{SUITE} {packages}".encode()).hexdigest()[:12]
        name = f"localhost/asyncrl-base:{key}"
        stored = self._stored(name)
        if stored is not None:
            return stored
        with self._locked():
            stored = self._stored(name)
            if stored is not None:
                return stored
            with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
                system = Path(temporary, "system")
                command = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE]
                run([*command, str(system)], deadline=DEADLINE)
                for archive in (system / "var/cache/apt/archives").glob("*.deb"):
                    archive.unlink()
                return self._from_scratch(name, {str(system): "/"}, ["python3"])

    def build(self, name: str) -> Image:
        """Build images/NAME.Dockerfile. The tag is a digest of the content."""
        base = self.base()
        with self._locked(), tempfile.TemporaryDirectory() as temporary:
            identity = Path(temporary, "id")
            self._buildah(
                "build",
                "--layers",
                "--force-rm",
                "--isolation=chroot",
                "--format=oci",
                f"--iidfile={identity}",
                f"--build-arg=BASE={base.name}",
                f"--file={ROOT / 'images' / name}.Dockerfile",
                *_certificates(),
                str(ROOT),
            )
            tag = identity.read_text().strip().removeprefix("sha256:")
            full = f"localhost/asyncrl-{name}:{tag[:12]}"
            return self._stored(full) or self._export(tag, full)

    def load(self, node: Node, *images: Image) -> None:
        """Bring images to a node, as a pull would."""
        present = set(node.ctr("images", "ls", "-q").split())
        for image in images:
            if image.name not in present:
                self._send(node, image)

    def _from_scratch(self, name: str, content: dict[str, str], command: Sequence[str]) -> Image:
        container = self._buildah("from", "scratch").strip()
        try:
            for source, destination in content.items():
                self._buildah("add", "--quiet", container, source, destination)
            self._buildah("config", f"--cmd={json.dumps(command)}", container)
            self._buildah("commit", "--quiet", "--format=oci", container, name)
        finally:
            self._buildah("rm", container)
        return self._export(name, name)

    def _export(self, image: str, name: str) -> Image:
        """Put an image of buildah into the layout.

        Uncompressed, so that a layer has the same digest in both, and is written only once.
        """
        storage = f"[overlay@{self._storage}+{self._storage}-run]"
        command = ["skopeo", "copy", "--quiet", "--insecure-policy"]
        command.append("--dest-oci-accept-uncompressed-layers")
        source, destination = f"containers-storage:{storage}{image}", f"oci:{self._layout}:{name}"
        run([*command, source, destination], deadline=DEADLINE)
        index = json.loads((self._layout / "index.json").read_text())
        (digest,) = (
            manifest["digest"]
            for manifest in index["manifests"]
            if manifest.get("annotations", {}).get(NAME_ANNOTATION) == name
        )
        record = self._record(name)
        record.parent.mkdir(exist_ok=True)
        # Replaced as a whole: others read it without the lock.
        whole = record.with_suffix(".new")
        whole.write_text(digest)
        whole.rename(record)
        return Image(name, digest)

    def _stored(self, name: str) -> Image | None:
        record = self._record(name)
        return Image(name, record.read_text()) if record.exists() else None

    def _record(self, name: str) -> Path:
        return self._folder / "names" / name.replace("/", "_")

    def _send(self, node: Node, image: Image) -> None:
        present = set(node.ctr("content", "ls", "-q").split())
        manifest = json.loads(self._blob(image.digest).read_text())
        layers = [layer["digest"] for layer in manifest["layers"]]
        missing = [digest for digest in layers if digest not in present]
        for digest in missing:
            # The same file in both stores: containerd takes what it finds there for its own.
            _link(self._blob(digest), node.content / digest.removeprefix("sha256:"))
        blobs = [image.digest, manifest["config"]["digest"], *missing]
        importer = subprocess.Popen(
            node.command(*CTR, "images", "import", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert importer.stdin is not None
        with importer.stdin as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            _add(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            _add(archive, "index.json", self._index(image))
            for digest in blobs:
                archive.add(self._blob(digest), f"blobs/sha256/{digest.removeprefix('sha256:')}")
        assert importer.stdout is not None
        said = importer.stdout.read().decode()
        if importer.wait(DEADLINE):
            raise BuildError(f"{image.name}: the node refused it\n{said}")

    def _index(self, image: Image) -> dict[str, Any]:
        path = self._blob(image.digest)
        return {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": image.digest,
                    "size": path.stat().st_size,
                    "annotations": {"io.containerd.image.name": image.name},
                }
            ],
        }

    def _blob(self, digest: str) -> Path:
        return self._layout / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _buildah(self, *arguments: str) -> str:
        command = ["buildah", f"--root={self._storage}", f"--runroot={self._storage}-run"]
        return run([*command, "--storage-driver=overlay", *arguments], deadline=DEADLINE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise Unavailable(
            f"images need {ROOM / 1e9:.0f} GB below {folder}, where {free / 1e9:.0f} are free; "
            "make room, or set XDG_CACHE_HOME"
        )


def _certificates() -> list[str]:
    """Authorities that this machine trusts, for the package index during a build."""
    folder = Path("/etc/ssl/certs")
    return [f"--volume={folder}:{folder}:ro"] if folder.is_dir() else []


def _link(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        destination.hardlink_to(source)


def _add(archive: tarfile.TarFile, name: str, document: dict[str, Any]) -> None:
    content = json.dumps(document).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
