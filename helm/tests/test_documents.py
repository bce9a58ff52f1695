"""Checks that the documentation of the chart matches the chart."""

import json
import re
import subprocess
import tempfile
import textwrap
import unittest

import document
from chart import CHART, ROOT, Refused, load, render
from schemas import validate_all
from sidecar import EVENKEEL, check_config
from test_envoy import MODULE, accepted


class Documents(unittest.TestCase):
    def test_the_table_of_values_is_that_of_values_yaml(self):
        self.assertEqual(document.README.read_text(), document.written(), "run .tools/chart/python/bin/python helm/tests/document.py")

    def test_values_without_a_plain_name_have_a_comment(self):
        said = document.comments()
        plain = {
            "pullPolicy",
            "labels",
            "annotations",
            "size",
            "interval",
            "priority",
            "create",
            "maxUnavailable",
            "minReplicas",
            "maxReplicas",
            "repository",
            "tag",
            "resources",
            "podLabels",
            "podAnnotations",
            "securityContext",
            "podSecurityContext",
            "nodeSelector",
            "tolerations",
            "affinity",
            "priorityClassName",
            "directory",
            "imagePullPolicy",
            "extraVolumeMounts",
        }
        for name, _ in document.leaves(load((CHART / "values.yaml").read_text())):
            if name.rsplit(".", 1)[-1] not in plain:
                self.assertTrue(said.get(name), f"{name} has no comment")

    def test_every_value_is_in_the_schema_and_the_other_way_round(self):
        values = load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())

        def compare(value, schema, path):
            if schema.get("additionalProperties") is not False or not isinstance(value, dict):
                return
            self.assertEqual(
                set(value),
                set(schema["properties"]) - {"global", "enabled"} if not path else set(schema["properties"]),
                path,
            )
            for key in value:
                compare(value[key], schema["properties"][key], f"{path}.{key}")

        # A test of the sidecar compares the schema of `config` with the configuration's types.
        del values["config"], schema["properties"]["config"]
        # `resources` may lack either of its parts.
        del (
            values["redis"]["bundled"]["resources"],
            schema["properties"]["redis"]["properties"]["bundled"]["properties"]["resources"],
        )
        del values["resources"], schema["properties"]["resources"]
        compare(values, schema, "")

    def test_every_value_is_used(self):
        templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
        for name, _ in document.leaves(load((CHART / "values.yaml").read_text())):
            self.assertRegex(templates, rf"\.{name.rsplit('.', 1)[-1]}\b", name)

    def blocks(self, first, least):
        """Returns the YAML blocks that start with the comment `first`, each with the name of its document."""
        found = []
        for path in [CHART / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            for indent, text in re.findall(
                rf"(?m)^( *)```yaml\n\1# {re.escape(first)}\n((?:.*\n)*?)\1```", path.read_text()
            ):
                found.append((path.name, textwrap.dedent(text)))
        self.assertGreaterEqual(len(found), least)
        return found

    def test_values_in_documents_are_valid(self):
        secrets = {
            "evenkeel-redis": {"password": "x"},
            "redis-ca": {"ca.crt": "-----BEGIN CERTIFICATE-----\n"},
            "evenkeel-admins": {"ops": "x" * 16},
        }
        for name, text in self.blocks("values.yaml", 8):
            with self.subTest(f"{name}: {text[:60]}"):
                try:
                    documents = render(load(text), "1.33.0")
                except Refused as error:
                    self.fail(str(error))
                validate_all(documents, "1.33.0")
                check_config(documents, secrets)

    def test_envoys_configuration_in_documents_is_valid(self):
        for name, text in self.blocks("envoy.yaml", 1):
            config = load(text.replace("out/plugin/evenkeel_plugin.wasm", MODULE))
            self.assertEqual(text.count("8080"), 1, "the document replaces 8080 for the second Envoy with sed")
            taken, said = accepted(config)
            self.assertTrue(taken, f"{name}: {said}")
        for name, text in self.blocks("evenkeel.yaml", 2):
            if "/etc/evenkeel/" in text:
                continue  # the block names files that do not exist here
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                ran = subprocess.run([EVENKEEL, "check-config", file.name], capture_output=True, text=True)
                self.assertEqual(ran.returncode, 0, f"{name}: {ran.stderr}")
