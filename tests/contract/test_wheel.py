"""The wheel holds both import packages with their data, and nothing that shadows another package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = {"dynasor_operator": REPOSITORY / "operator", "dynasor_serve": REPOSITORY / "services"}


def test_the_wheel_holds_both_packages_with_every_file_and_no_others(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("dynasor_serve-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())

    top_level = {name.partition("/")[0] for name in packed}
    assert {name for name in top_level if not name.endswith(".dist-info")} == set(PACKAGES)
    sources = {
        path.relative_to(root).as_posix()
        for name, root in PACKAGES.items()
        for path in (root / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources - packed == set(), "files that are in the source tree and not in the wheel"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)
