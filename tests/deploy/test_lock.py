"""What is installed is what was tested: each file by its hash, or it is refused."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHERE_PIP_STANDS = ("README.md", "docs/operations.md", "Containerfile", ".ci/environment")


def requirements(lock: Path) -> dict[str, str]:
    """Name → all of its entry."""
    lines = [line for line in lock.read_text().replace("\\\n", " ").splitlines() if not line.startswith("#")]
    return {line.partition("==")[0]: line for line in lines if line}


def of(name: str) -> dict[str, str]:
    return requirements(ROOT / "requirements" / name)


def normal(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_has_one_version_and_hashes(lock: Path) -> None:
    assert requirements(lock)
    for name, entry in requirements(lock).items():
        assert re.fullmatch(r"[\w.-]+==[\w.!+]+( ;[^#]*?)?( +--hash=sha256:[0-9a-f]{64})+", entry), name


def test_every_dependency_is_in_its_lock() -> None:
    project = PYPROJECT["project"]
    wanted = {
        "run.lock": project["dependencies"],
        "build.lock": PYPROJECT["build-system"]["requires"],
    }
    for extra, needs in project["optional-dependencies"].items():
        wanted[f"{extra}.lock"] = [need for need in needs if not need.startswith("cef-trio[")]
    assert {lock.name for lock in LOCKS} == set(wanted)
    base = of("run.lock") | of("build.lock")
    for name, needs in wanted.items():
        assert {normal(need) for need in needs} <= set(of(name) | base), name


def test_no_two_locks_have_different_versions() -> None:
    entries: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, entry in requirements(lock).items():
            entries.setdefault(name, set()).add(entry.split()[0])
    assert {name: found for name, found in entries.items() if len(found) > 1} == {}


def test_python_of_debian_12_gets_what_redis_needs_there() -> None:
    assert "python_full_version < '3.11.3'" in of("run.lock")["async-timeout"]


@pytest.mark.parametrize("file", WHERE_PIP_STANDS)
def test_every_install_checks_the_hashes_or_installs_nothing_from_an_index(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ").replace("&&", "\n")
    installs = [line for line in text.splitlines() if re.search(r"\bpip (--python \S+ )?(install|wheel) ", line)]
    assert installs
    for line in installs:
        ours = "--no-deps" in line and ("--no-build-isolation" in line or "--no-index" in line)
        assert "--require-hashes" in line or ours, line


@pytest.mark.real
@pytest.mark.parametrize("right", [True, False])
def test_a_file_with_another_hash_is_refused(tmp_path: Path, right: bool) -> None:
    wheel = tmp_path / "swapped-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as written:
        written.writestr("swapped.py", "x = 1\n")
        written.writestr("swapped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: swapped\nVersion: 1.0\n")
        written.writestr(
            "swapped-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        written.writestr("swapped-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes() if right else b"what was locked").hexdigest()
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"swapped==1.0 \\\n    --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={tmp_path}"]
    done = subprocess.run(
        [*command, f"--target={tmp_path / 'into'}", "--require-hashes", "-r", str(lock)],
        check=False,
        capture_output=True,
        text=True,
        env={"PIP_CONFIG_FILE": "/dev/null"},
    )
    assert (done.returncode == 0) is right, done.stderr
    assert ("DO NOT MATCH THE HASHES" in done.stderr) is not right
    assert (tmp_path / "into" / "swapped.py").exists() is right
