"""Checks the Dockerfiles, as far as possible without building them."""

import fnmatch
import json
import re
import subprocess
import tomllib
import unittest

from chart import ROOT, TOOLS, render, sidecar_container, workload

FILES = ("server/Dockerfile", "plugin/Dockerfile")


def instructions(path):
    """Returns the name and text of each instruction, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / path).read_text(), flags=re.M)
    text = re.sub(r"\s*\\\n\s*", " ", text)
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def stages(path):
    """Returns the stages in order: name (or number), base, instructions."""
    found, arguments = [], {}
    for name, text in instructions(path):
        if name == "ARG" and not found:
            argument, _, default = text.partition("=")
            arguments[argument] = default
        elif name == "FROM":
            base, _, called = text.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match.group(1)], base)
            found.append((called or str(len(found)), base, []))
        else:
            found[-1][2].append((name, text))
    return found


def ignored(path):
    """Returns whether .dockerignore excludes a file from the context; the last matching pattern decides."""
    parts = path.split("/")
    out = False
    for pattern in (ROOT / ".dockerignore").read_text().split():
        wanted = pattern.lstrip("!")
        starts = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        fits = (
            any(fnmatch.fnmatchcase(start, wanted) for start in starts)
            if not wanted.startswith("**/")
            else wanted[3:] in parts
        )
        if fits:
            out = not pattern.startswith("!")
    return out


class Images(unittest.TestCase):
    def test_the_linter_finds_nothing(self):
        for path in FILES:
            ran = subprocess.run(
                [TOOLS / "python/bin/hadolint", "--no-color", path], cwd=ROOT, capture_output=True, text=True
            )
            self.assertEqual((ran.returncode, ran.stdout), (0, ""))

    def test_bases_and_stages_exist(self):
        wanted = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
        for path in FILES:
            names = []
            for name, base, content in stages(path):
                self.assertRegex(base, r"^(scratch|[a-z0-9./-]+:[a-z0-9.-]+)$", "a base must be pinned by tag")
                self.assertNotRegex(base, "latest")
                if base.startswith("rust:"):
                    version = re.match(r"rust:([0-9.]+)-bookworm", base).group(1)
                    self.assertGreaterEqual([int(n) for n in version.split(".")], [int(n) for n in wanted.split(".")])
                for instruction, text in content:
                    for other in re.findall(r"--from=(\S+)", text) if instruction == "COPY" else []:
                        self.assertIn(other, names)
                names.append(name)

    def test_what_is_built_is_what_is_copied(self):
        content = stages("server/Dockerfile")[0][2]
        built = next(text for name, text in content if name == "RUN")
        self.assertIn(
            "cargo build --locked --release -p evenkeel --bin evenkeel && cp target/release/evenkeel /evenkeel", built
        )
        self.assertIn(("COPY", "--from=build /evenkeel /usr/local/bin/evenkeel"), stages("server/Dockerfile")[1][2])
        script = (ROOT / ".ci/build-plugin").read_text()
        self.assertIn("out=out/plugin\n", script)
        for name, base, content in stages("plugin/Dockerfile")[1:]:
            self.assertEqual(base, "scratch")
            copies = [text for instruction, text in content if instruction != "LABEL"]
            module = re.fullmatch(r"--from=build /src/out/plugin/(\w+)\.wasm /plugin\.wasm", copies[0]).group(1)
            self.assertEqual(len(copies), 1, "the image must have one layer with one file")
            self.assertEqual("higress" in module, name == "higress")
            self.assertRegex(script, rf"(?m)^one {module} ")

    def test_all_that_a_build_needs_is_in_the_context(self):
        ran = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        tracked = ran.stdout.split("\n")[:-1] or [
            str(p.relative_to(ROOT))
            for d in ("proto", "server", "plugin", "loadtest", "lua")
            for p in (ROOT / d).rglob("*")
            if p.is_file()
        ]
        needed = [
            path
            for path in tracked
            if path.startswith(("proto/", "server/", "plugin/", "loadtest/", "lua/", ".ci/build-plugin", "Cargo."))
        ]
        self.assertGreater(len(needed), 100)
        self.assertEqual([path for path in needed if ignored(path)], [])
        for path in (
            ".git/HEAD",
            "target/debug/evenkeel",
            "out/plugin/x.wasm",
            ".tools/envoy/x",
            "server/evenkeel/page/tests/node_modules/x/y.js",
        ):
            self.assertTrue(ignored(path), path)
        # The program may embed files from any directory.
        for source in (p for p in needed if p.endswith(".rs")):
            for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', (ROOT / source).read_text()):
                inside = (ROOT / source).parent.joinpath(name).resolve().relative_to(ROOT)
                self.assertFalse(ignored(str(inside)), f"{source} includes {inside}")

    def test_the_chart_runs_the_image_as_it_is(self):
        last = dict((name, text) for name, text in stages("server/Dockerfile")[-1][2] if name != "COPY")
        container = sidecar_container(workload(render({"redis": {"urls": ["redis://redis"]}})))
        context = container["securityContext"]
        self.assertEqual(last["USER"], f"{context['runAsUser']}:{context['runAsGroup']}")
        self.assertEqual(json.loads(last["ENTRYPOINT"])[0].rsplit("/", 1)[1], "evenkeel")
        self.assertEqual(json.loads(last["CMD"])[0], container["args"][0])
        self.assertEqual(last["EXPOSE"].split(), [str(port["containerPort"]) for port in container["ports"]])
