"""What can be said of the Kubernetes manifest and the Dockerfile without a cluster or an engine: they agree with each other, with the tree and with the program."""

import json
import re
import subprocess

import httpx
import pytest
import yaml
from conftest import NIBBLE, REPO


@pytest.fixture(scope="module")
def manifest():
    documents = list(yaml.safe_load_all((REPO / "deploy/kubernetes.yaml").read_text()))
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def reads_flags(args):
    ran = subprocess.run([NIBBLE, "--parse-only", *args], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_labels_and_names_meet(manifest):
    for (kind, _), d in manifest.items():
        if kind == "Deployment":
            assert d["spec"]["selector"]["matchLabels"].items() <= d["spec"]["template"]["metadata"]["labels"].items()
    pods = manifest["Deployment", "nibble"]["spec"]["template"]["metadata"]["labels"]
    assert manifest["PodDisruptionBudget", "nibble"]["spec"]["selector"]["matchLabels"].items() <= pods.items()
    router = manifest["Deployment", "nibble-router"]["spec"]["template"]
    args = router["spec"]["containers"][0]["args"]
    assert args[args.index("--selector") + 1] in [f"{k}={v}" for k, v in pods.items()]
    service = manifest["Service", "nibble"]["spec"]
    assert service["selector"].items() <= router["metadata"]["labels"].items() and service["ports"][0]["targetPort"] in [p["name"] for p in router["spec"]["containers"][0]["ports"]]
    account = manifest["RoleBinding", "nibble-router"]
    assert ("ServiceAccount", account["subjects"][0]["name"]) in manifest and (account["roleRef"]["kind"], account["roleRef"]["name"]) in manifest


def test_the_replica_runs_and_ends_in_order(manifest, server):
    pod = manifest["Deployment", "nibble"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    args = container["args"]
    reads_flags(args)
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1]) + int(args[args.index("--shutdown-timeout") + 1])
    assert pod["terminationGracePeriodSeconds"] > waits
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert str(ports["http"]) == args[args.index("--port") + 1]
    for probe in ("startupProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] in ports and httpx.get(server.url + get["path"]).status_code == 200
    assert container["livenessProbe"]["tcpSocket"]["port"] in ports
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounts.keys() == {v["name"] for v in pod["volumes"]} and args[args.index("--model-path") + 1].startswith(mounts["models"] + "/")


def test_the_dockerfile_names_what_is_there():
    text = (REPO / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)
    assert stages[-1][1] == "cpu" and {"cuda", "router"} <= {name for _, name in stages}
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for source in line.split()[:-1]:
            assert (REPO / source).exists(), source
    for stage in re.findall(r"^COPY --from=(\S+)", text, re.M):
        assert stage in [name for _, name in stages]
    reads_flags(json.loads(re.search(r"^CMD (\[.+\])$", text, re.M)[1]))
    presets = [p["name"] for p in json.loads((REPO / "CMakePresets.json").read_text())["configurePresets"]]
    assert all(p in presets for p in re.findall(r"--preset (\S+)", text))
    # What the build stage installs is what the tree needs to build, without the tests' own packages.
    packages = (REPO / "tools/packages-debian.txt").read_text().split("# only for the tests:")
    assert len(packages) == 2 and "libavformat-dev" in packages[0] and "chromium" in packages[1] and "chromium" not in packages[0]
