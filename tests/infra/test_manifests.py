"""Every object that infra/k8s makes is valid, restricted, pinned, and refers only to things that exist."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "infra" / "k8s"
FILES = sorted(path for path in K8S.rglob("*.yaml") if path.name != "kustomization.yaml")
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
VERSIONS = ("1.32", kubernetes_validate.latest_version())
Manifest = dict[str, Any]


def build(overlay: str) -> list[Manifest]:
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("missing tool: kubectl or kustomize")
    done = subprocess.run([*command, str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return build(request.param)


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name and pod spec of every workload."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template")
        if template and manifest["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield manifest["metadata"]["name"], template["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def job_template() -> Manifest:
    """The work pool's Job with every variable at its default, as the worker fills it in."""
    template = json.loads((K8S / "base" / "base-job-template.json").read_text())
    defaults = {name: variable.get("default", "x") for name, variable in template["variables"]["properties"].items()}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, str) and (whole := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
            return defaults[whole[1]]
        if isinstance(value, str):
            return re.sub(r"\{\{ (\w+) \}\}", lambda part: str(defaults[part[1]]), value)
        return value

    job: Manifest = fill(template["job_configuration"]["job_manifest"])
    container = job["spec"]["template"]["spec"]["containers"][0]
    # The worker itself turns these two into lists.
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = ["prefect", "flow-run", "execute"]
    return job


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_strictly_valid_as_written(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_overlays_are_strictly_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_key_is_noticed(manifests: list[Manifest]) -> None:
    deployment = next(manifest for manifest in manifests if manifest["kind"] == "Deployment")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment | {"spec": deployment["spec"] | {"replica": 1}}, VERSIONS[-1], strict=True)


def test_pods_are_restricted(manifests: list[Manifest]) -> None:
    for name, pod in [*pods(manifests), ("flow", job_template()["spec"]["template"]["spec"])]:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_images_are_pinned_and_ours_have_a_dockerfile(manifests: list[Manifest]) -> None:
    for name, pod in [*pods(manifests), ("flow", job_template()["spec"]["template"]["spec"])]:
        for container in containers(pod):
            image, _, tag = container["image"].partition(":")
            assert tag and tag != "latest", f"{name}: {container['image']}"
            if image.startswith("mmfs-"):
                assert (ROOT / "infra" / "docker" / f"{image.removeprefix('mmfs-')}.Dockerfile").exists(), name


def test_what_is_referred_to_exists(manifests: list[Manifest]) -> None:
    names = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    secrets = {
        f"mmfs-{path.name.removesuffix('.env.example')}": env_names(path) for path in (ROOT / "infra" / "secrets").glob("*.env.example")
    }
    for workload, pod in [*pods(manifests), ("flow", job_template()["spec"]["template"]["spec"])]:
        if account := pod.get("serviceAccountName"):
            assert ("ServiceAccount", account) in names, workload
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, workload
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names, workload
        claims = {"data"} if workload in {"postgres", "s3"} else set()
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes | claims, workload
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    assert ("ConfigMap", source["configMapRef"]["name"]) in names, workload
                else:
                    assert source["secretRef"]["name"] in secrets, workload
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in secrets[reference["name"]], f"{workload}: {variable['name']}"


def test_commands_run_modules_of_this_repository(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests):
        for container in containers(pod):
            words = " ".join(container.get("command", [])).split()
            for module in [after for word, after in itertools.pairwise(words) if word == "-m"]:
                assert importlib.util.find_spec(module), f"{name}: {module}"


def test_flow_pods_hold_no_server_secret(manifests: list[Manifest]) -> None:
    for name, pod in [*pods(manifests), ("flow", job_template()["spec"]["template"]["spec"])]:
        if name not in {"mlflow", "prefect-server", "postgres", "s3"}:
            assert "mmfs-servers" not in json.dumps(pod), name


def test_work_pool_exists_before_its_worker(manifests: list[Manifest]) -> None:
    pod = next(pod for name, pod in pods(manifests) if name == "prefect-worker")
    (provision,) = pod["initContainers"]
    assert {"work-pool", "create", "mmfs", "--overwrite"} <= set(provision["command"])
    assert "--no-create-pool-if-not-found" in pod["containers"][0]["command"]
    (shipped,) = [manifest for manifest in manifests if manifest["metadata"]["name"].startswith("work-pool")]
    assert shipped["data"]["base-job-template.json"] == (K8S / "base" / "base-job-template.json").read_text()


def test_work_pool_job_is_strictly_valid_but_for_what_prefect_insists_on() -> None:
    job = job_template()
    pod = job["spec"]["template"]["spec"]
    # Prefect's worker refuses a template without these two in the pod, where Kubernetes does not know them.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    for version in VERSIONS:
        kubernetes_validate.validate(job, version, strict=True)


def test_every_work_pool_variable_is_used() -> None:
    template = json.loads((K8S / "base" / "base-job-template.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


def test_pretraining_job_asks_for_gpus() -> None:
    job = next(manifest for manifest in build("gpu-pretrain") if manifest["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    assert int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"
    assert pod["containers"][0]["command"] == ["python", "-m", "components.pretrain"]


@pytest.mark.parametrize("overlay", ["local", "gpu"])
def test_the_platform_can_be_applied_again_with_other_images(overlay: str) -> None:
    assert not [manifest["metadata"]["name"] for manifest in build(overlay) if manifest["kind"] == "Job"], "the pod of a Job is immutable"


def test_every_service_is_allowed_in_and_everything_else_denied(manifests: list[Manifest]) -> None:
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    admitted = {name for policy in policies for rule in policy["podSelector"].get("matchExpressions", []) for name in rule["values"]}
    services = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "Service"}
    assert services <= admitted


def env_names(path: Path) -> set[str]:
    return {line.split("=")[0] for line in path.read_text().splitlines() if line and not line.startswith("#")}
