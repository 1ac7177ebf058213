"""Generates the protobuf modules from rollouts.proto.

``python -m asyncrl_worker.protocol.generate`` writes them next to this file; with ``--check`` it
only compares and exits 1 on drift. Needs grpcio-tools (extra `dev`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

PROTO = Path("asyncrl_worker/protocol/rollouts.proto")
GENERATED = ("rollouts_pb2.py", "rollouts_pb2.pyi", "rollouts_pb2_grpc.py")
SOURCE_ROOT = Path(__file__).resolve().parents[2]


def generate(destination: Path) -> dict[str, bytes]:
    """Runs protoc into `destination` and returns the generated files by name."""
    from grpc_tools import protoc

    status = protoc.main(
        [
            "protoc",
            f"-I{SOURCE_ROOT}",
            f"--python_out={destination}",
            f"--pyi_out={destination}",
            f"--grpc_python_out={destination}",
            str(SOURCE_ROOT / PROTO),
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status} on {PROTO}")
    folder = destination / PROTO.parent
    return {name: (folder / name).read_bytes() for name in GENERATED}


def drift() -> list[str]:
    """Names of the committed files that differ from what the .proto file generates now."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = generate(Path(temporary))
    here = Path(__file__).parent
    return [
        name
        for name, content in fresh.items()
        if not (here / name).is_file() or (here / name).read_bytes() != content
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on drift")
    arguments = parser.parse_args()
    if not arguments.check:
        generate(SOURCE_ROOT)
        return 0
    stale = drift()
    for name in stale:
        sys.stderr.write(
            f"{name} differs from rollouts.proto; run python -m asyncrl_worker.protocol.generate\n"
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
