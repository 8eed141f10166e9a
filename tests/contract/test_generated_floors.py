"""Whoever installs the project gets runtimes that can load the generated code: the floors satisfy its demands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]
API = REPOSITORY / "services" / "dynasor_serve" / "api"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def bound(requirements: list[str], name: str, operator: str) -> Version:
    """The version that the one requirement of that name states with the operator (`>=`, `==`)."""
    (requirement,) = [parsed for line in requirements if (parsed := Requirement(line)).name == name]
    (version,) = [specifier.version for specifier in requirement.specifier if specifier.operator == operator]
    return Version(version)


def demanded(pattern: str, suffix: str) -> Version:
    """The one version that every generated file with that suffix names."""
    files = sorted(API.rglob(f"*{suffix}"))
    assert files, f"there is no {suffix} file under {API.relative_to(REPOSITORY)}"
    versions = {match[1] for file in files for match in re.finditer(pattern, file.read_text(), re.MULTILINE)}
    (version,) = versions
    return Version(version)


def test_the_floor_of_protobuf_loads_the_generated_messages() -> None:
    floor = bound(PROJECT["dependencies"], "protobuf", ">=")

    assert floor >= demanded(r"^# Protobuf Python Version: (\S+)$", "_pb2.py")


@pytest.mark.parametrize("name", ["grpcio", "grpcio-health-checking", "grpcio-reflection", "grpcio-status"])
def test_the_floor_of_grpc_loads_the_generated_stubs(name: str) -> None:
    floor = bound(PROJECT["dependencies"], name, ">=")

    assert floor >= demanded(r"^GRPC_GENERATED_VERSION = '(\S+)'$", "_pb2_grpc.py")


def test_the_generated_code_is_of_the_pinned_generator() -> None:
    pin = bound(PROJECT["optional-dependencies"]["dev"], "grpcio-tools", "==")

    assert pin == demanded(r"^GRPC_GENERATED_VERSION = '(\S+)'$", "_pb2_grpc.py")
