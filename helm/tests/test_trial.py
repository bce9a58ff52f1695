"""The trial as the chart makes it, without Kubernetes: the bundled Redis with its arguments and rights, and a sidecar with its
files, both real."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

import yaml
from chart import find, load, render, sidecar_container, workload
from sidecar import EVENKEEL, mount

REDIS_SERVER = os.environ.get("EVENKEEL_REDIS_SERVER") or "redis-server"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command):
    """A process that is stopped in any case, and what it has said so far."""
    with tempfile.TemporaryFile() as log, subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT) as process:
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
            test.fail(f"not within {seconds} s: {said()}")
        time.sleep(0.05)


class Trial(unittest.TestCase):
    def test_the_sidecar_works_on_the_bundled_redis_with_no_right_to_spare(self):
        documents = render({
            "redis": {"mode": "bundled", "keyPrefix": "trial", "password": "p@ss/word:%25 x"},
            "config": {
                "keep_alive_interval": "200ms",
                "pools": [{"cluster": "llm", "cap": 2, "endpoints": [{"address": "10.0.0.1:8000"}]}],
                "limits": [{"name": "rpm", "counts": "requests", "amount": 5, "per": "1m", "key": ["consumer"]}],
            },
        })
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
            config["drain_delay"] = "0s"
            path.write_text(yaml.safe_dump(config))
            with running([REDIS_SERVER, *arguments, "--port", redis_port, "--bind", "127.0.0.1"]) as (_, redis_said), \
                    running([EVENKEEL, "serve", "--config", path]) as (_, said):
                def store_up():
                    with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=5) as answer:
                        return json.load(answer)["store_up"]
                both = lambda: redis_said() + said()
                eventually(self, store_up, both)
                server = ["--server", f"http://127.0.0.1:{grpc}"]
                admitted = subprocess.run([EVENKEEL, "admit", *server, "--cluster", "llm", "--hold", "1s"], capture_output=True, text=True, timeout=60)
                self.assertEqual(admitted.returncode, 0, admitted.stderr + both())
                self.assertIn("10.0.0.1:8000", admitted.stdout)
                # Audits and the registry have run as well by now.
                time_up = time.monotonic() + 1
                eventually(self, lambda: time.monotonic() > time_up, both)
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=5) as answer:
                    metrics = answer.read().decode()
                failed = [line for line in metrics.splitlines() if line.startswith("evenkeel_store_errors_total{") and not line.endswith(" 0") and '"script"' in line]
                self.assertEqual(failed, [], both())
                self.assertNotIn("NOPERM", said())
