"""Every combination of two choices renders, is valid for Kubernetes, and has a valid configuration."""

import collections
import concurrent.futures
import itertools
import os
import unittest

import matrix
from chart import CHART, Refused, helm, render
from schemas import Invalid, validate, validate_all
from sidecar import EVENKEEL, check_config


def check(case):
    """Checks a case. Returns the case, the schema against which each kind was validated, and the error or `None`."""
    values, kubernetes = matrix.values(case)
    try:
        documents = render(values, kubernetes)
        found = validate_all(documents, kubernetes)
        said = check_config(documents, matrix.SECRETS)
        if "is allowed" in said:
            raise Invalid(said)
        return case, found, None
    except (Refused, Invalid, AssertionError, KeyError, TypeError) as error:
        return case, {}, f"{type(error).__name__}: {error}"


class Matrix(unittest.TestCase):
    def test_every_combination_is_valid(self):
        self.assertTrue(EVENKEEL.is_file(), f"{EVENKEEL} does not exist; run cargo build -p evenkeel")
        cases = matrix.cases()
        against = collections.defaultdict(set)
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as workers:
            for case, found, fault in workers.map(check, cases, chunksize=4):
                with self.subTest(**case):
                    self.assertIsNone(fault, fault)
                for kind, how in found.items():
                    against[how].add(kind)
        print(
            f"\n{len(cases)} combinations; "
            + "; ".join(f"{how}: {', '.join(sorted(kinds))}" for how, kinds in sorted(against.items()))
        )
        # A kind that no combination contains would not be validated.
        self.assertEqual(
            set().union(*against.values()),
            {
                "BackendTrafficPolicy",
                "ClusterRole",
                "ClusterRoleBinding",
                "ConfigMap",
                "DaemonSet",
                "Deployment",
                "DestinationRule",
                "EnvoyExtensionPolicy",
                "EnvoyFilter",
                "EnvoyPatchPolicy",
                "EnvoyProxy",
                "HorizontalPodAutoscaler",
                "NetworkPolicy",
                "PodDisruptionBudget",
                "PodMonitor",
                "PrometheusRule",
                "Role",
                "RoleBinding",
                "Secret",
                "Service",
                "ServiceAccount",
                "ServiceMonitor",
                "StatefulSet",
                "WasmPlugin",
            },
        )

    def test_the_cases_combine_every_two_choices(self):
        met = {frozenset(pair) for case in matrix.cases() for pair in itertools.combinations(case.items(), 2)}
        for a, b in itertools.combinations(matrix.PARTS, 2):
            for x, y in itertools.product(matrix.PARTS[a], matrix.PARTS[b]):
                self.assertIn(frozenset(((a, x), (b, y))), met)

    def test_strings_that_look_like_numbers_stay_strings(self):
        digits = {
            "fullnameOverride": "1e3",
            "priorityClassName": "123",
            "commonLabels": {"a": "1"},
            "podLabels": {"b": "true"},
            "podAnnotations": {"c": "0x1"},
            "imagePullSecrets": [{"name": "1"}],
            "image": {"repository": "1", "tag": "1.10"},
            "serviceAccount": {"name": "1"},
            "nodeSelector": {"d": "1"},
            "redis": {
                "urls": ["rediss://r"],
                "existingSecret": "1",
                "existingSecretKey": "2",
                "tls": {"caSecret": "3", "caKey": "4"},
            },
            "admin": {"existingSecret": "1", "names": ["1"]},
            "files": {"1": "2"},
            "rateLimitFiles": {"1": "2"},
            "monitoring": {"serviceMonitor": {"enabled": True}},
            "plugin": {"url": "oci://1", "sha256": "1" * 64, "imagePullSecret": "1"},
        }
        for gateway, more in (
            ("higress", {"namespace": "1", "selector": {"a": "1"}}),
            ("istio", {"namespace": "1", "selector": {"a": "1"}, "modelServers": [{"service": "1", "port": 1}]}),
            ("envoyGateway", {"namespace": "1", "gateway": "1", "routes": ["1"]}),
        ):
            for mode in ("deployment", "sidecar"):
                values = matrix.over({}, digits)
                values["plugin"] = {**values["plugin"], gateway: {"enabled": True, **more}}
                values |= {"mode": mode, "sidecar": {"gateway": gateway, "socket": {"enabled": True}}}
                with self.subTest(gateway=gateway, mode=mode):
                    documents = render(values)
                    for document in documents:
                        validate(document, "1.33.0")

    def test_lint_finds_nothing(self):
        for part, choices in matrix.PARTS.items():
            for choice in choices if part != "kubernetes" else []:
                case = {
                    "mode": "deployment",
                    "redis": "external",
                    "discovery": "none",
                    "plugin": "none",
                    "rest": "little",
                    "kubernetes": "1.29.0",
                }
                values, _ = matrix.values(case | {part: choice})
                if "sidecar" in values:
                    values["sidecar"]["native"] = False  # `helm lint` has no option for the Kubernetes version
                if values["mode"] == "sidecar":
                    values["sidecar"] = {**values.get("sidecar", {}), "native": False}
                with self.subTest(part=part, choice=choice):
                    said = helm("lint", "--strict", str(CHART), values=values)
                    self.assertIn("1 chart(s) linted, 0 chart(s) failed", said)
