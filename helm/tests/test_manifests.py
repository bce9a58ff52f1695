"""Checks individual fields of the manifests."""

import hashlib
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import matrix
from chart import (
    CHART,
    ROOT,
    TOOLS,
    configuration,
    find,
    helm,
    kinds,
    load,
    merged,
    render,
    sidecar_container,
    workload,
)
from sidecar import check_config

REDIS = {"redis": {"urls": ["redis://redis:6379"]}}


def rendered(values=None, kubernetes="1.33.0", **more):
    return render(matrix.over({"redis": {"urls": ["redis://redis:6379"]}}, values or {}), kubernetes, **more)


class Pods(unittest.TestCase):
    def test_security_contexts_are_those_of_the_restricted_profile(self):
        for mode in ("deployment", "daemonset", "sidecar"):
            document = workload(rendered({"mode": mode}))
            context = sidecar_container(document)["securityContext"]
            self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
            self.assertIs(context["allowPrivilegeEscalation"], False)
            self.assertIs(context["readOnlyRootFilesystem"], True)
            self.assertIs(context["runAsNonRoot"], True)
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        redis = find(rendered({"redis": {"mode": "bundled", "urls": []}}), "StatefulSet")["spec"]["template"]["spec"]
        context = redis["containers"][0]["securityContext"]
        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        self.assertIs(context["readOnlyRootFilesystem"], True)
        self.assertIs(redis["securityContext"]["runAsNonRoot"], True)
        self.assertIs(redis["automountServiceAccountToken"], False)

    def test_the_shutdown_delay_fits_into_the_grace_period(self):
        documents = rendered({"shutdownDelaySeconds": 42})
        self.assertEqual(configuration(documents)["shutdown_delay"], "42s")
        # Calls in progress get another 10 s, and Redis 7 s: docs/operations.md.
        self.assertGreater(workload(documents)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 42 + 20)

    def test_a_deployments_shutdown_delay_outlasts_a_cached_dns_answer(self):
        # CoreDNS sets a TTL of 30 s. If a gateway resolved the name right before the pod was removed, the gateway may
        # connect to the pod for that long.
        for mode, least, most in (("deployment", 31, 60), ("daemonset", 1, 10), ("sidecar", 1, 10)):
            documents = rendered({"mode": mode})
            seconds = int(configuration(documents)["shutdown_delay"].removesuffix("s"))
            self.assertTrue(least <= seconds <= most, f"{mode}: {seconds}")
            if mode != "sidecar":
                grace = workload(documents)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
                self.assertEqual(grace, seconds + 25)

    def test_no_node_is_without_a_sidecar_while_pods_are_replaced(self):
        for mode, strategy in (("deployment", "strategy"), ("daemonset", "updateStrategy")):
            update = workload(rendered({"mode": mode}))["spec"][strategy]
            self.assertEqual(
                update, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, mode
            )
        alone = workload(rendered({"redis": {"mode": "none", "urls": []}, "replicas": 1}))["spec"]
        self.assertEqual(alone["strategy"], {"type": "Recreate"}, "two pods would count separately")

    def test_probes_ask_the_port_that_is_listened_on(self):
        for mode in ("deployment", "sidecar"):
            documents = rendered({"mode": mode, "ports": {"http": 9500}, "sidecar": {"required": True}})
            container = sidecar_container(workload(documents))
            self.assertEqual(container["livenessProbe"]["httpGet"], {"path": "/healthz", "port": 9500})
            self.assertEqual(container["readinessProbe"]["httpGet"], {"path": "/readyz", "port": 9500})
            self.assertEqual(configuration(documents)["listen"]["http"], "0.0.0.0:9500")

    def test_a_gateway_waits_for_its_sidecar_only_if_required(self):
        waiting = {"startupProbe", "readinessProbe"}
        self.assertFalse(waiting & set(sidecar_container(workload(rendered({"mode": "sidecar"})))))
        container = sidecar_container(workload(rendered({"mode": "sidecar", "sidecar": {"required": True}})))
        self.assertLessEqual(waiting, set(container))
        self.assertLessEqual(waiting, set(sidecar_container(workload(rendered()))))

    def test_pods_restart_for_changes_that_need_a_restart(self):
        def checksum(config):
            return workload(rendered({"config": config}))["spec"]["template"]["metadata"]["annotations"][
                "checksum/config"
            ]

        before = checksum({})
        limit = {"name": "a", "counts": "requests", "amount": 1, "per": "1m"}
        self.assertEqual(checksum({"limits": [limit], "quota_admins": ["a"], "prices": []}), before)
        self.assertNotEqual(checksum({"pools": [{"cluster": "a"}]}), before)
        self.assertNotEqual(checksum({"ledger": {"enabled": False}}), before)
        # The digest must omit exactly the sections that the sidecar reloads while it runs.
        source = (ROOT / "server/config/src/files.rs").read_text()
        reloaded = re.search(r"const RELOADED: \[&str; \d+\] =\s*\[(.*?)\];", source, re.S).group(1)
        template = (CHART / "templates/_config.tpl").read_text()
        left_out = re.search(r"omit \$config (.*) -\}\}", template).group(1)
        self.assertEqual(sorted(re.findall(r'"(\w+)"', left_out)), sorted(re.findall(r'"(\w+)"', reloaded)))

    def test_only_a_deployment_has_topology_spread_constraints(self):
        spec = workload(rendered())["spec"]
        constraint = spec["template"]["spec"]["topologySpreadConstraints"][0]
        self.assertEqual(constraint["labelSelector"]["matchLabels"], spec["selector"]["matchLabels"])
        self.assertNotIn(
            "topologySpreadConstraints", workload(rendered({"mode": "daemonset"}))["spec"]["template"]["spec"]
        )

    def test_the_autoscaler_alone_sets_the_replicas(self):
        documents = rendered({"autoscaling": {"enabled": True}})
        self.assertNotIn("replicas", workload(documents)["spec"])
        self.assertEqual(find(documents, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"], "ek-evenkeel")

    def test_selectors_find_the_pods(self):
        documents = rendered(
            {
                "redis": {"mode": "bundled", "urls": []},
                "monitoring": {"serviceMonitor": {"enabled": True}},
                "networkPolicy": {"enabled": True, "gateways": [{"podSelector": {}}]},
            }
        )
        pods = [
            d["spec"]["template"]["metadata"]["labels"] for d in documents if d["kind"] in ("Deployment", "StatefulSet")
        ]

        def found(selector):
            return sum(selector.items() <= labels.items() for labels in pods)

        for document in documents:
            spec = document.get("spec", {})
            for selector in (spec.get("selector"), spec.get("podSelector")):
                if selector and document["kind"] != "ServiceMonitor":
                    self.assertEqual(found(selector.get("matchLabels", selector)), 1, document["metadata"]["name"])
        monitor = find(documents, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
        services = [
            d for d in documents if d["kind"] == "Service" and monitor.items() <= d["metadata"]["labels"].items()
        ]
        self.assertEqual([s["metadata"]["name"] for s in services], ["ek-evenkeel"], "Prometheus must scrape each pod once")


class Store(unittest.TestCase):
    def test_no_secret_is_in_the_configuration(self):
        documents = rendered(
            {"redis": {"password": "hunter2hunter2"}, "admin": {"tokens": {"ops": "hunter2hunter2hunter2"}}}
        )
        self.assertNotIn("hunter2", str([d for d in documents if d["kind"] != "Secret"]))

    def test_passwords_reach_the_sidecar_unchanged(self):
        for password in ("plain", "p@ss/word:%25", "quotes\"'\\", "ü €"):
            documents = rendered({"redis": {"password": password, "user": "evenkeel"}})
            self.assertEqual(find(documents, "Secret")["stringData"]["password"], password)
            check_config(documents)

    def test_the_bundled_redis_has_one_user_with_the_documented_rights(self):
        documents = rendered(
            {"redis": {"mode": "bundled", "urls": [], "password": "hunter2hunter2", "keyPrefix": "trial"}}
        )
        acl = find(documents, "Secret")["stringData"]["users.acl"].splitlines()
        self.assertEqual(acl[0], "user default off")
        self.assertIn("~trial:ek2:*", acl[1].split())
        documented = (
            re.search(r"ACL SETUSER evenkeel (.*?)```", (ROOT / "docs/operations.md").read_text(), re.S)
            .group(1)
            .split()
        )
        rights = [word for word in documented if word[0] in "+-"]
        self.assertEqual([word for word in acl[1].split() if word[0] in "+-"], rights)
        self.assertNotIn("hunter2", "\n".join(acl))
        store = configuration(documents)["store"]
        service = find(documents, "Service", "ek-evenkeel-redis")
        self.assertEqual(store["url"], f"redis://{service['metadata']['name']}.gateways.svc.cluster.local:6379/0")
        self.assertEqual((store["user"], store["key_prefix"]), ("evenkeel", "trial"))

    def test_a_generated_password_changes_only_without_a_cluster(self):
        first, second = (
            find(rendered({"redis": {"mode": "bundled", "urls": []}}), "Secret")["stringData"] for _ in "ab"
        )
        self.assertNotEqual(first["password"], second["password"])
        self.assertEqual(len(first["password"]), 32)
        self.assertIn("lookup", (CHART / "templates/_redis.tpl").read_text())

    def test_a_change_of_the_bundled_redis_restarts_redis_and_the_sidecars(self):
        def digests(mode="deployment", **redis):
            documents = rendered({"mode": mode, "redis": {"mode": "bundled", "urls": [], **redis}})
            pods = find(documents, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]
            annotations = workload(documents)["spec"]["template"]["metadata"]["annotations"]
            return pods["checksum/acl"], next(v for k, v in annotations.items() if k.startswith("checksum/"))

        for mode in ("deployment", "daemonset", "sidecar"):
            first = digests(mode, password="one", keyPrefix="a")
            self.assertEqual(digests(mode, password="one", keyPrefix="a"), first)
            for changed in (digests(mode, password="two", keyPrefix="a"), digests(mode, password="one", keyPrefix="b")):
                self.assertNotEqual(changed[0], first[0])
                self.assertNotEqual(changed[1], first[1])
        # A generated password is the same in all manifests of a rendering: the user's digest matches the secret.
        secret = find(rendered({"redis": {"mode": "bundled", "urls": []}}), "Secret")["stringData"]
        digest = hashlib.sha256(secret["password"].encode()).hexdigest()
        self.assertIn(f"#{digest}", secret["users.acl"].split())

    def test_the_sidecar_gets_the_path_of_the_certificate_authority(self):
        documents = rendered({"redis": {"urls": ["rediss://redis"], "tls": {"caSecret": "ca", "caKey": "root.pem"}}})
        self.assertEqual(configuration(documents)["store"]["tls"], {"ca_file": "/etc/evenkeel/ca/root.pem"})

    def test_without_redis_the_store_is_embedded(self):
        documents = rendered({"redis": {"mode": "none", "urls": []}, "replicas": 1})
        self.assertEqual(configuration(documents)["store"], {"type": "memory"})
        check_config(documents)


class Network(unittest.TestCase):
    def test_the_bundled_redis_may_be_pinned_by_digest(self):
        digest = "sha256:" + "ab" * 32
        values = {"redis": {"mode": "bundled", "urls": [], "bundled": {"image": {"digest": digest}}}}
        (container,) = find(rendered(values), "StatefulSet")["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], f"docker.io/library/redis@{digest}")

    def test_services_lead_to_all_pods_or_to_the_pod_on_the_gateways_node(self):
        documents = rendered()
        self.assertEqual(find(documents, "Service", "ek-evenkeel-headless")["spec"]["clusterIP"], "None")
        service = find(rendered({"mode": "daemonset"}), "Service")
        self.assertEqual(service["spec"]["internalTrafficPolicy"], "Local")
        self.assertNotIn("Service", kinds(rendered({"mode": "sidecar"})))

    def test_listen_addresses(self):
        listen = configuration(rendered({"listenAddress": "[::]", "hosts": ["llm.example"]}))["listen"]
        self.assertEqual((listen["grpc"], listen["http"]), ("[::]:9190", "[::]:9191"))
        self.assertEqual(listen["hosts"][:2], ["llm.example", "ek-evenkeel"])
        self.assertTrue(listen["hosts"][-1].endswith(".svc.cluster.local"))
        self.assertEqual((listen["grpc_roles"], listen["http_roles"], listen["metrics"]), (["gateway"], [], "anyone"))
        self.assertEqual(configuration(rendered({"mode": "sidecar"}))["listen"]["grpc"], "127.0.0.1:9190")
        listen = configuration(
            rendered({"mode": "sidecar", "sidecar": {"socket": {"enabled": True, "directory": "/sockets"}}})
        )["listen"]
        self.assertEqual(listen["grpc"], "off")
        self.assertEqual(listen["grpc_socket"], "/sockets/evenkeel.sock")


class Discovery(unittest.TestCase):
    RULE = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]

    def test_without_discovery_there_is_neither_token_nor_role(self):
        documents = rendered({"config": matrix.CONFIG})
        self.assertIs(workload(documents)["spec"]["template"]["spec"]["automountServiceAccountToken"], False)
        self.assertFalse({"Role", "ClusterRole"} & set(kinds(documents)))

    def test_each_watched_namespace_has_a_role(self):
        pools = [
            {"cluster": "outbound|80||llm.models.svc.cluster.local", "kubernetes": {}},
            {"cluster": "outbound|80||llm.others.svc.cluster.local", "kubernetes": {"port": "http"}},
            {"cluster": "a", "kubernetes": {"service": "a", "namespace": "named"}},
            {"cluster": "b", "kubernetes": {"service": "b"}},
            {"cluster": "c", "endpoints": [{"address": "a:1"}]},
        ]
        documents = rendered({"config": {"pools": pools}})
        roles = {d["metadata"]["namespace"]: d["rules"] for d in documents if d["kind"] == "Role"}
        self.assertEqual(roles, {name: self.RULE for name in ("gateways", "models", "named", "others")})
        for binding in (d for d in documents if d["kind"] == "RoleBinding"):
            self.assertEqual(
                binding["subjects"], [{"kind": "ServiceAccount", "name": "ek-evenkeel", "namespace": "gateways"}]
            )
        self.assertIs(workload(documents)["spec"]["template"]["spec"]["automountServiceAccountToken"], True)
        documents = rendered(
            {
                "config": {
                    "kubernetes": {"namespace": "models"},
                    "pools": [{"cluster": "b", "kubernetes": {"service": "b"}}],
                }
            }
        )
        self.assertEqual(find(documents, "Role")["metadata"]["namespace"], "models")

    def test_services_in_any_namespace_need_a_cluster_role(self):
        documents = rendered({"config": {"unlisted_pools": {"kubernetes": {}}}})
        self.assertEqual(find(documents, "ClusterRole")["rules"], self.RULE)
        self.assertEqual(find(documents, "ClusterRole")["metadata"]["name"], "gateways-ek-evenkeel-endpoints")
        documents = rendered({"config": {"unlisted_pools": {"kubernetes": {"namespace": "models"}}}})
        self.assertEqual(find(documents, "Role")["metadata"]["namespace"], "models")
        self.assertNotIn("ClusterRole", kinds(documents))

    def test_in_sidecar_mode_the_gateways_account_has_the_role(self):
        values = {
            "mode": "sidecar",
            "config": {"pools": [matrix.SLICES]},
            "rbac": {"gatewayServiceAccounts": [{"name": "higress-gateway"}]},
        }
        self.assertEqual(
            find(rendered(values), "RoleBinding")["subjects"],
            [{"kind": "ServiceAccount", "name": "higress-gateway", "namespace": "gateways"}],
        )
        values["rbac"]["create"] = False
        self.assertNotIn("Role", kinds(rendered(values)))


class Monitoring(unittest.TestCase):
    ALL = {
        "monitoring": {
            "serviceMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True},
        }
    }

    def test_every_rule_and_every_dashboard_is_rendered_unchanged(self):
        documents = rendered(self.ALL)
        rules = [
            group for file in sorted((CHART / "rules").glob("*.yaml")) for group in load(file.read_text())["groups"]
        ]
        self.assertTrue(rules)
        self.assertEqual(find(documents, "PrometheusRule")["spec"]["groups"], rules)
        files = {file.name: file.read_text() for file in (CHART / "dashboards").glob("*.json")}
        self.assertTrue(files)
        found = {}
        for document in documents:
            if document["metadata"]["name"].endswith("-dashboard"):
                self.assertEqual(document["metadata"]["labels"]["grafana_dashboard"], "1")
                found |= document["data"]
        self.assertEqual(
            {name: load(text) for name, text in found.items()}, {name: load(text) for name, text in files.items()}
        )

    def test_the_runbook_url_can_be_replaced(self):
        text = str(self.rules({"runbookUrl": "https://wiki.example/runbook"}))
        self.assertIn("https://wiki.example/runbook#evenkeelpoolfull", text)
        self.assertNotIn("docs/runbook.md", text)

    def test_the_down_alert_selects_a_release_with_another_name(self):
        down = 'up{job=~".*(evenkeel|edge).*"} == 0'
        self.assertIn(down, [rule["expr"] for rule in self.rules({}, fullnameOverride="edge")])
        documents = rendered({**self.ALL, "fullnameOverride": "edge"})
        # The operator uses the name of the service as the job.
        services = [d["metadata"]["name"] for d in documents if d["kind"] == "Service"]
        self.assertIn("edge", services)

    def rules(self, values, **more):
        values = {"monitoring": {"prometheusRule": {"enabled": True, **values}}, **more}
        groups = find(rendered(values), "PrometheusRule")["spec"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def test_in_sidecar_mode_the_gateways_pods_are_scraped(self):
        monitor = find(rendered({**self.ALL, "mode": "sidecar", "sidecar": {"gateway": "higress"}}), "PodMonitor")[
            "spec"
        ]
        self.assertEqual(monitor["selector"]["matchLabels"], {"app": "higress-gateway"})
        names = [port["name"] for port in sidecar_container(workload(rendered({"mode": "sidecar"})))["ports"]]
        self.assertIn(monitor["podMetricsEndpoints"][0]["port"], names)


class Library(unittest.TestCase):
    def test_the_container_can_be_included_by_a_chart_that_depends_on_this_one(self):
        with tempfile.TemporaryDirectory() as directory:
            parent = pathlib.Path(directory) / "gateway"
            (parent / "templates").mkdir(parents=True)
            (parent / "Chart.yaml").write_text(
                "apiVersion: v2\nname: gateway\nversion: 1.0.0\ndependencies: [{name: evenkeel, version: 0.1.0, repository: ''}]\n"
            )
            shutil.copytree(CHART, parent / "charts" / "evenkeel")
            (parent / "templates" / "pod.yaml").write_text(
                "apiVersion: v1\nkind: Pod\nmetadata: {name: gateway}\nspec:\n"
                "  containers: [{name: envoy, image: envoy}]\n"
                '  initContainers:\n    - {{- include "evenkeel.sidecarContainer" .Subcharts.evenkeel | nindent 6 }}\n'
                '  volumes:\n    {{- include "evenkeel.sidecarVolumes" .Subcharts.evenkeel | nindent 4 }}\n'
            )
            values = {
                "global": {"x": 1},
                "evenkeel": {"mode": "sidecar", **REDIS, "sidecar": {"socket": {"enabled": True}}},
            }
            documents = render(values, chart=parent, release="edge")
        pod = find(documents, "Pod")
        self.assertEqual(pod["spec"]["initContainers"][0]["restartPolicy"], "Always")
        names = {volume["name"] for volume in pod["spec"]["volumes"]}
        self.assertEqual({m["name"] for m in pod["spec"]["initContainers"][0]["volumeMounts"]}, names)
        self.assertEqual(find(documents, "ConfigMap", "edge-evenkeel")["metadata"]["namespace"], "gateways")

    def test_a_sidecar_that_is_not_native_is_an_ordinary_container(self):
        values = {"mode": "sidecar", "sidecar": {"native": False, "socket": {"enabled": True}}}
        spec = workload(rendered(values, "1.25.0"))["spec"]["template"]["spec"]
        self.assertEqual([c["name"] for c in spec["containers"]], ["istio-proxy", "evenkeel"])
        self.assertNotIn("restartPolicy", spec["containers"][1])
        socket = {"name": "evenkeel-socket", "mountPath": "/run/evenkeel"}
        self.assertIn(socket, spec["containers"][0]["volumeMounts"])
        self.assertIn(socket, spec["containers"][1]["volumeMounts"])

    def test_istios_template_equals_the_patch(self):
        data = find(rendered({"mode": "sidecar"}), "ConfigMap", "ek-evenkeel-sidecar")["data"]
        template = load(load(data["istiod-values.yaml"])["sidecarInjectorWebhook"]["templates"]["evenkeel"])
        self.assertEqual(template, load(data["deployment-patch.yaml"])["spec"]["template"])
        self.assertNotIn("{{", data["istiod-values.yaml"])
        self.assertEqual(merged({"spec": {}}, template)["spec"], template["spec"])


class Notes(unittest.TestCase):
    """Renders NOTES.txt as a manifest, because `helm template` omits it."""

    def notes(self, values):
        with tempfile.TemporaryDirectory() as directory:
            chart = pathlib.Path(directory) / "evenkeel"
            shutil.copytree(CHART, chart)
            text = (chart / "templates/NOTES.txt").read_text()
            (chart / "templates/NOTES.txt").unlink()
            (chart / "templates/notes.yaml").write_text(
                '{{ define "notes" }}'
                + text
                + '{{ end }}kind: Notes\nmetadata: {name: n}\ntext: {{ include "notes" . | toJson }}\n'
            )
            return find(rendered(values, chart=chart), "Notes")["text"]

    def test_the_notes_show_the_page_and_the_next_command(self):
        text = self.notes({})
        self.assertIn("kubectl -n gateways port-forward service/ek-evenkeel 9191:9191", text)
        self.assertIn("kubectl -n gateways exec deployment/ek-evenkeel -- evenkeel pools", text)
        self.assertIn("ek-evenkeel-headless.gateways.svc.cluster.local:9190", text)
        self.assertIn("WARNING: every pod of the cluster can call gRPC and act as a gateway", text)
        self.assertIn("The page and the API need a token, and there is none yet", text)
        self.assertNotIn("there is none yet", self.notes({"admin": {"tokens": {"ops": "x" * 16}}}))
        self.assertIn("exec daemonset/ek-evenkeel", self.notes({"mode": "daemonset"}))
        text = self.notes({"mode": "sidecar", "sidecar": {"gateway": "higress"}})
        self.assertIn("patch deployment higress-gateway --patch-file patch.yaml", text)
        self.assertIn("loses its data", self.notes({"redis": {"mode": "bundled", "urls": []}}))
        self.assertIn(
            "plugin.istio.modelServers` is empty",
            self.notes({"plugin": {"url": "oci://x", "istio": {"enabled": True}}}),
        )
        istio = {"enabled": True, "modelServers": [{"service": "llm.models.svc.cluster.local", "port": 8000}]}
        self.assertIn("by locality", self.notes({"plugin": {"url": "oci://x", "istio": istio}}))
        istio["destinationRules"] = True
        self.assertNotIn("by locality", self.notes({"plugin": {"url": "oci://x", "istio": istio}}))
        values = {"mode": "sidecar", "config": {"pools": [matrix.SLICES]}}
        self.assertIn("rbac.gatewayServiceAccounts` is empty", self.notes(values))
        self.assertNotIn(
            "rbac.gatewayServiceAccounts",
            self.notes({**values, "rbac": {"gatewayServiceAccounts": [{"name": "gateway"}]}}),
        )
        self.assertNotIn("Next: the plugin", self.notes({"plugin": {"url": "oci://x", "higress": {"enabled": True}}}))


class Package(unittest.TestCase):
    def test_the_package_contains_rules_and_dashboards(self):
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(
                [TOOLS / "helm", "package", CHART, "--destination", directory], check=True, capture_output=True
            )
            text = helm(
                "template", "ek", f"{directory}/evenkeel-0.1.0.tgz", values=matrix.over(dict(Monitoring.ALL), REDIS)
            )
        self.assertIn("kind: PrometheusRule", text)
        self.assertIn("-dashboard", text)
