"""The image's bill of materials (SBOM), made of what is installed here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "image" / "sbom.py"
pytestmark = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="the packages are Debian's")


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    version = tmp_path_factory.mktemp("sbom") / "version"
    version.write_text("7:5.1.9-0+deb12u1\n")
    command = [sys.executable, str(SCRIPT), f"--environment={sys.prefix}", f"--ffprobe={version}"]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert runs[0] == runs[1], "equal images have equal documents"
    return runs[0]


def test_it_is_valid_cyclonedx(printed: str) -> None:
    validation: Any = pytest.importorskip("cyclonedx.validation.json")
    schema: Any = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(printed) is None
    broken = printed.replace('"type": "library"', '"type": "book"')
    assert validator.validate_str(broken) is not None


def test_it_names_the_daemon_its_libraries_debians_packages_and_ffprobe(printed: str) -> None:
    bill = json.loads(printed)
    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["type"]) == ("cef-trio", "application")
    urls = {part["name"]: part["purl"] for part in bill["components"]}
    assert urls["trio"].startswith("pkg:pypi/trio@")
    assert urls["dpkg"].startswith("pkg:deb/debian/dpkg@")
    assert "arch=" in urls["dpkg"]
    assert urls["ffmpeg"].startswith("pkg:deb/debian/ffmpeg@7%3A5.1.9-0%2Bdeb12u1?arch=source&distro=")
    assert "cef-trio" not in urls
    (depends,) = bill["dependencies"]
    assert sorted(depends["dependsOn"]) == sorted(part["bom-ref"] for part in bill["components"])
