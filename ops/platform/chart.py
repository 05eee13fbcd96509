"""The chart, without a cluster: lint, a matrix of values against the schemas of the API, hostile values, and what every pod must be.

chart.py HELM KUBECONFORM SCHEMAS PROMTOOL, run from the root. Needs PyYAML.
"""

import base64
import copy
import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

CHART = "helm/memori-stream"
VALUES = Path("ops/platform/values")
MINIMAL = ["--values", str(VALUES / "minimal.yaml")]

# value, and what the refusal must name
HOSTILE = [
    (["--set", "kafka.brokers="], "kafka.brokers is empty"),
    (["--set", "kafka.brokers=kafka"], "/kafka/brokers"),
    (["--set-string", "kafka.brokers=a:1\nenv: x"], "/kafka/brokers"),
    (["--set", "kafka.broker=a:1"], "'broker' not allowed"),
    (["--set", "kafka.partitions=0"], "/kafka/partitions"),
    (["--set", "kafka.partitions=12.5"], "/kafka/partitions"),
    (["--set", "kafka.topicPrefix=a b"], "/kafka/topicPrefix"),
    (["--set", "kafka.properties.bootstrap_servers=evil:9092"], "/kafka/properties"),
    (["--set", "kafka.properties.SASL=x"], "/kafka/properties"),
    (["--set", "postgres.url="], "postgres.url is empty"),
    (["--set", "postgres.url=mysql://db"], "/postgres/url"),
    (["--set", "postgres.existingSecret.name=db"], "are both given"),
    (["--set", "postgres.existingSecret.name=../x"], "/postgres/existingSecret/name"),
    (["--set", "image.tag=2"], "/image/tag"),
    (["--set", "image.repository=evil image"], "/image/repository"),
    (["--set", "image.digest=sha256:abc"], "/image/digest"),
    (["--set", "image.pullPolicy=Sometimes"], "/image/pullPolicy"),
    (["--set", "auth.firstTenant=a\"b"], "/auth/firstTenant"),
    (["--set", "extractor.kind=magic"], "/extractor/kind"),
    (["--set", "extractor.kind=llm"], "give extractor.baseUrl and extractor.model"),
    (["--set", "extractor.baseUrl=file:///etc/passwd"], "/extractor/baseUrl"),
    (["--set", "embedding.kind=openai"], "give embedding.baseUrl"),
    (["--set", "config.workers.window_events=1"], "/config"),
    (["--set", "worker.replicas=13"], "there are 12 partitions"),
    (["--set", "writer.replicas=13"], "there are 12 partitions"),
    (["--set", "replays.enabled=true,replays.replicas=13"], "there are 12 partitions"),
    (["--set", "replays.mode=only"], "/replays"),
    (["--set", "archiver.enabled=true,archiver.url=/history"], "/archiver/url"),
    (["--set", "archiver.enabled=true,archiver.url=s3://id:key@history/memori"], "/archiver/url"),
    (["--set", "archiver.enabled=true,archiver.url=s3://history,archiver.volume.existingClaim=c"], "are both given"),
    (["--set", "archiver.enabled=true,archiver.replicas=2"], "its volume is one machine's"),
    (["--set", "archiver.enabled=true,archiver.url=s3://history,archiver.replicas=13"], "there are 12 partitions"),
    (["--set", "archiver.enabled=true,archiver.url=s3://history,archiver.existingSecret.env.AWS_ACCESS_KEY_ID=id"], "name the Secret"),
    (["--set", "archiver.existingSecret.env.LD_PRELOAD=x"], "/archiver/existingSecret/env"),
    (["--set", "archiver.volume.accessMode=ReadOnlyMany"], "/archiver/volume/accessMode"),
    (["--set", "archiver.rollBytes=0"], "/archiver/rollBytes"),
    (["--set", "worker.replicas=-1"], "/worker/replicas"),
    (["--set", "worker.replicas=three"], "/worker/replicas"),
    (["--set", "worker.autoscaling.enabled=true"], "prometheus.serverAddress"),
    (["--set", "worker.autoscaling.enabled=true,worker.autoscaling.prometheus.serverAddress=http://p:9090,worker.autoscaling.maxReplicas=13"], "there are 12 partitions"),
    (["--set", "worker.autoscaling.enabled=true,worker.autoscaling.prometheus.serverAddress=http://p:9090,worker.autoscaling.minReplicas=13"], "above its ceiling"),
    (["--set", "worker.autoscaling.enabled=yes-please"], "/worker/autoscaling/enabled"),
    (["--set", "worker.autoscaling.lanes={live,dead}"], "/worker/autoscaling/lanes"),
    (["--set", "worker.autoscaling.kafkaLag.metadata.topic=x"], "/worker/autoscaling/kafkaLag/metadata"),
    (["--set-string", "worker.autoscaling.businessHours.start=at nine"], "/worker/autoscaling/businessHours/start"),
    (["--set", "ingest.spool.size=2GB"], "/ingest/spool/size"),
    (["--set", "ingest.resources.limits.memory=lots"], "/ingest/resources"),
    (["--set", "ingest.service.port=70000"], "/ingest/service/port"),
    (["--set", "ingest.podLabels.a=b c"], "/ingest/podLabels"),
    (["--set", "ingress.enabled=true"], "give ingress.host"),
    (["--set", "ingress.host=a b"], "/ingress/host"),
    (["--set", "httpRoute.enabled=true"], "give httpRoute.parentRefs"),
    (["--set", "shutdown.deadlineSeconds=0"], "/shutdown/deadlineSeconds"),
    (["--set", "listenHost=127.0.0.1"], "/listenHost"),
    (["--set", "securityContext.privileged=true"], "'securityContext' not allowed"),
    (["--set", "monitoring.rules.runbooks=javascript:alert(1)"], "/monitoring/rules/runbooks"),
]


class Checks:
    """Counts what holds, and says what does not."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def that(self, holds, what):
        """`what` is told where it does not hold."""
        if holds:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED: {what}", file=sys.stderr)


def run(*command, text=None):
    """Its status and all that it said."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def rendered(helm, *arguments):
    """The objects that these values make."""
    code, out, said = run(helm, "template", "memori", CHART, "--namespace", "memory", *arguments)
    if code:
        raise SystemExit(f"helm template {arguments}: {said}")
    return out, [o for o in yaml.safe_load_all(out) if o]


def pods(objects):
    """(name, pod spec, whether it stays) of everything that makes pods."""
    for o in objects:
        if o["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield o["metadata"]["name"], o["spec"]["template"]["spec"], o["kind"] != "Job"


def security(checks, what, objects):
    """What the restricted pod security standard asks for, and some more."""
    for name, pod, lasting in pods(objects):
        here = f"{what}: {name}"
        checks.that(pod.get("automountServiceAccountToken") is False, f"{here} mounts a service account's token")
        checks.that(not any(pod.get(k) for k in ("hostNetwork", "hostPID", "hostIPC")), f"{here} shares the host's namespaces")
        context = pod.get("securityContext", {})
        checks.that(context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0, f"{here} may run as root")
        checks.that(context.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{here} has no seccomp profile")
        checks.that(not any("hostPath" in v for v in pod.get("volumes", [])), f"{here} mounts the host's files")
        for container in pod.get("initContainers", []) + pod["containers"]:
            inside = f"{here}/{container['name']}"
            own = container.get("securityContext", {})
            checks.that(own.get("readOnlyRootFilesystem") is True, f"{inside} can write its root file system")
            checks.that(own.get("allowPrivilegeEscalation") is False, f"{inside} can gain privileges")
            checks.that(own.get("capabilities", {}).get("drop") == ["ALL"] and not own["capabilities"].get("add"), f"{inside} keeps capabilities")
            checks.that(not own.get("privileged"), f"{inside} is privileged")
            checks.that("memory" in container["resources"].get("limits", {}) and "memory" in container["resources"].get("requests", container["resources"].get("limits", {})), f"{inside} has no bound on memory")
            checks.that(not container["image"].endswith(":latest") and (":" in container["image"]), f"{inside} runs whichever image is the latest")
            for variable in container.get("env", []):
                secret = re.search(r"(TOKEN|PASSWORD|API_KEY|POSTGRES__.*URL)$", variable["name"])
                checks.that(not secret or "secretKeyRef" in variable.get("valueFrom", {}), f"{inside} has {variable['name']} in the open")
            names = [v["name"] for v in container.get("env", [])]
            checks.that(len(names) == len(set(names)), f"{inside} has a variable twice")
            mounted = {m["name"] for m in container.get("volumeMounts", [])}
            there = {v["name"] for v in pod.get("volumes", [])} | {"spool"}
            checks.that(mounted <= there, f"{inside} mounts what is not there: {mounted - there}")
            if lasting:
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    checks.that(probe in container, f"{inside} has no {probe}")
    # nothing secret outside of Secrets
    for o in objects:
        if o["kind"] != "Secret":
            text = yaml.safe_dump(o)
            checks.that("sk-something" not in text and ":secret@" not in text, f"{what}: {o['kind']} {o['metadata']['name']} shows a secret")
    checks.that(not any(o["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") for o in objects), f"{what}: asks for rights in the cluster")


def find(objects, kind, suffix):
    """The one object of this kind whose name ends so."""
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix))


def environment(objects, component):
    """The variables of a component's container."""
    kind = "StatefulSet" if component == "ingest" else "Deployment"
    container = find(objects, kind, f"-{component}")["spec"]["template"]["spec"]["containers"][0]
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


def policies(checks, what, objects):
    """Every pod is covered by a policy for both directions, budgets and monitors select something."""
    labels = {o["metadata"]["name"]: o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] in ("Deployment", "StatefulSet", "Job")}
    for name, own in labels.items():
        covered = [
            p for p in objects
            if p["kind"] == "NetworkPolicy" and p["spec"]["podSelector"]["matchLabels"].items() <= own.items()
        ]
        checks.that(len(covered) == 1 and set(covered[0]["spec"]["policyTypes"]) == {"Ingress", "Egress"}, f"{what}: {name} has no policy of its own")
    for o in objects:
        selector = None
        if o["kind"] == "PodDisruptionBudget":
            selector = o["spec"]["selector"]["matchLabels"]
        elif o["kind"] == "Service":
            selector = o["spec"]["selector"]
        if selector is not None:
            hit = [n for n, own in labels.items() if selector.items() <= own.items()]
            checks.that(len(hit) == 1, f"{what}: {o['kind']} {o['metadata']['name']} selects {hit}")
        if o["kind"] == "ServiceMonitor":
            wanted = o["spec"]["selector"]["matchLabels"]
            hit = [s for s in objects if s["kind"] == "Service" and wanted.items() <= s["metadata"]["labels"].items()]
            checks.that(len(hit) == 1 and o["spec"]["endpoints"][0]["port"] in [p["name"] for p in hit[0]["spec"]["ports"]], f"{what}: ServiceMonitor {o['metadata']['name']} finds {len(hit)} services")


def keys(checks, objects):
    """The generated Secret: every key is in the file by its hash."""
    secret = {k: base64.b64decode(v).decode() for k, v in find(objects, "Secret", "-auth")["data"].items()}
    file = tomllib.loads(secret["keys.toml"])["keys"]
    checks.that([k["tenant"] for k in file] == ["*", "default"], "the keys file names other tenants")
    for entry, name in zip(file, ["admin-key", "tenant-key"]):
        checks.that(entry["sha256"] == hashlib.sha256(secret[name].encode()).hexdigest(), f"{name} is not the key in the file")
        checks.that(len(secret[name]) >= 43, f"{name} is short")
    checks.that(len({secret[n] for n in ("admin-key", "tenant-key", "internal-token")}) == 3, "keys repeat")
    for _, pod, _ in pods(objects):
        for volume in pod.get("volumes", []):
            if "secret" in volume and volume["name"] == "auth":
                checks.that([i["key"] for i in volume["secret"]["items"]] == ["keys.toml"], "a process sees keys")


def grace(checks, objects, deadline):
    """A process is never killed while it drains."""
    for name, pod, lasting in pods(objects):
        if lasting:
            stop = pod["containers"][0].get("lifecycle", {}).get("preStop", {})
            before = int(stop["exec"]["command"][-1]) if "exec" in stop else stop.get("sleep", {}).get("seconds", 0)
            checks.that(pod["terminationGracePeriodSeconds"] >= before + deadline + 5, f"{name} is killed before it has drained")
            env = {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
            checks.that(env["MEMORI__SHUTDOWN__DEADLINE_MS"] == str(deadline * 1000), f"{name} has another deadline")


def rolled(checks, objects):
    """How an upgrade replaces pods, as tests/tests/rolling_upgrade.rs plays it: writers with a new one first, workers one for one, front doors in place."""
    strategies = {"-writer": {"maxSurge": 1, "maxUnavailable": 0}, "-augment-worker": {"maxSurge": 1, "maxUnavailable": 1}}
    for name, wanted in strategies.items():
        spec = find(objects, "Deployment", name)["spec"]
        checks.that(spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": wanted}, f"{name} is replaced by {spec['strategy']}")
    doors = find(objects, "StatefulSet", "-ingest")["spec"]
    checks.that(doors["updateStrategy"] == {"type": "RollingUpdate"}, "front doors are replaced in another way")
    hook = doors["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    checks.that(hook[:3] == ["memori", "health", "--until-spool-empty"], f"before its end a front door runs {hook}")


def scaling(checks, objects):
    """The ScaledObject: its ceiling, and what it scales on."""
    spec = find(objects, "ScaledObject", "-augment-worker")["spec"]
    checks.that(spec["maxReplicaCount"] == 24, "the ceiling is not the number of partitions")
    checks.that("replicas" not in find(objects, "Deployment", "-augment-worker")["spec"], "an upgrade undoes the scaling")
    triggers = {t["name"]: t for t in spec["triggers"]}
    checks.that(list(triggers) == ["drain", "in-flight", "kafka-lag-live", "kafka-lag-backfill", "business-hours"], f"triggers are {list(triggers)}")
    checks.that(triggers["drain"]["metricType"] == "Value" and triggers["drain"]["metadata"]["threshold"] == "60", "drain time is not compared as a value")
    checks.that(triggers["business-hours"]["metadata"]["desiredReplicas"] == "6", "no floor during business hours")
    env = environment(objects, "augment-worker")
    checks.that(env["MEMORI__EXTRACTOR__REPLICAS"] == "26", "workers, those of replays among them, share the provider's limits by another number")
    checks.that('service="memori-memori-stream-augment-worker-metrics"' in triggers["in-flight"]["metadata"]["query"], "the calls of replays scale the workers of the present")
    topic = triggers["kafka-lag-live"]["metadata"]
    checks.that((topic["topic"], topic["consumerGroup"]) == ("memori.conversations.live", "memori.memori-augment-worker-1.conversations.live"), f"the lag is asked of {topic}")
    return {name: t["metadata"]["query"] for name, t in triggers.items() if t["type"] == "prometheus"}


def promql(checks, promtool, objects, queries):
    """What the operator of Prometheus would be given is what Prometheus reads."""
    rules = copy.deepcopy(find(objects, "PrometheusRule", "")["spec"])
    rules["groups"].append({"name": "queries", "rules": [{"record": f"query:{i}", "expr": q} for i, q in enumerate(queries.values())]})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(rules, file)
        file.flush()
        code, out, said = run(promtool, "check", "rules", file.name)
    checks.that(code == 0, f"rules as rendered: {out}{said}")
    for group in rules["groups"]:
        for rule in group["rules"]:
            metrics = re.findall(r"memori[_:][a-z0-9_:]+(?:\{[^}]*\})?", rule["expr"])
            checks.that(all('namespace="memory"' in m for m in metrics), f"{rule.get('record') or rule.get('alert')} looks beyond its namespace: {metrics}")
            if "alert" in rule:
                checks.that(rule["annotations"].get("runbook_url", "").startswith("https://"), f"{rule['alert']} has no runbook")


def history(checks, made, alone):
    """Replays beside the present, the archive where whoever reads it can."""
    live, replays = environment(made["everything"], "augment-worker"), environment(made["everything"], "replay-worker")
    checks.that((live["MEMORI__WORKER__REPLAYS"], replays["MEMORI__WORKER__REPLAYS"]) == ("off", "only"), "live workers and those of replays do each other's work")
    checks.that({k for k in live if live[k] != replays.get(k)} == {"MEMORI__WORKER__REPLAYS"}, "workers of replays extract otherwise than live ones")
    checks.that("MEMORI__WORKER__REPLAYS" not in environment(made["minimal"], "augment-worker"), "nobody extracts history again")
    secret = {"secretKeyRef": {"name": "bucket", "key": "key"}}
    for component in ("ingest", "augment-worker", "replay-worker", "writer", "archiver"):
        env = environment(made["everything"], component)
        checks.that((env.get("MEMORI__ARCHIVE__URL"), env.get("AWS_SECRET_ACCESS_KEY")) == ("s3://history/memori", secret), f"{component} does not reach the bucket")
    def mounted(objects, component):
        kind = "StatefulSet" if component == "ingest" else "Deployment"
        pod = find(objects, kind, f"-{component}")["spec"]["template"]["spec"]
        claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "archive"]
        mounts = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "archive"]
        return claims and (claims[0]["claimName"], claims[0]["readOnly"], mounts[0]["readOnly"])
    for component in ("ingest", "augment-worker", "writer"):
        checks.that(mounted(made["external"], component) == ("history", True, True), f"{component} does not read the archive's volume, or writes it")
        checks.that(not mounted(alone, component) and "MEMORI__ARCHIVE__URL" not in environment(alone, component), f"{component} wants a volume that one machine has")
    checks.that(mounted(made["external"], "archiver") == ("history", False, False), "the archiver cannot write")
    checks.that(mounted(alone, "archiver") == ("memori-memori-stream-archive", False, False), "the archiver has no volume")
    claim = find(alone, "PersistentVolumeClaim", "-archive")
    checks.that(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", "the archive goes with the release")
    checks.that(find(alone, "Deployment", "-archiver")["spec"]["strategy"]["type"] == "Recreate", "two archivers wait for one volume")


def main(helm, kubeconform, schemas, promtool):
    """Runs all of it."""
    checks = Checks()
    code, out, said = run(helm, "lint", CHART, "--strict", *MINIMAL)
    checks.that(code == 0, f"helm lint: {out}{said}")
    matrix = {file.stem: ["--values", str(file)] for file in sorted(VALUES.glob("*.yaml"))}
    made = {}
    for name, arguments in matrix.items():
        text, objects = rendered(helm, *arguments)
        made[name] = objects
        code, out, said = run(kubeconform, "-strict", "-summary", "-schema-location", f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", text=text)
        checks.that(code == 0 and "Skipped: 0" in out, f"{name}: kubeconform: {out}{said}")
        security(checks, name, objects)
        if name != "external":
            policies(checks, name, objects)
        ids = [(o["kind"], o["metadata"]["name"]) for o in objects]
        checks.that(len(ids) == len(set(ids)), f"{name}: an object twice")
    keys(checks, made["minimal"])
    grace(checks, made["minimal"], 25)
    rolled(checks, made["minimal"])
    _, objects = rendered(helm, *MINIMAL, "--set", "shutdown.deadlineSeconds=120")
    grace(checks, objects, 120)
    _, alone = rendered(helm, *MINIMAL, "--set", "archiver.enabled=true")
    security(checks, "archiver", alone)
    policies(checks, "archiver", alone)
    grace(checks, alone, 25)
    grace(checks, made["everything"], 25)
    history(checks, made, alone)
    queries = scaling(checks, made["everything"])
    promql(checks, promtool, made["everything"], queries)
    checks.that(environment(made["minimal"], "ingest")["MEMORI__INGEST__SPOOL_MAX_BYTES"] == str(2 * 2**30 * 4 // 5), "the spool is not four fifths of its volume")
    checks.that("MEMORI__INGEST__SPOOL_DIR" not in environment(made["external"], "ingest"), "a spool without a volume")
    for arguments, named in HOSTILE:
        code, _, said = run(helm, "template", "memori", CHART, *MINIMAL, *arguments)
        checks.that(code != 0 and named in said, f"{arguments} should be refused, naming {named!r}: {said or 'it was taken'}")
    # the refusals are the values' fault, not the test's
    code, _, said = run(helm, "template", "memori", CHART, *MINIMAL, "--set-string", "image.tag=2")
    checks.that(code == 0, said)
    print(f"chart: {checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
