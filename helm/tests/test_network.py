"""Checks who may connect to whom, according to the NetworkPolicies that the chart creates."""

import unittest

import matrix
from chart import find, kinds, render


def rendered(values):
    return render(matrix.over({"redis": {"urls": ["redis://redis:6379"]}}, values), "1.33.0")


class Network(unittest.TestCase):
    def test_the_network_policy_allows_only_needed_connections(self):
        policy = {"enabled": True, "gateways": [{"podSelector": {"matchLabels": {"a": "b"}}}]}
        spec = find(
            rendered({"networkPolicy": policy, "redis": {"urls": ["redis://a:6380/1", "redis://b"], "cluster": True}}),
            "NetworkPolicy",
        )["spec"]
        self.assertEqual([[port["port"] for port in rule["ports"]] for rule in spec["ingress"]], [[9190]])
        self.assertEqual(
            [[port["port"] for port in rule["ports"]] for rule in spec["egress"]], [[53, 53], [6380, 6379]]
        )
        policy["monitoring"] = [{"namespaceSelector": {}}]
        policy["redisEgress"] = [
            {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 6379}]}
        ]
        spec = find(rendered({"networkPolicy": policy, "config": {"pools": [matrix.SLICES]}}), "NetworkPolicy")["spec"]
        self.assertEqual([[port["port"] for port in rule["ports"]] for rule in spec["ingress"]], [[9190], [9191]])
        self.assertEqual(
            [[port["port"] for port in rule["ports"]] for rule in spec["egress"]], [[53, 53], [6379], [443, 6443]]
        )

    def test_only_sidecars_reach_the_bundled_redis(self):
        documents = rendered(
            {
                "networkPolicy": {"enabled": True, "gateways": [{"podSelector": {}}]},
                "redis": {"mode": "bundled", "urls": []},
            }
        )
        spec = find(documents, "NetworkPolicy", "ek-evenkeel-redis")["spec"]
        self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
        self.assertNotIn("egress", spec)
        self.assertEqual(
            spec["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"], "sidecar"
        )

    def test_the_bundled_redis_is_never_open_to_all_pods(self):
        for mode in ("deployment", "daemonset", "sidecar"):
            for enabled in ("auto", False):
                values = {
                    "mode": mode,
                    "networkPolicy": {"enabled": enabled},
                    "redis": {"mode": "bundled", "urls": []},
                }
                spec = find(rendered(values), "NetworkPolicy", "ek-evenkeel-redis")["spec"]
                (rule,) = spec["ingress"]
                (peer,) = rule["from"]
                self.assertEqual(list(peer), ["podSelector"], "only pods of the namespace")
                self.assertEqual(peer["podSelector"] == {}, mode == "sidecar")
        gateways = [{"namespaceSelector": {"matchLabels": {"gateways": "true"}}}]
        values = {
            "mode": "sidecar",
            "networkPolicy": {"gateways": gateways},
            "redis": {"mode": "bundled", "urls": []},
        }
        documents = rendered(values)
        self.assertEqual(find(documents, "NetworkPolicy", "ek-evenkeel-redis")["spec"]["ingress"][0]["from"], gateways)
        self.assertEqual(kinds(documents).count("NetworkPolicy"), 1)

    def test_callers_are_restricted_once_gateways_are_given(self):
        gateways = [{"podSelector": {"matchLabels": {"a": "b"}}}]
        self.assertNotIn("NetworkPolicy", kinds(rendered({})))
        self.assertIn("NetworkPolicy", kinds(rendered({"networkPolicy": {"gateways": gateways}})))
        closed = {"networkPolicy": {"enabled": False, "gateways": gateways}}
        self.assertNotIn("NetworkPolicy", kinds(rendered(closed)))
