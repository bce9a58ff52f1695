"""Renders the chart, and finds parts of the rendered manifests."""

import json
import os
import pathlib
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "evenkeel"
TOOLS = ROOT / ".tools" / "chart"
NAMESPACE = "gateways"


class Loader(yaml.CSafeLoader):
    """Reads YAML as Kubernetes does: `=` is text, and a mapping must not have a key twice."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise yaml.YAMLError(f"repeated keys: {doubled}, {node.start_mark}")
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:value"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load(text):
    return yaml.load(text, Loader)


def load_all(text):
    return [document for document in yaml.load_all(text, Loader) if document]


class Refused(Exception):
    """Helm did not render the chart. The text is Helm's output."""


def helm(*arguments, values=None, chart=CHART):
    """Runs a Helm command with the values, and returns its output."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values or {}, file)
        file.flush()
        ran = subprocess.run(
            [TOOLS / "helm", *arguments, "--values", file.name],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HELM_CACHE_HOME": str(TOOLS / "cache"), "KUBECONFIG": str(TOOLS / "no-kubeconfig")},
        )
    if ran.returncode != 0:
        raise Refused(ran.stdout + ran.stderr)
    return ran.stdout


def render(values, kubernetes="1.33.0", chart=CHART, release="ek", namespace=NAMESPACE):
    """Returns the rendered manifests, in order."""
    text = helm("template", release, str(chart), "--namespace", namespace, "--kube-version", kubernetes, values=values)
    return load_all(text)


def find(documents, kind, name=None):
    """Returns the only manifest of this kind (and name)."""
    found = [d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    assert len(found) == 1, f"found {len(found)} of {kind} {name}, want 1"
    return found[0]


def kinds(documents):
    return sorted(document["kind"] for document in documents)


def configuration(documents, release="ek-evenkeel"):
    """Returns the sidecar's configuration."""
    return load(find(documents, "ConfigMap", release)["data"]["evenkeel.yaml"])


def merged(base, patch):
    """Applies a strategic merge patch to a pod: merges lists of named items by name, and appends other lists."""
    if isinstance(base, dict) and isinstance(patch, dict):
        keys = list(base) + [key for key in patch if key not in base]
        return {key: merged(base.get(key), patch[key]) if key in patch else base[key] for key in keys}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in base + patch):
        names = [item["name"] for item in base] + [item["name"] for item in patch]
        first, second = ({item["name"]: item for item in items} for items in (base, patch))
        return [
            merged(first.get(name), second[name]) if name in second else first[name] for name in dict.fromkeys(names)
        ]
    if isinstance(base, list) and isinstance(patch, list):
        return base + patch
    return patch


def gateway_deployment(container):
    """Returns a minimal Deployment of a gateway, as its own chart would create it."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "gateway", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "gateway"}},
            "template": {
                "metadata": {"labels": {"app": "gateway"}},
                "spec": {
                    "containers": [
                        {
                            "name": container,
                            "image": "gateway",
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        }
                    ],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                },
            },
        },
    }


def workload(documents):
    """Returns the workload that runs the sidecar. In mode sidecar, this is a gateway's Deployment with the patch."""
    for document in documents:
        if document["kind"] in ("Deployment", "DaemonSet"):
            return document
    patch = load(find(documents, "ConfigMap", "ek-evenkeel-sidecar")["data"]["deployment-patch.yaml"])
    spec = patch["spec"]["template"]["spec"]
    others = [c["name"] for c in spec.get("containers", []) if c["name"] != "evenkeel"]
    return merged(gateway_deployment(others[0] if others else "gateway"), patch)


def sidecar_container(document):
    spec = document["spec"]["template"]["spec"]
    found = [c for c in spec.get("initContainers", []) + spec["containers"] if c["name"] == "evenkeel"]
    assert len(found) == 1, found
    return found[0]
