"""Validates the gateways' configuration with the real Envoy: fragments of EnvoyFilter, EnvoyPatchPolicy and EnvoyProxy,
applied as Istio and Envoy Gateway apply them."""

import copy
import json
import os
import re
import subprocess
import tempfile
import unittest

import matrix
from chart import ROOT, find, render

ENVOY = os.environ.get("EVENKEEL_ENVOY") or str(ROOT / ".tools/envoy/envoy/_bin/envoy")
MODULE = os.environ.get("EVENKEEL_PLUGIN_WASM") or str(ROOT / "out/plugin/evenkeel_plugin.wasm")
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
WASM = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"


def istio_cluster(service, port):
    """Returns a cluster of a service, as Istio creates it."""
    name = f"outbound|{port}||{service}"
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
            "service_name": name,
        },
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [{"max_connections": 4294967295, "track_remaining": True}]},
        "common_lb_config": {},
    }


def listener(filters, name="http"):
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
        "default_filter_chain": {
            "filters": [
                {
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": HCM,
                        "stat_prefix": "http",
                        "route_config": {
                            "name": "all",
                            "virtual_hosts": [
                                {
                                    "name": "all",
                                    "domains": ["*"],
                                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                                }
                            ],
                        },
                        "http_filters": filters,
                    },
                }
            ]
        },
    }


def proto_merged(base, patch):
    """Merges as Istio does: fields by name, lists by appending."""
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            proto_merged(base[key], value)
        elif isinstance(value, list):
            base[key] = base.get(key, []) + value
        else:
            base[key] = value
    return base


def bootstrap(clusters, filters=(), listeners=None):
    xds = {
        "name": "xds-grpc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "xds-grpc",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/nowhere"}}}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            }
        },
        "static_resources": {"listeners": listeners or [listener([*filters, ROUTER])], "clusters": [xds, *clusters]},
    }


def accepted(config):
    """Returns whether Envoy accepts the configuration, and its output."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        ran = subprocess.run(
            [ENVOY, "--mode", "validate", "--log-level", "info", "-c", file.name],
            capture_output=True,
            text=True,
            timeout=120,
        )
    return ran.returncode == 0, ran.stdout + ran.stderr


def with_local_module(filter_config):
    """Returns the configuration with a local file in place of the module's URL, and the original `code`.

    Istio's agent and Envoy Gateway replace the URL in the same way after they have downloaded the module."""
    config = copy.deepcopy(filter_config)
    code = config["config"]["vm_config"]["code"]
    config["config"]["vm_config"]["code"] = {"local": {"filename": MODULE}}
    return config, code


class Fragments(unittest.TestCase):
    def envoy_takes(self, config, modules=0):
        taken, said = accepted(config)
        self.assertTrue(taken, said)
        self.assertNotIn("configuration rejected", said)
        return said

    def rendered(self, mode, plugin, /, **more):
        case = {
            "mode": mode,
            "redis": "external",
            "discovery": "none",
            "plugin": plugin,
            "rest": "little",
            "kubernetes": "1.31.2",
        }
        values, kubernetes = matrix.values(case)
        return render(matrix.over(values, more), kubernetes)

    def patches(self, documents):
        return find(documents, "EnvoyFilter")["spec"]["configPatches"]

    def check_sidecar_cluster(self, cluster, mode):
        self.assertEqual(cluster["name"], "evenkeel", "must be the cluster in the plugin's configuration")
        address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        expected = {
            "deployment": {
                "socket_address": {"address": "ek-evenkeel-headless.gateways.svc.cluster.local", "port_value": 9190}
            },
            "daemonset": {"socket_address": {"address": "ek-evenkeel.gateways.svc.cluster.local", "port_value": 9190}},
            "sidecar": {"socket_address": {"address": "127.0.0.1", "port_value": 9190}},
            "socket": {"pipe": {"path": "/run/evenkeel/evenkeel.sock"}},
        }
        self.assertEqual(address, expected[mode])

    def test_the_sidecars_cluster_and_the_endpoint_override_in_istio(self):
        for mode in ("deployment", "daemonset", "sidecar", "socket"):
            with self.subTest(mode):
                added, *overrides = self.patches(self.rendered(mode, "istio"))
                self.assertEqual(
                    (added["applyTo"], added["match"], added["patch"]["operation"]),
                    ("CLUSTER", {"context": "GATEWAY"}, "ADD"),
                )
                self.check_sidecar_cluster(added["patch"]["value"], mode)
                clusters = [added["patch"]["value"]]
                self.assertEqual(
                    [p["match"]["cluster"] for p in overrides],
                    [
                        {"service": "llm.models.svc.cluster.local", "portNumber": 8000},
                        {"service": "embeddings.models.svc.cluster.local", "portNumber": 80},
                    ],
                )
                for patch in overrides:
                    self.assertEqual((patch["applyTo"], patch["patch"]["operation"]), ("CLUSTER", "MERGE"))
                    match = patch["match"]["cluster"]
                    clusters.append(
                        proto_merged(istio_cluster(match["service"], match["portNumber"]), patch["patch"]["value"])
                    )
                self.envoy_takes(bootstrap(clusters))
                policy = clusters[1]["load_balancing_policy"]["policies"][0]["typed_extension_config"]
                self.assertEqual(policy["name"], "envoy.load_balancing_policies.override_host")
                self.assertEqual(
                    policy["typed_config"]["override_host_sources"], [{"header": "x-gateway-destination-endpoint"}]
                )

    def test_the_plugin_in_an_envoy_filter(self):
        for plugin in ("istio-file", "istio-filter"):
            with self.subTest(plugin):
                documents = self.rendered("sidecar", plugin)
                patches = self.patches(documents)
                inserted = next(p for p in patches if p["applyTo"] == "HTTP_FILTER")
                self.assertEqual(inserted["patch"]["operation"], "INSERT_BEFORE")
                self.assertEqual(
                    inserted["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"], ROUTER["name"]
                )
                value = inserted["patch"]["value"]
                extensions = [p["patch"]["value"] for p in patches if p["applyTo"] == "EXTENSION_CONFIG"]
                clusters = [
                    p["patch"]["value"]
                    for p in patches
                    if p["patch"]["operation"] == "ADD" and p["applyTo"] == "CLUSTER"
                ]
                if plugin == "istio-file":
                    config, code = with_local_module(value["typed_config"])
                    self.assertEqual(code, {"local": {"filename": "/var/lib/evenkeel/plugin.wasm"}})
                    override = next(p for p in patches if p["patch"]["operation"] == "MERGE")["patch"]["value"]
                    self.assertIn("'header': 'x-endpoint'", str(override))
                    self.assertNotIn("allow_on_headers_stop_iteration", config["config"])
                else:
                    self.assertEqual([e["name"] for e in extensions], [value["name"]])
                    self.assertEqual(value["config_discovery"]["type_urls"], [WASM])
                    self.envoy_takes(bootstrap(clusters, [value]))
                    config, code = with_local_module(extensions[0]["typed_config"])
                    self.assertEqual(code["remote"]["http_uri"]["uri"], "https://files.example/plugin.wasm")
                    self.assertIs(config["config"]["allow_on_headers_stop_iteration"], True)
                self.envoy_takes(bootstrap(clusters, [{"name": "evenkeel", "typed_config": config}]))

    def test_the_plugin_accepts_its_configuration(self):
        """Loads the plugin configuration of each kind of resource into the real module in the real Envoy."""
        found = []
        for plugin in ("istio", "envoy-gateway", "envoy-gateway-body"):
            documents = self.rendered("deployment", plugin)
            if plugin == "istio":
                found.append(find(documents, "WasmPlugin")["spec"]["pluginConfig"])
            else:
                found.append(find(documents, "EnvoyExtensionPolicy")["spec"]["wasm"][0]["config"])
        for config in found:
            self.assertEqual(config["sidecar"], {"cluster": "evenkeel"})
            self.assertEqual(config["apply"]["mode"], "override_host")
            self.envoy_takes(self.with_plugin(config))
        # The check must be able to fail.
        taken, said = accepted(self.with_plugin({"deadline_ms": 0}))
        self.assertFalse(taken, said)

    def with_plugin(self, config):
        return bootstrap(
            [],
            [
                {
                    "name": "evenkeel",
                    "typed_config": {
                        "@type": WASM,
                        "config": {
                            "name": "evenkeel",
                            "root_id": "evenkeel",
                            "failure_policy": "FAIL_CLOSED",
                            "configuration": {
                                "@type": "type.googleapis.com/google.protobuf.StringValue",
                                "value": json.dumps(config),
                            },
                            "vm_config": {
                                "vm_id": "evenkeel",
                                "runtime": "envoy.wasm.runtime.v8",
                                "code": {"local": {"filename": MODULE}},
                            },
                        },
                    },
                }
            ],
        )

    def test_higress_gets_the_cluster_and_the_apply_mode_higress(self):
        for mode in ("daemonset", "socket"):
            documents = self.rendered(mode, "higress")
            (patch,) = self.patches(documents)
            self.check_sidecar_cluster(patch["patch"]["value"], mode)
            self.envoy_takes(bootstrap([patch["patch"]["value"]]))
            spec = find(documents, "WasmPlugin")["spec"]
            self.assertEqual(spec["defaultConfig"], {"apply": {"mode": "higress"}, "sidecar": {"cluster": "evenkeel"}})
            self.assertEqual(find(documents, "WasmPlugin")["metadata"]["namespace"], "higress-system")
            self.assertEqual(spec["failStrategy"], "FAIL_OPEN")

    def test_envoy_gateway_gets_the_cluster_through_an_envoy_patch_policy(self):
        policy = find(self.rendered("deployment", "envoy-gateway"), "EnvoyPatchPolicy")["spec"]
        self.assertEqual(policy["targetRef"], {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"})
        (patch,) = policy["jsonPatches"]
        self.assertEqual(
            (patch["type"], patch["name"]), ("type.googleapis.com/envoy.config.cluster.v3.Cluster", "evenkeel")
        )
        # `add` with an empty path creates a new resource.
        self.assertEqual((patch["operation"]["op"], patch["operation"]["path"]), ("add", ""))
        self.check_sidecar_cluster(patch["operation"]["value"], "deployment")
        self.envoy_takes(bootstrap([patch["operation"]["value"]]))

    def test_in_sidecar_mode_envoy_gateway_gets_the_cluster_in_the_bootstrap(self):
        for mode in ("sidecar", "socket"):
            documents = self.rendered(mode, "envoy-gateway")
            proxy = find(documents, "EnvoyProxy")["spec"]
            self.assertEqual(proxy["bootstrap"]["type"], "JSONPatch")
            (patch,) = proxy["bootstrap"]["jsonPatches"]
            self.assertEqual((patch["op"], patch["path"]), ("add", "/static_resources/clusters/-"))
            self.check_sidecar_cluster(patch["value"], mode)
            self.envoy_takes(bootstrap([patch["value"]]))
            self.assertNotIn("EnvoyPatchPolicy", [d["kind"] for d in documents])

    def test_envoy_gateway_applies_endpoints_through_a_backend_traffic_policy(self):
        documents = self.rendered("deployment", "envoy-gateway")
        balancer = find(documents, "BackendTrafficPolicy")["spec"]["loadBalancer"]
        self.assertEqual(
            balancer,
            {
                "type": "LeastRequest",
                "endpointOverride": {"extractFrom": [{"header": "x-gateway-destination-endpoint"}]},
            },
        )
        code = find(documents, "EnvoyExtensionPolicy")["spec"]["wasm"][0]["code"]
        self.assertEqual((code["type"], code["image"]["url"]), ("Image", "registry.example/evenkeel-plugin:0.1.0"))
        documents = self.rendered("deployment", "envoy-gateway-body")
        code = find(documents, "EnvoyExtensionPolicy")["spec"]["wasm"][0]["code"]
        self.assertEqual((code["type"], code["http"]["url"]), ("HTTP", "https://files.example/plugin.wasm"))
        for kind in ("EnvoyExtensionPolicy", "BackendTrafficPolicy"):
            self.assertEqual(
                find(documents, kind)["spec"]["targetRefs"],
                [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "chat"}],
            )

    def test_envoy_gateway_allows_the_plugin_to_read_bodies(self):
        """The patch matches the name that Envoy Gateway gives the filter, and Envoy accepts the result."""
        documents = self.rendered("sidecar", "envoy-gateway-body")
        policy = find(documents, "EnvoyExtensionPolicy")
        patches = find(documents, "EnvoyPatchPolicy")["spec"]["jsonPatches"]
        self.assertEqual([p["name"] for p in patches], ["edge/eg/http", "edge/eg/https"])
        operation = patches[0]["operation"]
        name = "envoy.filters.http.wasm/" + "/".join(
            ("envoyextensionpolicy", policy["metadata"]["namespace"], policy["metadata"]["name"], "wasm", "0")
        )
        wanted = re.fullmatch(
            r"\.\.http_filters\[\?\(@\.name=='(.*)'\)\]\.typed_config\.config", operation["jsonPath"]
        ).group(1)
        self.assertEqual(wanted, name)
        made = self.with_plugin(policy["spec"]["wasm"][0]["config"])["static_resources"]["listeners"][0]
        filters = made["default_filter_chain"]["filters"][0]["typed_config"]["http_filters"]
        filters[0] |= {"name": name, "disabled": True}
        filters[0]["typed_config"]["config"][operation["path"]] = operation["value"]
        self.envoy_takes(bootstrap([], listeners=[made]))

    def test_envoy_gateways_names_are_as_published(self):
        from chart import TOOLS, load

        path = TOOLS / "schemas/github.com/envoyproxy/gateway/wasm.listeners.yaml"
        if not path.is_file():
            self.skipTest("the module of Envoy Gateway could not be fetched")
        filters = load(path.read_text())[0]["defaultFilterChain"]["filters"][0]["typedConfig"]["httpFilters"]
        self.assertIn(
            "envoy.filters.http.wasm/envoyextensionpolicy/default/policy-for-http-route/wasm/0",
            [f["name"] for f in filters],
        )
        self.assertIn("config", filters[0]["typedConfig"])

    def test_envoy_rejects_the_override_together_with_locality_weights(self):
        """Istio sets these weights for locality load balancing, unless a DestinationRule disables it."""
        documents = self.rendered("deployment", "istio-filter")
        override = next(p for p in self.patches(documents) if p["patch"]["operation"] == "MERGE")
        cluster = proto_merged(istio_cluster("llm", 80), override["patch"]["value"])
        self.envoy_takes(bootstrap([cluster]))
        cluster["common_lb_config"] = {"locality_weighted_lb_config": {}}
        taken, said = accepted(bootstrap([cluster]))
        self.assertFalse(taken, said)
        self.assertIn("load_balancing_policy", said)
        rule = find(documents, "DestinationRule")["spec"]
        self.assertEqual(rule["host"], override["match"]["cluster"]["service"])
        self.assertEqual(rule["trafficPolicy"]["loadBalancer"]["localityLbSetting"], {"enabled": False})

    def test_envoy_gateways_listeners_can_be_named_by_protocol_and_port(self):
        named = {"plugin": {"envoyGateway": {"listenerNames": ["tcp-80", "tcp-443"]}}}
        documents = self.rendered("sidecar", "envoy-gateway-body", **named)
        patches = find(documents, "EnvoyPatchPolicy")["spec"]["jsonPatches"]
        self.assertEqual([p["name"] for p in patches], ["tcp-80", "tcp-443"])

    def test_envoy_rejects_an_invalid_configuration(self):
        added, override, _ = self.patches(self.rendered("deployment", "istio"))
        cluster = copy.deepcopy(added["patch"]["value"])
        cluster["load_assignment"]["endpoint"] = []
        self.assertFalse(accepted(bootstrap([cluster]))[0])
        wrong = copy.deepcopy(override["patch"]["value"])
        wrong["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"][
            "override_host_sources"
        ] = []
        self.assertFalse(accepted(bootstrap([proto_merged(istio_cluster("llm", 80), wrong)]))[0])
