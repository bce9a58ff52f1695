"""The chart rejects invalid values, names them, and reports all errors of a kind at once."""

import unittest

from chart import Refused, render

REDIS = {"redis": {"urls": ["redis://redis:6379"]}}

# Rejected by values.schema.json: each value is invalid alone.
SCHEMA = [
    ({"mod": "sidecar"}, "Additional property mod is not allowed"),
    ({"mode": "statefulset"}, "mode: mode must be one of the following"),
    ({"replicas": 0}, "replicas: Must be greater than or equal to 1"),
    ({"redis": {"urls": ["redis://user:secret@redis"]}}, "redis.urls.0: Does not match pattern"),
    ({"redis": {"urls": ["redis.data:6379"]}}, "redis.urls.0: Does not match pattern"),
    ({"redis": {"bundled": {"maxMemory": "256Mi"}}}, "redis.bundled.maxMemory: Does not match pattern"),
    ({"redis": {"sentinel": True}}, "redis.sentinel: Invalid type"),
    ({"redis": {"replica": True}}, "redis: Additional property replica is not allowed"),
    ({"config": "pools: []"}, "config: Invalid type"),
    ({"config": {"pools": [{"cluster": "llm", "capp": 3}]}}, "Additional property capp is not allowed"),
    ({"files": {"../x": ""}}, "files: Property name of"),
    ({"files": {"x": {"a": 1}}}, "files.x: Invalid type"),
    ({"admin": {"tokens": {"ops": "short"}}}, "admin.tokens.ops: String length must be greater than or equal to 16"),
    ({"redis": {"keyPrefix": "a b"}}, "redis.keyPrefix: Does not match pattern"),
    ({"redis": {"keyPrefix": "trial*"}}, "redis.keyPrefix: Does not match pattern"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels: Property name of"),
    ({"plugin": {"config": {"apply": "override_host"}}}, "plugin.config.apply: Invalid type"),
    (
        {"monitoring": {"prometheusRule": {"runbookUrl": "wiki/runbook"}}},
        "monitoring.prometheusRule.runbookUrl: Does not match pattern",
    ),
    ({"shutdownDelaySeconds": "5s"}, "shutdownDelaySeconds: Does not match pattern"),
    ({"shutdownDelaySeconds": 301}, "shutdownDelaySeconds: Must be less than or equal to 300"),
    ({"ports": {"grpc": 0}}, "ports.grpc: Must be greater than or equal to 1"),
    ({"listenAddress": "localhost"}, "listenAddress: Does not match pattern"),
    ({"image": {"digest": "latest"}}, "image.digest: Does not match pattern"),
    ({"sidecar": {"gateway": "nginx"}}, "sidecar.gateway: sidecar.gateway must be one of the following"),
    ({"sidecar": {"socket": {"directory": "run"}}}, "sidecar.socket.directory: Does not match pattern"),
    ({"plugin": {"url": "registry/evenkeel-plugin"}}, "plugin.url: Does not match pattern"),
    ({"plugin": {"url": "file://relative"}}, "plugin.url: Does not match pattern"),
    (
        {"plugin": {"istio": {"selector": None, "resource": "Wasm"}}},
        "plugin.istio.resource: plugin.istio.resource must be one of",
    ),
    ({"plugin": {"istio": {"modelServers": [{"service": "llm"}]}}}, "plugin.istio.modelServers.0: port is required"),
    ({"monitoring": {"dashboards": {"labels": {"a": True}}}}, "monitoring.dashboards.labels.a: Invalid type"),
]

# Rejected by _checks.tpl: values that contradict each other.
CHECKS = [
    ({"redis": {"urls": []}}, "redis.urls: must contain a URL if redis.mode is external, got none"),
    (
        {"redis": {"urls": ["redis://a", "redis://b"]}},
        "redis.urls: must contain one URL unless redis.cluster is true, got 2",
    ),
    ({"redis": {"mode": "bundled"}}, "redis.urls: must be empty if redis.mode is bundled"),
    (
        {"redis": {"mode": "bundled", "urls": [], "cluster": True}},
        "redis.cluster: must be false if redis.mode is bundled",
    ),
    (
        {"redis": {"urls": ["redis://a", "redis://b"], "cluster": True, "sentinel": {"masterName": "m"}}},
        "redis.cluster: must be false if redis.sentinel.masterName is set",
    ),
    (
        {"redis": {"sentinel": {"masterName": "m", "login": True}}},
        "redis.sentinel.login: must be false unless redis.existingSecret or redis.password is set",
    ),
    ({"redis": {"mode": "bundled", "urls": [], "user": "x"}}, "redis.user: must be empty if redis.mode is bundled"),
    (
        {"redis": {"mode": "bundled", "urls": [], "existingSecret": "x"}},
        "redis.existingSecret: must be empty if redis.mode is bundled",
    ),
    (
        {"redis": {"mode": "bundled", "urls": [], "bundled": {"maxMemory": "384mb"}}},
        "redis.bundled.maxMemory: must be below redis.bundled.resources.limits.memory (384Mi), got 384mb",
    ),
    (
        {"redis": {"mode": "none", "urls": [], "keyPrefix": "x"}, "replicas": 1},
        "redis.keyPrefix: must be empty if redis.mode is none",
    ),
    (
        {"redis": {"mode": "none", "urls": []}},
        "replicas: must be 1, and autoscaling.enabled must be false, if redis.mode is none",
    ),
    (
        {"redis": {"mode": "none", "urls": []}, "replicas": 1, "autoscaling": {"enabled": True}},
        "replicas: must be 1, and autoscaling.enabled must be false",
    ),
    (
        {"redis": {"mode": "none", "urls": []}, "mode": "daemonset"},
        "redis.mode: must be external or bundled if mode is daemonset",
    ),
    (
        {"redis": {"password": "x", "existingSecret": "y"}},
        "redis.password: must be empty if redis.existingSecret is set",
    ),
    ({"redis": {"user": "x"}}, "redis.user: must be empty unless redis.existingSecret or redis.password is set"),
    (
        {"redis": {"tls": {"caSecret": "x"}}},
        "redis.tls: must be empty unless a URL in redis.urls begins with rediss://",
    ),
    (
        {"redis": {"urls": ["rediss://a"], "tls": {"caSecret": "x", "caConfigMap": "y"}}},
        "redis.tls: must set only one of caSecret and caConfigMap, got both",
    ),
    (
        {"config": {"listen": {"grpc": "off"}}},
        "config.listen: must be absent, because mode, listenAddress, ports, connectionsMax, hosts, access and sidecar.socket set it",
    ),
    (
        {"config": {"shutdown_delay": "1s"}},
        "config.shutdown_delay: must be absent, because shutdownDelaySeconds sets it",
    ),
    (
        {"config": {"store": {"url": "redis://x"}}},
        "config.store.url: must be absent, because the values below redis set it",
    ),
    (
        {"config": {"store": {"password_file": "x"}}},
        "config.store.password_file: must be absent, because the values below redis set it",
    ),
    (
        {"config": {"admin": {"tokens": []}}, "admin": {"tokens": {"ops": "x" * 16}}},
        "config.admin.tokens: must be absent if admin.tokens or admin.existingSecret is set",
    ),
    (
        {"config": {"rate_limit_service": {"config": "x"}}, "rateLimitFiles": {"a.yaml": ""}},
        "config.rate_limit_service.config: must be absent, because rateLimitFiles sets it",
    ),
    (
        {"admin": {"tokens": {"ops": "x" * 16}, "existingSecret": "x", "names": ["ops"]}},
        "admin.tokens: must be empty if admin.existingSecret is set",
    ),
    ({"config": {"tls": {"cert_file": "a", "key_file": "b"}}}, "config.tls: must be absent, because the values below tls set it"),
    (
        {"tls": {"existingSecret": "a", "certManager": {"enabled": True, "issuerRef": {"name": "ca"}}}},
        "tls.existingSecret: must be empty if tls.certManager.enabled is true",
    ),
    ({"tls": {"certManager": {"enabled": True}}}, "tls.certManager.issuerRef.name: must name an issuer"),
    ({"tls": {"existingSecret": "a"}, "mode": "sidecar"}, "tls: must be off if mode is sidecar"),
    ({"tls": {"clientCertificates": "required"}}, "tls.clientCertificates: must be none unless tls.existingSecret"),
    (
        {
            "tls": {"existingSecret": "a", "clientCertificates": "required"},
            "plugin": {"url": "oci://x", "istio": {"enabled": True}, "tls": {"caFile": "/ca"}},
        },
        "plugin.tls.clientCertificate: must be files or istio if tls.clientCertificates is required",
    ),
    (
        {"tls": {"existingSecret": "a"}, "plugin": {"url": "oci://x", "istio": {"enabled": True}}},
        "plugin.tls.caFile: must be the path of the authority",
    ),
    ({"plugin": {"tls": {"clientCertificate": "files"}}}, "plugin.tls.certFile: must be given, with keyFile"),
    ({"admin": {"existingSecret": "x"}}, "admin.names: must name the keys of admin.existingSecret, got none"),
    ({"admin": {"names": ["ops"]}}, "admin.names: must be empty unless admin.existingSecret is set"),
    (
        {"mode": "daemonset", "autoscaling": {"enabled": True}},
        "autoscaling.enabled: must be false if mode is daemonset",
    ),
    (
        {"autoscaling": {"enabled": True, "minReplicas": 9}},
        "autoscaling.minReplicas: must be at most maxReplicas (8), got 9",
    ),
    ({"ports": {"grpc": 9191}}, "ports.grpc: must differ from ports.http, got 9191"),
    (
        {"mode": "sidecar", "networkPolicy": {"enabled": True, "gateways": [{"podSelector": {}}]}},
        "networkPolicy.enabled: must be false if mode is sidecar",
    ),
    (
        {"networkPolicy": {"enabled": True}},
        "networkPolicy.gateways: must name the allowed callers if networkPolicy.enabled is true, got none",
    ),
    (
        {"plugin": {"istio": {"enabled": True}}},
        "plugin.url: must be an oci://, https:// or file:// URL of the plugin's module, got none",
    ),
    (
        {"plugin": {"url": "oci://x", "istio": {"enabled": True}, "higress": {"enabled": True}}},
        "plugin: must be enabled for one gateway in each release, got higress, istio",
    ),
    (
        {"mode": "sidecar", "plugin": {"url": "oci://x", "higress": {"enabled": True}}},
        "sidecar.gateway: must be higress if plugin.higress.enabled is true, got istio",
    ),
    (
        {"plugin": {"config": {"sidecar": {"cluster": "x"}}}},
        "plugin.config.sidecar: must be absent, because the chart sets it",
    ),
    (
        {"plugin": {"url": "oci://x", "higress": {"enabled": True}, "config": {"apply": {"mode": "override_host"}}}},
        "plugin.config.apply.mode: must be higress if plugin.higress.enabled is true, got override_host",
    ),
    (
        {"plugin": {"url": "oci://x", "istio": {"enabled": True}, "config": {"apply": {"mode": "name"}}}},
        "plugin.config.apply.mode: must be override_host unless plugin.higress.enabled is true, got name",
    ),
    (
        {"plugin": {"url": "oci://x", "istio": {"enabled": True}, "config": {"read_body": True}}},
        "plugin.istio.resource: must be EnvoyFilter if plugin.config.read_body is true",
    ),
    (
        {"plugin": {"url": "oci://x", "imagePullSecret": "y", "istio": {"enabled": True, "resource": "EnvoyFilter"}}},
        "plugin.imagePullSecret: must be empty if plugin.istio.resource is EnvoyFilter",
    ),
    (
        {"plugin": {"url": "file:///x", "envoyGateway": {"enabled": True, "gateway": "eg"}}},
        "plugin.url: must be an oci:// or https:// URL if plugin.envoyGateway.enabled is true",
    ),
    (
        {"plugin": {"url": "oci://x", "envoyGateway": {"enabled": True}}},
        "plugin.envoyGateway.gateway: must name a Gateway, got none",
    ),
]


def refused(test, values, kubernetes="1.33.0"):
    values = {**values, "redis": {**REDIS["redis"], **values.get("redis", {})}}
    with test.assertRaises(Refused) as raised:
        render(values, kubernetes)
    return str(raised.exception)


class RefusedValues(unittest.TestCase):
    def test_the_schema_rejects_values_that_are_invalid_alone(self):
        for values, expected in SCHEMA:
            with self.subTest(expected):
                self.assertIn(expected, refused(self, values))

    def test_values_that_contradict_each_other_are_rejected(self):
        for values, expected in CHECKS:
            with self.subTest(expected):
                said = refused(self, values)
                self.assertIn(expected, said)
                # The chart reports only this error, and no consequence of it.
                self.assertIn("1 fault in the values", said)

    def test_native_sidecars_need_a_kubernetes_that_supports_them(self):
        said = refused(self, {"mode": "sidecar"}, "1.28.9")
        self.assertIn("sidecar.native: must be false before Kubernetes 1.29, got true with v1.28.9", said)

    def test_all_errors_are_reported_at_once(self):
        said = refused(
            self,
            {
                "redis": {"urls": ["redis://a", "redis://b"], "user": "x"},
                "ports": {"grpc": 9191},
                "plugin": {"istio": {"enabled": True}},
            },
        )
        self.assertIn("4 faults in the values", said)

    def test_older_versions_of_kubernetes_are_rejected(self):
        self.assertIn("chart requires kubeVersion: >=1.25.0-0", refused(self, {}, "1.24.17"))
