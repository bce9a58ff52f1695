"""The values that the tests render. `PARTS` has the choices for each part of the values. A case has one choice for each
part, and the cases together combine every two choices."""

import copy
import itertools

# A configuration with every section that the chart passes to the sidecar.
CONFIG = {
    "keep_alive_interval": "2s",
    "log": {"level": "evenkeel=debug"},
    "store": {"timeout": "20ms"},
    "pools": [
        {
            "cluster": "llm",
            "cap": 64,
            "endpoints": [{"address": "10.0.0.1:8000"}, {"address": "10.0.0.2:8000", "weight": 2}],
        },
        {"cluster": "embeddings", "dns": {"name": "embeddings.models.svc.cluster.local", "port": 8000}},
    ],
    "unlisted_pools": {"accept": False},
    "limits": [
        {"name": "tpm", "counts": "tokens", "amount": 100000000, "per": "1m", "key": ["consumer"]},
        {"name": "at-once", "counts": "requests", "amount": 4, "algorithm": "concurrency", "key": ["consumer"]},
    ],
    "quotas": [{"name": "credit", "counts": "cost", "kind": "prepaid", "default": 0}],
    "prices": [{"model": "*", "input": 0.5, "output": 1.5}],
    "limit_headers": ["ietf", "x"],
    "quota_admins": ["admin"],
}
# Files of secrets and ConfigMaps that the user creates.
SECRETS = {
    "redis-auth": {"password": "p@ss/word:%"},
    "redis-ca": {"ca.crt": "-----BEGIN CERTIFICATE-----\n"},
    "redis-own": {"tls.crt": "-----BEGIN CERTIFICATE-----\n", "tls.key": "-----BEGIN PRIVATE KEY-----\n"},
    "ca-bundle": {"bundle.pem": "-----BEGIN CERTIFICATE-----\n"},
    "admins": {"ops": "0123456789abcdef0123", "night": "fedcba9876543210fedc"},
}
# A certificate for tests, valid for 100 years, with its key.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBszCCAVmgAwIBAgIUFCsAg7rGlt1qGUlWdiR6w6QPI2EwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjkxNDI3NDdaGA8yMTI2MTEwNTE0Mjc0
N1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPWi
xvhsSlZbUDaaYwAtQFflSxFMVQp4ZcJrfSFGG54lnL0RzJ5xVHT5X/Uq9qj+mDCP
EILHCx0vwu3kQYCnsR6jgZAwgY0wHQYDVR0OBBYEFC2Ye7DcQpoGFEl6DY1xy9Gd
0wHAMB8GA1UdIwQYMBaAFC2Ye7DcQpoGFEl6DY1xy9Gd0wHAMA8GA1UdEwEB/wQF
MAMBAf8wOgYDVR0RBDMwMYIvZWstZXZlbmtlZWwtaGVhZGxlc3MuZ2F0ZXdheXMu
c3ZjLmNsdXN0ZXIubG9jYWwwCgYIKoZIzj0EAwIDSAAwRQIhAIXZUtuyushX+is7
TMZngj4IXNT48h0qyz7o4hGfO8mbAiAM+qYNPPUYaxLH71wjqsxM9fCepJQsRyJc
z361H3x8cQ==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYsYnVkD95Nx+IYek
bT3p8+Opy+jQnsf7x5gNWWg9UKyhRANCAAT1osb4bEpWW1A2mmMALUBX5UsRTFUK
eGXCa30hRhueJZy9EcyecVR0+V/1Kvao/pgwjxCCxwsdL8Lt5EGAp7Ee
-----END PRIVATE KEY-----
"""
SECRETS["sidecar-tls"] = {"tls.crt": CERTIFICATE, "tls.key": KEY, "ca.crt": CERTIFICATE}
TOKEN = "replace-me-replace-me-replace-me"
SLICES = {"cluster": "outbound|80||llm.models.svc.cluster.local", "kubernetes": {}}

PARTS = {
    "mode": {
        "deployment": {"mode": "deployment"},
        "scaled": {
            "mode": "deployment",
            "autoscaling": {"enabled": True},
            "priorityClassName": "high",
            "podDisruptionBudget": {"maxUnavailable": "25%"},
        },
        "daemonset": {
            "mode": "daemonset",
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"gateways": "true"},
        },
        "sidecar": {"mode": "sidecar"},
        "socket": {"mode": "sidecar", "sidecar": {"socket": {"enabled": True}, "required": True}},
    },
    "redis": {
        "external": {"redis": {"urls": ["redis://redis.data:6380/2"], "keyPrefix": "prod"}},
        "acl": {"redis": {"urls": ["redis://redis.data:6379"], "user": "evenkeel", "existingSecret": "redis-auth"}},
        "password": {"redis": {"urls": ["redis://redis.data"], "password": "made up/by:hand%"}},
        "cluster": {
            "redis": {
                "urls": ["redis://a.data:6379", "redis://b.data:6379"],
                "cluster": True,
                "existingSecret": "redis-auth",
            }
        },
        "tls": {
            "redis": {
                "urls": ["rediss://redis.data:6379/0"],
                "existingSecret": "redis-auth",
                "tls": {"caSecret": "redis-ca", "certSecret": "redis-own", "serverName": "redis.example"},
            }
        },
        "tls-bundle": {
            "redis": {
                "urls": ["rediss://redis.data:6379/0"],
                "tls": {"caConfigMap": "ca-bundle", "caKey": "bundle.pem"},
            }
        },
        "sentinel": {
            "redis": {
                "urls": ["redis://s-0.data:26379", "redis://s-1.data:26379"],
                "sentinel": {"masterName": "evenkeel", "login": True},
                "user": "evenkeel",
                "existingSecret": "redis-auth",
            }
        },
        "sentinel-tls": {
            "redis": {"urls": ["rediss://s-0.data:26379"], "sentinel": {"masterName": "evenkeel"}},
        },
        "bundled": {"redis": {"mode": "bundled"}},
        "bundled-kept": {
            "redis": {
                "mode": "bundled",
                "password": TOKEN,
                "keyPrefix": "trial",
                "bundled": {"persistence": {"enabled": True, "storageClass": "fast"}},
            }
        },
    },
    "discovery": {
        "none": {},
        "namespaces": {
            "config": {
                "pools": [
                    SLICES,
                    {"cluster": "other", "kubernetes": {"service": "other", "namespace": "more", "port": "http"}},
                ]
            }
        },
        "everywhere": {"config": {"unlisted_pools": {"accept": True, "kubernetes": {}}}},
    },
    "plugin": {
        "none": {},
        "higress": {
            "plugin": {
                "url": "oci://registry.example/evenkeel-plugin:0.1.0-higress",
                "imagePullSecret": "registry",
                "higress": {"enabled": True},
            },
            "sidecar": {"gateway": "higress"},
        },
        "istio": {
            "plugin": {
                "url": "oci://registry.example/evenkeel-plugin:0.1.0",
                "sha256": "ab" * 32,
                "failOpen": False,
                "config": {"deadline_ms": 80, "on_error": "closed"},
                "istio": {
                    "enabled": True,
                    "phase": "STATS",
                    "modelServers": [
                        {"service": "llm.models.svc.cluster.local", "port": 8000},
                        {"service": "embeddings.models.svc.cluster.local", "port": 80},
                    ],
                },
            }
        },
        "istio-filter": {
            "plugin": {
                "url": "https://files.example/plugin.wasm",
                "sha256": "cd" * 32,
                "config": {"read_body": True, "include_usage": True},
                "istio": {
                    "enabled": True,
                    "resource": "EnvoyFilter",
                    "destinationRules": True,
                    "modelServers": [{"service": "llm.models.svc.cluster.local", "port": 8000}],
                },
            }
        },
        "istio-file": {
            "plugin": {
                "url": "file:///var/lib/evenkeel/plugin.wasm",
                "config": {"apply": {"header": "x-endpoint"}},
                "istio": {
                    "enabled": True,
                    "resource": "EnvoyFilter",
                    "modelServers": [{"service": "llm.models.svc.cluster.local", "port": 8000}],
                },
            }
        },
        "envoy-gateway": {
            "plugin": {
                "url": "oci://registry.example/evenkeel-plugin:0.1.0",
                "imagePullSecret": "registry",
                "envoyGateway": {"enabled": True, "gateway": "eg"},
            },
            "sidecar": {"gateway": "envoyGateway"},
        },
        "envoy-gateway-body": {
            "plugin": {
                "url": "https://files.example/plugin.wasm",
                "sha256": "cd" * 32,
                "config": {"read_body": True},
                "envoyGateway": {
                    "enabled": True,
                    "gateway": "eg",
                    "namespace": "edge",
                    "listeners": ["http", "https"],
                    "routes": ["chat"],
                },
            },
            "sidecar": {"gateway": "envoyGateway"},
        },
    },
    "rest": {
        "little": {},
        "all": {
            "monitoring": {
                "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
                "dashboards": {"enabled": True, "annotations": {"folder": "gateways"}, "namespace": "monitoring"},
            },
            "admin": {"tokens": {"ops": TOKEN}},
            "files": {
                "ai-token-ratelimit.yaml": "rule_name: a\nrule_items:\n- limit_by_consumer: ''\n  limit_keys:\n  - {key: alice, token_per_minute: 10}\n"
            },
            "rateLimitFiles": {
                "gateway.yaml": "domain: gateway\ndescriptors:\n- key: generic_key\n  rate_limit: {unit: minute, requests_per_unit: 10}\n"
            },
            "commonLabels": {"team": "ai"},
            "podLabels": {"sidecar.istio.io/inject": "false"},
            "podAnnotations": {"note": "42"},
            "imagePullSecrets": [{"name": "registry"}],
            "image": {"digest": "sha256:" + "0" * 64},
            "extraEnv": [{"name": "EVENKEEL_LOG", "value": "debug"}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "serviceAccount": {"annotations": {"a": "b"}},
            "rbac": {"gatewayServiceAccounts": [{"name": "gateway", "namespace": "edge"}]},
        },
        "own-secrets": {
            "admin": {"existingSecret": "admins", "names": ["ops", "night"]},
            "serviceAccount": {"create": False, "name": "theirs"},
            "shutdownDelaySeconds": 0,
            "resources": {},
            "topologySpreadConstraints": [],
            "podDisruptionBudget": {"enabled": False},
            "fullnameOverride": "ek-evenkeel",
        },
        "closed": {
            "networkPolicy": {
                "enabled": True,
                "gateways": [{"namespaceSelector": {"matchLabels": {"gateways": "true"}}}],
                "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
                "extraEgress": [{"ports": [{"protocol": "TCP", "port": 4317}]}],
            }
        },
    },
    "tls": {
        "none": {},
        "server": {"tls": {"existingSecret": "sidecar-tls", "minVersion": "1.3"}, "plugin": {"tls": {"caFile": "/ca.crt"}}},
        "mutual": {
            "tls": {"existingSecret": "sidecar-tls", "clientCertificates": "required"},
            "access": {"metrics": "reader"},
            "config": {"gateway": {"certificates": ["spiffe://cluster.local/ns/edge/sa/gateway"]}},
            "plugin": {
                "tls": {
                    "clientCertificate": "files",
                    "caFile": "/ca.crt",
                    "certFile": "/tls.crt",
                    "keyFile": "/tls.key",
                }
            },
        },
    },
    "kubernetes": {version: {} for version in ("1.25.0", "1.28.3", "1.29.0", "1.31.2", "1.34.0", "1.37.0")},
}


def over(base, more):
    """Merges `more` into `base`: merges mappings, appends pools, replaces other lists."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            over(base[key], value)
        elif key == "pools" and key in base:
            base[key] = base[key] + copy.deepcopy(value)
        else:
            base[key] = copy.deepcopy(value)
    return base


def values(case):
    """Returns the values of a case, and its Kubernetes version."""
    found = {"config": copy.deepcopy(CONFIG)}
    for part, choice in case.items():
        over(found, PARTS[part][choice])
    if case["rest"] == "all":
        found["config"]["higress_rules"] = [
            {"plugin": "ai-token-ratelimit", "file": "/etc/evenkeel/files/ai-token-ratelimit.yaml"}
        ]
    if tuple(map(int, case["kubernetes"].split("."))) < (1, 29, 0):
        found.setdefault("sidecar", {})["native"] = False
    if case["mode"] in ("sidecar", "socket"):
        # The chart creates no NetworkPolicy for the gateway's pods, and gateways reach the sidecar within their pod.
        found.pop("networkPolicy", None)
        found.pop("tls", None)
        found["config"].pop("gateway", None)
    return found, case["kubernetes"]


def cases():
    """Returns cases that together combine every two choices of different parts. The search is greedy and deterministic."""
    names = list(PARTS)
    wanted = {
        frozenset(((a, x), (b, y))) for a, b in itertools.combinations(names, 2) for x in PARTS[a] for y in PARTS[b]
    }
    found = []
    while wanted:
        first = min(wanted, key=lambda pair: sorted(pair))
        case = dict(first)
        for name in names:
            if name not in case:
                case[name] = max(
                    PARTS[name],
                    key=lambda choice: sum(frozenset(((name, choice), other)) in wanted for other in case.items()),
                )
        case = {name: case[name] for name in names}
        wanted -= {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}
        found.append(case)
    return found
