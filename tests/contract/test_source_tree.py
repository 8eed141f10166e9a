"""The shape of the repository: source directories are not packages, and nothing new stands at the top level."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FOLDERS = {"charts", "docs", "examples", "operator", "protos", "services", "tests"}
IGNORED_FOLDERS = {"build", "dist", "htmlcov"}  # results of tools; .gitignore names them too


def test_source_directories_are_not_packages() -> None:
    roots = [REPOSITORY / name / "__init__.py" for name in ("operator", "services", "protos")]
    in_tests = (REPOSITORY / "tests").rglob("__init__.py")

    found = [str(path.relative_to(REPOSITORY)) for path in (*roots, *in_tests) if path.exists()]

    assert not found, "an `operator` package would shadow the standard library's, and tests are imported by path"


def test_the_top_level_holds_the_agreed_folders_and_no_others() -> None:
    present = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")}

    assert present - IGNORED_FOLDERS == FOLDERS


def test_every_import_package_says_that_it_is_typed() -> None:
    packages = (REPOSITORY / "operator" / "dynasor_operator", REPOSITORY / "services" / "dynasor_serve")

    assert all((package / "py.typed").is_file() for package in packages)
