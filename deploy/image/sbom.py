"""Print what an image is made of, as a CycloneDX 1.6 document in JSON (a software bill of materials, SBOM).

    python3 sbom.py --environment /opt/cef-trio --ffprobe VERSION_FILE

It lists the Python packages of a virtual environment, the Debian packages of the system that it runs on, and ffprobe,
which the Containerfile builds from Debian's source package. The output depends on nothing else, so equal images have
equal documents. It needs only the standard library, because it runs in the build of an image.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

NAMESPACE = uuid.UUID("5b0cbd3e-8f1c-4d0e-9c7a-6c1f0f3f3a51")
"""Of this script: the serial number is derived from it and from the content."""
Component = dict[str, Any]


def python_packages(environment: Path) -> Iterator[Component]:
    """Yield the distributions of a virtual environment, by name."""
    folders = [str(path) for path in sorted(environment.glob("lib/python3*/site-packages"))]
    found = {normal(one.name): one for one in importlib.metadata.distributions(path=folders)}
    for name, distribution in sorted(found.items()):
        component = _component("library", name, distribution.version, f"pkg:pypi/{name}@{quote(distribution.version)}")
        metadata = distribution.metadata
        if expression := metadata.get("License-Expression"):
            component["licenses"] = [{"expression": expression}]
        elif (text := metadata.get("License")) and "\n" not in text:
            component["licenses"] = [{"license": {"name": text}}]
        if summary := metadata.get("Summary"):
            component["description"] = summary
        yield component


def debian_packages() -> Iterator[Component]:
    """Yield the installed Debian packages, by name."""
    fields = "${binary:Package}\t${Version}\t${Architecture}\t${Maintainer}\t${db:Status-Abbrev}\n"
    listed = subprocess.run(["dpkg-query", "-W", f"-f={fields}"], check=True, capture_output=True, text=True)
    distribution = _distribution()
    for line in sorted(listed.stdout.splitlines()):
        name, version, architecture, maintainer, status = line.split("\t")
        if status.startswith("ii"):
            name = name.partition(":")[0]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro={distribution}"
            yield _component("library", name, version, purl) | {"supplier": {"name": maintainer}}


def ffprobe(version: str) -> Component:
    """Return the component of the ffprobe that is built from Debian's source package of this version."""
    purl = f"pkg:deb/debian/ffmpeg@{quote(version)}?arch=source&distro={_distribution()}"
    component = _component("application", "ffmpeg", version, purl)
    return component | {
        "description": "ffprobe alone, from Debian's source package; no encoders, filters, devices and network",
        "licenses": [{"expression": "LGPL-2.1-or-later"}],
    }


def document(name: str, components: list[Component]) -> dict[str, Any]:
    """Return the document of the component called ``name``, which is made of all the others."""
    (subject,) = (one for one in components if one["name"] == name and one["purl"].startswith("pkg:pypi/"))
    parts = [one for one in components if one is not subject]
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, content)}",
        "version": 1,
        "metadata": {"component": subject | {"type": "application"}},
        "components": parts,
        "dependencies": [{"ref": subject["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def normal(name: str) -> str:
    """Return a Python distribution's name as PyPI's URLs have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(kind: str, name: str, version: str, purl: str) -> Component:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', 'unstable')}"


def main() -> None:
    """Print the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="the virtual environment with cef-trio")
    parser.add_argument("--ffprobe", type=Path, help="a file with the version of the source package of ffprobe")
    arguments = parser.parse_args()
    components = [*python_packages(arguments.environment), *debian_packages()]
    if arguments.ffprobe is not None:
        components.append(ffprobe(arguments.ffprobe.read_text().strip()))
    json.dump(document("cef-trio", components), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
