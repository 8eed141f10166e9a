#!/usr/bin/env python3
"""Write the Python code of the protos into `services/dynasor_serve/api/`.

`python protos/generate.py` writes; with `--check` it writes nothing, and exits 1 when the tree differs from what would
be written. `make proto` and `make verify` call the two.

A file's path is its proto package and its Python package: `protos/dynasor_serve/api/tracker/v1/tracker.proto` says
`package dynasor_serve.api.tracker.v1` and becomes `dynasor_serve.api.tracker.v1.tracker_pb2`, so the generated imports
are right as they are. The output depends on the generators' versions, hence the pins of `grpcio-tools` and
`mypy-protobuf` in the extra `dev`; with other versions this script refuses to run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.resources
import re
import sys
import tempfile
import tomllib
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
REPOSITORY = PROTOS.parent
SOURCES = PROTOS / "dynasor_serve" / "api"
TARGET = REPOSITORY / "services" / "dynasor_serve" / "api"

GENERATORS = ("grpcio-tools", "mypy-protobuf")

ROOT_DOCSTRING = '''"""The wire contracts between the processes and with the outside: generated from `protos/`.

`protos/generate.py` writes every file here; none is edited. Servicers and clients import the messages and stubs; the
domain packages do not know them.
"""
'''

PACKAGE_DOCSTRING = '"""Generated from `protos/{path}`: see the comments there."""\n'


def main(arguments: list[str] | None = None) -> int:
    """Generate, then write or compare. Returns the process's exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the checked-in code differs")
    check_only = parser.parse_args(arguments).check

    refuse_other_generators()
    wanted = generate()
    present = {path.relative_to(TARGET): path.read_bytes() for path in generated_files(TARGET)}
    stale = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    if not stale:
        return 0
    if check_only:
        names = "\n  ".join(f"services/dynasor_serve/api/{path.as_posix()}" for path in stale)
        print(f"these files are not what the protos say; run `make proto`:\n  {names}", file=sys.stderr)
        return 1
    write(wanted, stale)
    print(f"{len(stale)} of {len(wanted)} files changed under services/dynasor_serve/api/")
    return 0


def refuse_other_generators() -> None:
    """Exit with a message unless the installed generators are the pinned ones."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["optional-dependencies"]["dev"]
    for name in GENERATORS:
        pins = [match[1] for line in requirements if (match := re.fullmatch(rf"{name}==([\w.]+)", line))]
        if len(pins) != 1:
            sys.exit(f"pyproject.toml: the extra `dev` should pin {name} once as `{name}==<version>`")
        installed = importlib.metadata.version(name)
        if installed != pins[0]:
            sys.exit(f"{name} {installed} is installed, but the code is generated with {pins[0]}; run `make setup`")


def generate() -> dict[Path, bytes]:
    """Return every file of the ``api`` package: path relative to it -> content."""
    sources = sorted(SOURCES.rglob("*.proto"))
    if not sources:
        sys.exit(f"no .proto file under {SOURCES.relative_to(REPOSITORY)}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run_protoc(sources, out)
        root = out / "dynasor_serve" / "api"
        wanted = {path.relative_to(root): path.read_bytes() for path in generated_files(root)}
    wanted[Path("__init__.py")] = ROOT_DOCSTRING.encode()
    for package in {parent for path in wanted for parent in path.parents} - {Path()}:
        source = (SOURCES / package).relative_to(PROTOS).as_posix()
        wanted[package / "__init__.py"] = PACKAGE_DOCSTRING.format(path=source).encode()
    return wanted


def run_protoc(sources: list[Path], out: Path) -> None:
    """Run the protocol compiler for messages, services and type stubs; exit with its status if it fails."""
    well_known_types = importlib.resources.files("grpc_tools") / "_proto"
    google_rpc_types = importlib.metadata.distribution("googleapis-common-protos").locate_file("")
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known_types}",
            f"--proto_path={google_rpc_types}",
            *plugin_flags(),
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            # Every server and client here is grpc.aio; the stubs for both kinds at once are unions that strict
            # checking cannot await.
            f"--mypy_grpc_out=quiet,only_async:{out}",
            *(source.relative_to(PROTOS).as_posix() for source in sources),
        ]
    )
    if status:
        sys.exit(status)


def plugin_flags() -> list[str]:
    """Where the type-stub generators are: beside this interpreter, whether or not its environment is activated."""
    scripts = Path(sys.executable).parent
    return [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]


def generated_files(root: Path) -> list[Path]:
    """The Python files and stubs under ``root``, which may not exist yet."""
    return [path for path in sorted(root.rglob("*")) if path.suffix in {".py", ".pyi"}]


def write(wanted: dict[Path, bytes], stale: list[Path]) -> None:
    """Bring the stale files up to date: write the wanted ones, delete those that no proto asks for any more."""
    for path in stale:
        target = TARGET / path
        if path in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wanted[path])
        else:
            target.unlink()


if __name__ == "__main__":
    sys.exit(main())
