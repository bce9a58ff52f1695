"""Writes the container's files as Kubernetes would mount them, and checks the configuration with the sidecar itself."""

import base64
import os
import pathlib
import subprocess
import tempfile

from chart import ROOT, sidecar_container, workload

TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
EVENKEEL = pathlib.Path(os.environ.get("EVENKEEL_BIN") or TARGET / "debug" / "evenkeel")


def mount(documents, root, secrets):
    """Writes every mounted file below `root`. `secrets` has the secrets and ConfigMaps of the user, by name."""
    document = workload(documents)
    volumes = {volume["name"]: volume for volume in document["spec"]["template"]["spec"].get("volumes", [])}
    rendered = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    for mounted in sidecar_container(document)["volumeMounts"]:
        assert "subPath" not in mounted, "Kubernetes does not update files of a subPath when a ConfigMap changes"
        directory = root / mounted["mountPath"].lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in _files(volumes[mounted["name"]], rendered, secrets).items():
            (directory / name).write_text(text)


def _files(volume, rendered, secrets):
    if "emptyDir" in volume:
        return {}
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        data = rendered[("ConfigMap", name)]["data"] if ("ConfigMap", name) in rendered else secrets[name]
        return data
    name = volume["secret"]["secretName"]
    if ("Secret", name) in rendered:
        secret = rendered[("Secret", name)]
        data = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
        data |= secret.get("stringData", {})
    else:
        data = secrets[name]
    items = volume["secret"].get("items")
    return {item["path"]: data[item["key"]] for item in items} if items else data


def check_config(documents, secrets=None):
    """Runs `evenkeel check-config` on the rendered configuration and its files, and returns the output.

    Fails if the configuration is rejected."""
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        mount(documents, root, secrets or {})
        container = sidecar_container(workload(documents))
        assert container["args"][:2] == ["serve", "--config"], container["args"]
        path = root / container["args"][2].lstrip("/")
        path.write_text(path.read_text().replace("/etc/evenkeel/", f"{root}/etc/evenkeel/"))
        ran = subprocess.run([EVENKEEL, "check-config", path], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}\n{path.read_text()}"
        return ran.stdout + ran.stderr
