"""Runs the parts of the chart without Kubernetes: Redis with the rendered arguments and users, the sidecar with the
rendered files, and Envoy with the rendered patches."""

import contextlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import yaml
from chart import find, load, render, sidecar_container, workload
from sidecar import EVENKEEL, mount
from test_envoy import ENVOY, ROUTER, bootstrap, istio_cluster, listener, proto_merged, with_local_module

REDIS_SERVER = os.environ.get("EVENKEEL_REDIS_SERVER") or "redis-server"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command):
    """Runs a process, and stops it at the end. Yields the process and a function that returns its output so far."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT) as process,
    ):

        def said():
            log.seek(0)
            return log.read().decode(errors="replace")

        try:
            yield process, said
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def eventually(test, condition, said, seconds=30):
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, ValueError):
            if found := condition():
                return found
        if time.monotonic() > end:
            test.fail(f"condition not met within {seconds} s: {said()}")
        time.sleep(0.05)


class Trial(unittest.TestCase):
    def test_the_sidecar_works_with_the_permissions_of_the_bundled_redis(self):
        documents = render(
            {
                "redis": {"mode": "bundled", "keyPrefix": "trial", "password": "p@ss/word:%25 x"},
                "config": {
                    "keep_alive_interval": "200ms",
                    "pools": [{"cluster": "llm", "cap": 2, "endpoints": [{"address": "10.0.0.1:8000"}]}],
                    "limits": [{"name": "rpm", "counts": "requests", "amount": 5, "per": "1m", "key": ["consumer"]}],
                },
            }
        )
        redis = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            mount(documents, root, {})
            acl = root / "users.acl"
            acl.write_text(find(documents, "Secret")["stringData"]["users.acl"])
            self.assertEqual(redis["command"], ["redis-server"])
            redis_port, grpc, http = free_port(), free_port(), free_port()
            places = {"/data": directory, "/etc/redis/users.acl": str(acl)}
            arguments = [places.get(argument, argument) for argument in redis["args"]]
            path = root / sidecar_container(workload(documents))["args"][2].lstrip("/")
            config = load(path.read_text().replace("/etc/evenkeel/", f"{root}/etc/evenkeel/"))
            config["store"]["url"] = f"redis://127.0.0.1:{redis_port}/0"
            config["listen"] = {"grpc": f"127.0.0.1:{grpc}", "http": f"127.0.0.1:{http}"}
            config["shutdown_delay"] = "0s"
            path.write_text(yaml.safe_dump(config))
            with (
                running([REDIS_SERVER, *arguments, "--port", redis_port, "--bind", "127.0.0.1"]) as (_, redis_said),
                running([EVENKEEL, "serve", "--config", path]) as (_, said),
            ):

                def store_up():
                    with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=5) as answer:
                        return json.load(answer)["store_up"]

                def both():
                    return redis_said() + said()

                eventually(self, store_up, both)
                server = ["--server", f"http://127.0.0.1:{grpc}"]
                admitted = subprocess.run(
                    [EVENKEEL, "admit", *server, "--cluster", "llm", "--hold", "1s"],
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                self.assertEqual(admitted.returncode, 0, admitted.stderr + both())
                self.assertIn("10.0.0.1:8000", admitted.stdout)
                # Wait until the recounts and the registry of sidecars have run too.
                time_up = time.monotonic() + 1
                eventually(self, lambda: time.monotonic() > time_up, both)
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=5) as answer:
                    metrics = answer.read().decode()
                failed = [
                    line
                    for line in metrics.splitlines()
                    if line.startswith("evenkeel_store_errors_total{")
                    and not line.endswith(" 0")
                    and '"script"' in line
                ]
                self.assertEqual(failed, [], both())
                self.assertNotIn("NOPERM", said())


class Port(http.server.BaseHTTPRequestHandler):
    """A model server that responds with its own port."""

    def do_GET(self):
        body = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def model_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class Gateway(unittest.TestCase):
    def test_requests_go_to_the_endpoint_that_the_sidecar_chooses(self):
        """Runs the sidecar on its socket, and Envoy with Istio's cluster, patched by the rendered EnvoyFilter."""
        service = "llm.models.svc.cluster.local"
        with tempfile.TemporaryDirectory() as directory, model_server() as first, model_server() as second:
            grpc, http_port, gateway = free_port(), free_port(), free_port()
            root = pathlib.Path(directory)
            documents = render(
                {
                    "mode": "sidecar",
                    "listenAddress": "127.0.0.1",
                    "ports": {"grpc": grpc, "http": http_port},
                    "redis": {"mode": "none"},
                    "sidecar": {"socket": {"enabled": True, "directory": directory}},
                    "config": {
                        "pools": [
                            {
                                "cluster": f"outbound|80||{service}",
                                "endpoints": [{"address": f"127.0.0.1:{port}"} for port in (first, second)],
                            }
                        ]
                    },
                    "plugin": {
                        "url": "file:///plugin.wasm",
                        "failOpen": False,
                        "config": {"report_header": "x-evenkeel", "deadline_ms": 5000, "on_error": "closed"},
                        "istio": {
                            "enabled": True,
                            "resource": "EnvoyFilter",
                            "modelServers": [{"service": service, "port": 80}],
                        },
                    },
                }
            )
            mount(documents, root, {})
            patches = {
                (p["applyTo"], p["patch"]["operation"]): p["patch"]["value"]
                for p in find(documents, "EnvoyFilter")["spec"]["configPatches"]
            }
            cluster = proto_merged(istio_cluster(service, 80), patches[("CLUSTER", "MERGE")])
            del cluster["eds_cluster_config"]
            cluster |= {
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": cluster["name"],
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {
                                    "endpoint": {
                                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                                    }
                                }
                                for port in (first, second)
                            ]
                        }
                    ],
                },
            }
            plugin, _ = with_local_module(patches[("HTTP_FILTER", "INSERT_BEFORE")]["typed_config"])
            listens = listener([{"name": "evenkeel", "typed_config": plugin}, ROUTER])
            listens["address"]["socket_address"]["port_value"] = gateway
            manager = listens["default_filter_chain"]["filters"][0]["typed_config"]
            manager["route_config"]["virtual_hosts"][0]["routes"] = [
                {"name": "chat", "match": {"prefix": "/"}, "route": {"cluster": cluster["name"]}}
            ]
            config = bootstrap([patches[("CLUSTER", "ADD")], cluster], listeners=[listens])
            # The test has no control plane.
            del config["dynamic_resources"]
            (root / "envoy.json").write_text(json.dumps(config))
            path = root / sidecar_container(workload(documents))["args"][2].lstrip("/")
            with (
                running([EVENKEEL, "serve", "--config", path]) as (_, said),
                running([ENVOY, "-c", root / "envoy.json", "--use-dynamic-base-id", "--log-level", "warn"]) as (
                    _,
                    envoy_said,
                ),
            ):

                def ask():
                    with urllib.request.urlopen(f"http://127.0.0.1:{gateway}/", timeout=10) as answer:
                        return answer.headers.get("x-evenkeel"), answer.read().decode()

                eventually(self, ask, lambda: said() + envoy_said(), 60)
                answers = [ask() for _ in range(20)]
                for reported, served_by in answers:
                    self.assertEqual(reported, f"shared 127.0.0.1:{served_by}", said() + envoy_said())
                self.assertEqual({port for _, port in answers}, {str(first), str(second)})
