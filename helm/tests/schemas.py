"""Validates manifests strictly and without a cluster: Kubernetes' own kinds with kubernetes-validate, other kinds with
the schemas that their projects publish in CustomResourceDefinitions. An unknown field is an error here, although a
cluster would drop the field."""

import functools
import json
from pathlib import Path

import jsonschema
import kubernetes_validate
from chart import TOOLS, load, load_all, workload

SAMPLES = Path(__file__).parent / "samples"

# Maps group and kind to the file of the published schema. Every manifest of these kinds is also validated against a
# schema in samples/, which is written from the documentation and has only the fields that the chart uses. If the module
# proxy is unreachable, the schema in samples/ is the only check.
PUBLISHED = {
    ("extensions.istio.io", "WasmPlugin"): "istio.io/api/customresourcedefinitions.gen.yaml",
    ("networking.istio.io", "DestinationRule"): "istio.io/api/customresourcedefinitions.gen.yaml",
    ("networking.istio.io", "EnvoyFilter"): "istio.io/api/customresourcedefinitions.gen.yaml",
    (
        "gateway.envoyproxy.io",
        "EnvoyExtensionPolicy",
    ): "github.com/envoyproxy/gateway/gateway.envoyproxy.io_envoyextensionpolicies.yaml",
    (
        "gateway.envoyproxy.io",
        "BackendTrafficPolicy",
    ): "github.com/envoyproxy/gateway/gateway.envoyproxy.io_backendtrafficpolicies.yaml",
    (
        "gateway.envoyproxy.io",
        "EnvoyPatchPolicy",
    ): "github.com/envoyproxy/gateway/gateway.envoyproxy.io_envoypatchpolicies.yaml",
    ("gateway.envoyproxy.io", "EnvoyProxy"): "github.com/envoyproxy/gateway/gateway.envoyproxy.io_envoyproxies.yaml",
    (
        "monitoring.coreos.com",
        "ServiceMonitor",
    ): "github.com/prometheus-operator/prometheus-operator/monitoring.coreos.com_servicemonitors.yaml",
    (
        "monitoring.coreos.com",
        "PodMonitor",
    ): "github.com/prometheus-operator/prometheus-operator/monitoring.coreos.com_podmonitors.yaml",
    (
        "monitoring.coreos.com",
        "PrometheusRule",
    ): "github.com/prometheus-operator/prometheus-operator/monitoring.coreos.com_prometheusrules.yaml",
}


class Invalid(Exception):
    """A manifest that does not conform to a schema."""


def published_path(group, kind):
    """Returns the file of a kind's published schema; `None` if it was not fetched."""
    path = TOOLS / "schemas" / PUBLISHED.get((group, kind), "none")
    return path if path.is_file() else None


@functools.cache
def _definitions(path):
    return [d for d in load_all(path.read_text()) if d.get("kind") == "CustomResourceDefinition"]


@functools.cache
def _published(group, kind, version):
    for definition in _definitions(published_path(group, kind)):
        spec = definition["spec"]
        if (spec["group"], spec["names"]["kind"]) == (group, kind):
            for served in spec["versions"]:
                if served["name"] == version and served["served"]:
                    return jsonschema.Draft7Validator(_resource(served["schema"]["openAPIV3Schema"]))
    raise Invalid(f"{group} {kind}: version {version} is not served")


@functools.cache
def _sample(group, kind):
    path = SAMPLES / f"{group}_{kind}.yaml"
    return jsonschema.Draft7Validator(_resource(load(path.read_text()))) if path.is_file() else None


def _resource(schema):
    schema = _closed(schema)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    schema["required"] = sorted({*schema.get("required", []), "spec"})
    return schema


def _closed(schema):
    """Converts Kubernetes' OpenAPI v3 to a JSON Schema that rejects unknown fields."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    closed = {}
    for key, value in schema.items():
        if key == "properties":
            closed[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties"):
            closed[key] = _closed(value)
        elif key in (
            "type",
            "enum",
            "pattern",
            "required",
            "minimum",
            "maximum",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "minProperties",
            "maxProperties",
        ):
            closed[key] = value
        elif key in ("oneOf", "anyOf", "allOf", "not"):
            closed[key] = value  # these constrain which fields appear together, and add none
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
        closed.pop("anyOf", None)
    if schema.get("nullable") and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    if "properties" in closed and not open_ended:
        closed.setdefault("additionalProperties", False)
    return closed


_seen = set()


def validate(document, kubernetes):
    """Raises `Invalid` if a manifest is invalid for this version of Kubernetes.

    Returns the kind of schema against which the manifest was validated: `kubernetes`, `published` or `sample`."""
    group, _, version = document["apiVersion"].rpartition("/")
    kind = document["kind"]
    try:
        if "." in group and not group.endswith(".k8s.io"):
            sample = _sample(group, kind)
            if sample is None:
                raise Invalid(f"{group} {kind}: no schema")
            sample.validate(document)
            found = "sample"
            if published_path(group, kind):
                _published(group, kind, version).validate(document)
                found = "published"
            _embedded(document, kubernetes)
            return found
        key = (kubernetes, json.dumps(document, sort_keys=True))
        if key not in _seen:
            kubernetes_validate.validate(document, kubernetes.rsplit(".", 1)[0], strict=True)
            _seen.add(key)
        return "kubernetes"
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        path = ".".join(str(part) for part in error.absolute_path)
        raise Invalid(f"{kind} {document['metadata']['name']}: {path}: {error.message}") from None


def _embedded(document, kubernetes):
    """Validates content that the resource's schema does not describe: patches of Deployments."""
    if document["kind"] == "EnvoyProxy":
        from chart import gateway_deployment, merged

        patch = document["spec"]["provider"]["kubernetes"]["envoyDeployment"]["patch"]["value"]
        validate(merged(gateway_deployment("envoy"), patch), kubernetes)


def validate_all(documents, kubernetes):
    """Validates every manifest and the workload that runs the sidecar. No two manifests may have the same identity."""
    seen = set()
    found = {}
    for document in documents:
        identity = (
            document["apiVersion"],
            document["kind"],
            document["metadata"].get("namespace"),
            document["metadata"]["name"],
        )
        if identity in seen:
            raise Invalid(f"two manifests are {identity}")
        seen.add(identity)
        found[document["kind"]] = validate(document, kubernetes)
    validate(workload(documents), kubernetes)
    return found
