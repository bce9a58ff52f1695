"""Checks TLS and roles: the certificate, the listeners, and the cluster of gateways."""

import copy
import unittest

import matrix
from chart import configuration, find, render, sidecar_container, workload


def rendered(values=None):
    return render(matrix.over({"redis": {"urls": ["redis://redis:6379"]}}, values or {}), "1.33.0")


class TransportSecurity(unittest.TestCase):
    SECRET = {"tls": {"existingSecret": "cert", "clientCertificates": "required"}}

    def test_roles_of_listeners_follow_tls(self):
        self.assertEqual(configuration(rendered(self.SECRET))["listen"]["grpc_roles"], [])
        self.assertEqual(configuration(rendered({"tls": {"existingSecret": "cert"}}))["listen"]["grpc_roles"], ["gateway"])
        given = rendered({"access": {"grpcRoles": ["reader"], "httpRoles": ["reader"], "metrics": "reader"}})
        listen = configuration(given)["listen"]
        self.assertEqual([listen[key] for key in ("grpc_roles", "http_roles", "metrics")], [["reader"], ["reader"], "reader"])
        self.assertNotIn("grpc_roles", configuration(rendered({"mode": "sidecar"}))["listen"])

    def test_the_certificate_is_mounted_and_probes_use_it(self):
        documents = rendered(self.SECRET)
        self.assertEqual(
            configuration(documents)["tls"],
            {
                "cert_file": "/etc/evenkeel/tls/tls.crt",
                "key_file": "/etc/evenkeel/tls/tls.key",
                "client_ca_file": "/etc/evenkeel/tls/ca.crt",
                "client_certificates": "required",
                "min_version": "1.2",
            },
        )
        container = sidecar_container(workload(documents))
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        self.assertEqual(mounts["evenkeel-tls"], "/etc/evenkeel/tls")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            self.assertEqual(container[probe]["httpGet"]["scheme"], "HTTPS")
        own = {"tls": {"clientCA": {"configMap": "istio-ca-root-cert", "key": "root-cert.pem"}}}
        documents = rendered(matrix.over(copy.deepcopy(self.SECRET), own))
        self.assertEqual(configuration(documents)["tls"]["client_ca_file"], "/etc/evenkeel/client-ca/ca.crt")
        volumes = {volume["name"]: volume for volume in workload(documents)["spec"]["template"]["spec"]["volumes"]}
        self.assertEqual(
            volumes["evenkeel-client-ca"]["configMap"],
            {"name": "istio-ca-root-cert", "items": [{"key": "root-cert.pem", "path": "ca.crt"}]},
        )

    def test_cert_manager_issues_a_certificate_for_the_services(self):
        values = {"tls": {"certManager": {"enabled": True, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}}}
        spec = find(rendered(values), "Certificate")["spec"]
        self.assertEqual(spec["secretName"], "ek-evenkeel-tls")
        self.assertEqual(spec["issuerRef"], {"name": "ca", "kind": "ClusterIssuer"})
        self.assertIn("ek-evenkeel-headless.gateways.svc.cluster.local", spec["dnsNames"])
        self.assertIn("ek-evenkeel.gateways.svc", spec["dnsNames"])

    def test_gateways_show_a_certificate(self):
        plugin = {"url": "oci://x", "tls": {"caFile": "/ca.crt"}, "istio": {"enabled": True}}

        def context(**tls):
            values = matrix.over(copy.deepcopy(self.SECRET), {"plugin": plugin})
            patches = find(rendered(matrix.over(values, {"plugin": {"tls": tls}})), "EnvoyFilter")["spec"]["configPatches"]
            return patches[0]["patch"]["value"]["transport_socket"]["typed_config"]

        host = "ek-evenkeel-headless.gateways.svc.cluster.local"
        istio = context(clientCertificate="istio")
        self.assertEqual(istio["sni"], host)
        common = istio["common_tls_context"]
        self.assertEqual(common["alpn_protocols"], ["h2"])
        self.assertEqual(common["validation_context"]["trusted_ca"], {"filename": "/ca.crt"})
        self.assertEqual(
            common["validation_context"]["match_typed_subject_alt_names"], [{"san_type": "DNS", "matcher": {"exact": host}}]
        )
        self.assertEqual(common["tls_certificate_sds_secret_configs"][0]["name"], "default")
        files = context(clientCertificate="files", certFile="/c", keyFile="/k")["common_tls_context"]
        self.assertEqual(files["tls_certificates"][0]["private_key"], {"filename": "/k"})


if __name__ == "__main__":
    unittest.main()
