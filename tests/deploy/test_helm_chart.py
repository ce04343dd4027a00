"""The Helm chart, rendered by Helm's own engine (helm-python-sdk) and checked against Kubernetes' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml
from servers.deployment import DEPLOY, documents

import cef_trio
from cef_trio.settings.model import Settings
from cef_trio.settings.secret_files import file_variables

helm: Any = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes_validate: Any = pytest.importorskip("kubernetes_validate")
CHART: Final = DEPLOY / "helm" / "cef-trio"
PLAIN: Final = {document["kind"]: document for document in documents(DEPLOY / "kubernetes.yaml")}
HELMS_OWN: Final = {"app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart", "checksum/settings"}
KUBERNETES: Final = "1.33"
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "claim": {"recordings": {"existingClaim": "camera", "readOnly": False}},
    "scheduling": {
        "nodeSelector": {"kubernetes.io/hostname": "node-7"},
        "tolerations": [{"key": "recorder", "operator": "Exists"}],
        "priorityClassName": "high",
        "serviceAccountName": "uploader",
        "imagePullSecrets": [{"name": "registry"}],
        "affinity": {"nodeAffinity": {}},
    },
    "digest": {"image": {"repository": "registry.example.com/cef-trio", "digest": f"sha256:{'0' * 64}"}},
    "names": {"ownerName": "site-7", "settings": {"MAX_CONCURRENT_PARTS": 4, "S3_EQUAL_PARTS": True}},
    "large numbers": {
        "settings": {"CHUNK_SIZE_BYTES": 10485760, "MAX_UPLOAD_RATE": 5368709120, "RETRY_INITIAL_SECONDS": 0.25},
        "runAsUser": 1000650000,  # as OpenShift assigns them
        "runAsGroup": 1000650000,
        "terminationGracePeriodSeconds": 1000000,
    },
    "aws": {"secret": {"files": {"S3_ACCESS_KEY_ID_FILE": None, "S3_SECRET_ACCESS_KEY_FILE": None}}},
}


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def rendered(chart: Any, values: dict[str, Any], name: str = "cef-trio") -> dict[str, Any]:
    """Return the objects of a release, by kind."""
    chart.validate_schema(chart.merge_values(values))
    texts = chart.render(values, name=name, namespace="recordings").items()
    found = [yaml.safe_load(text) for path, text in texts if path.endswith(".yaml")]
    return {document["kind"]: document for document in found}


def without(document: Any, names: set[str]) -> Any:
    """Return a copy of a document without keys of these names, at any depth."""
    if isinstance(document, dict):
        return {key: without(item, names) for key, item in document.items() if key not in names}
    return [without(item, names) for item in document] if isinstance(document, list) else document


def pod(objects: dict[str, Any]) -> Any:
    return objects["StatefulSet"]["spec"]["template"]["spec"]


def test_with_its_defaults_it_is_the_plain_file(chart: Any) -> None:
    assert without(rendered(chart, {}), HELMS_OWN) == PLAIN


@pytest.mark.parametrize("name", list(VARIANTS))
def test_kubernetes_accepts_what_it_renders(chart: Any, name: str) -> None:
    objects = rendered(chart, VARIANTS[name])
    assert set(objects) == {"ConfigMap", "Service", "StatefulSet"}
    for document in objects.values():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", list(PLAIN))
def test_kubernetes_accepts_the_plain_file(kind: str) -> None:
    kubernetes_validate.validate(PLAIN[kind], KUBERNETES, strict=True)
    broken = {**PLAIN[kind], "spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_helm_lints_it_without_a_word() -> None:
    result = helm.lint(CHART, strict=True)
    complaints = [message for message in result["messages"] if "icon is recommended" not in json.dumps(message)]
    assert complaints == []


def test_values_reach_the_pod(chart: Any) -> None:
    (recordings,) = (one for one in pod(rendered(chart, VARIANTS["claim"]))["volumes"] if one["name"] == "recordings")
    assert recordings["persistentVolumeClaim"] == {"claimName": "camera"}
    container = pod(rendered(chart, VARIANTS["digest"]))["containers"][0]
    assert container["image"] == f"registry.example.com/cef-trio@sha256:{'0' * 64}"
    objects = rendered(chart, VARIANTS["names"])
    assert {"name": "OWNER_NAME", "value": "site-7"} in pod(objects)["containers"][0]["env"]
    given = objects["ConfigMap"]["data"]
    assert (given["MAX_CONCURRENT_PARTS"], given["S3_EQUAL_PARTS"]) == ("4", "true")
    assert not {name for name in rendered(chart, VARIANTS["aws"])["ConfigMap"]["data"] if "ACCESS_KEY" in name}


def test_a_large_number_is_written_as_it_is(chart: Any) -> None:
    """Helm reads numbers as float64, and writes 10485760 as 1.048576e+07 unless it is told not to."""
    values = VARIANTS["large numbers"]
    objects = rendered(chart, values)
    given = {name: objects["ConfigMap"]["data"][name] for name in values["settings"]}
    assert given == {name: str(value) for name, value in values["settings"].items()}
    context = pod(objects)["securityContext"]
    numbers = (context["runAsUser"], context["runAsGroup"], pod(objects)["terminationGracePeriodSeconds"])
    assert [str(one) for one in numbers] == ["1000650000", "1000650000", "1000000"]


def test_a_changed_setting_makes_a_new_pod_and_two_releases_do_not_meet(chart: Any) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = rendered(chart, values)["StatefulSet"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({})
    assert checksum({}) != checksum({"settings": {"S3_BUCKET_NAME": "other"}})
    selectors = [rendered(chart, {}, name)["Service"]["spec"]["selector"] for name in ("north", "south")]
    assert selectors == [{"app.kubernetes.io/name": f"{name}-cef-trio"} for name in ("north", "south")]


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"S3_SECRET_ACCESS_KEY": "x"}},
        {"settings": {"S3_BUCKET_NAME": None}},
        {"settings": {"OWNER_NAME": "x"}},
        {"imagee": {}},
        {"image": {"digest": "latest"}},
        {"terminationGracePeriodSeconds": 5},
        {"runAsUser": 0},
        {"ownerName": "Capital"},
    ],
    ids=json.dumps,
)
def test_values_that_are_wrong_are_refused(chart: Any, values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        rendered(chart, values)


def test_a_chart_without_a_folder_is_refused_with_what_would_be_right(chart: Any) -> None:
    with pytest.raises(helm.HelmError, match=r"recordings\.hostPath or recordings\.existingClaim"):
        rendered(chart, {"recordings": {"hostPath": ""}})


def test_it_is_of_this_version_and_takes_no_secret_as_a_setting(chart: Any) -> None:
    assert (chart.version, chart.metadata["appVersion"]) == (cef_trio.__version__,) * 2
    pattern = chart.schema["properties"]["settings"]["propertyNames"]["not"]["pattern"]
    refused = {name for name in (one.upper() for one in Settings.model_fields) if re.search(pattern, name)}
    of_the_chart = {"WATCH_DIR", "PROM_HOST", "PROM_PORT", "OWNER_NAME", "INSTANCE_ID"}
    assert refused - of_the_chart == {name.removesuffix("_FILE") for name in file_variables(Settings).values()}


def test_the_notes_name_what_is_to_exist(chart: Any) -> None:
    texts = chart.render({}, name="cef-trio", namespace="recordings")
    (notes,) = (text for path, text in texts.items() if path.endswith("NOTES.txt"))
    assert "kubectl -n recordings exec cef-trio-0 -- cef-trio doctor" in notes
    assert "redis-url, s3-access-key-id, s3-secret-access-key" in notes
