"""The manifests of `deploy/kubernetes`: valid by Kubernetes' schemas, and true about the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from broker.settings import Settings

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
KUSTOMIZATION = YAML(typ="safe").load(FOLDER / "kustomization.yaml")
OBJECTS = [
    (file, found) for file in KUSTOMIZATION["resources"] for found in YAML(typ="safe").load_all(FOLDER / file)
]
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())


def of_kind(kind: str) -> Any:
    (found,) = [one for _, one in OBJECTS if one["kind"] == kind]
    return found


@pytest.fixture
def pod() -> Any:
    return of_kind("Deployment")["spec"]["template"]


@pytest.fixture
def container(pod: Any) -> Any:
    (found,) = pod["spec"]["containers"]
    return found


def test_every_file_is_a_resource() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "manifest", [pytest.param(one, id=f"{file}-{one['metadata']['name']}") for file, one in OBJECTS]
)
def test_objects_are_valid_by_the_schemas(manifest: Any, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_is_not_valid() -> None:
    """The schemas are strict, else the test above tells nothing."""
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(service, VERSIONS[-1], strict=True)


def test_everything_selects_the_brokers_pods(pod: Any) -> None:
    labels = pod["metadata"]["labels"].items()
    selectors = [
        of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *[one["spec"]["selector"] for _, one in OBJECTS if one["kind"] == "Service"],
        *[each["labelSelector"]["matchLabels"] for each in pod["spec"]["topologySpreadConstraints"]],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", of_kind("Deployment")["metadata"]["name"])


def test_settings_are_the_brokers_and_leave_time_to_drain(pod: Any, container: Any) -> None:
    given = {one["name"].removeprefix("BROKER_").lower(): one["value"] for one in container["env"]}
    assert set(given) <= set(Settings.model_fields)
    settings = Settings.model_validate(given | {"jwt_secrets": '["a secret that is long enough for it"]'})
    longest = settings.drain_notice_seconds + settings.drain_seconds
    assert longest + 10 <= pod["spec"]["terminationGracePeriodSeconds"]
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.drain_notice_seconds
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    assert pod["spec"]["enableServiceLinks"] is False, "a Service named `broker` would set BROKER_PORT"


def test_ports_that_others_name_are_the_containers(container: Any) -> None:
    names = {one["name"] for one in container["ports"]}
    used = {
        one["targetPort"] for _, each in OBJECTS if each["kind"] == "Service" for one in each["spec"]["ports"]
    }
    used |= {one["port"] for rule in of_kind("NetworkPolicy")["spec"]["ingress"] for one in rule["ports"]}
    assert used == names


def test_a_rollout_never_has_fewer_brokers() -> None:
    update = of_kind("Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind("HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1
