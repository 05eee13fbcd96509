"""The chart on a real Kubernetes API server with its controllers, and nodes that only pretend (kwok).

cluster.py HELM KUBERNETES ETCD KWOK SCHEMAS BINARIES: folders of the tools and of our programs; run from the root. What it shows: admission, defaulting, CRDs with
their rules, roll-outs, hooks, history. What it does not: images, probes, networks, and what KEDA computes.
"""

import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import checks
import docs
import yaml
from checks import that
from ports import free_ports

CHART = "helm/memori-stream"
VALUES = "ops/platform/values"
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": {"kubernetes.io/os": "linux"}}}
ROOM = {"cpu": "64", "memory": "256Gi", "pods": "110"}
CLASS = {
    "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate",
    "metadata": {"name": "pretended", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
}
# whatever is forwarded to a pod that only pretends goes to a process on this machine
FORWARD = {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "ClusterPortForward", "metadata": {"name": "all"}}


class Cluster:
    """The processes, in a folder of their own."""

    def __init__(self, helm, kubernetes, etcd, kwok):
        self.helm_program = f"{helm}/helm"
        self.kubectl_program = next(f"{place}/kubectl" for place in (helm, kubernetes) if Path(place, "kubectl").exists())
        self.programs = {"etcd": f"{etcd}/etcd", "kwok": f"{kwok}/kwok"}
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            self.programs[name] = f"{kubernetes}/{name}"
        self.stages = f"{kwok}/stages.yaml"
        self.dir = Path(tempfile.mkdtemp(prefix="memori-cluster-"))
        self.running = []
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "KUBECONFIG": str(self.dir / "kubeconfig")}

    def spawn(self, name, *arguments):
        """Starts one; its log is in the folder."""
        log = (self.dir / f"{name}.log").open("w")
        process = subprocess.Popen([self.programs[name], *arguments], cwd=self.dir, stdout=log, stderr=subprocess.STDOUT, env=self.env)
        self.running.append((name, process))

    def start(self):
        """Everything, until it answers."""
        store, peer, api, manager, scheduler, nodes, self.behind = free_ports(7)
        subprocess.run(["openssl", "genrsa", "-out", "sa.key", "2048"], cwd=self.dir, check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"], cwd=self.dir, check=True, capture_output=True)
        (self.dir / "tokens.csv").write_text('admin-of-this-run,admin,1,"system:masters"\n')
        # the kubelets' one address
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", "kwok.key", "-out", "kwok.crt"], cwd=self.dir, check=True, capture_output=True)
        (self.dir / "stages.yaml").write_text(Path(self.stages).read_text() + "\n---\n" + yaml.safe_dump(
            FORWARD | {"spec": {"forwards": [{"target": {"port": self.behind, "address": "127.0.0.1"}}]}}))
        server = f"https://127.0.0.1:{api}"
        (self.dir / "kubeconfig").write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": "admin-of-this-run"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))
        self.spawn("etcd", "--data-dir", "etcd", "--unsafe-no-fsync", f"--listen-client-urls=http://127.0.0.1:{store}", f"--advertise-client-urls=http://127.0.0.1:{store}",
                   f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}", f"--initial-cluster=default=http://127.0.0.1:{peer}")
        self.spawn("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={api}",
                   "--cert-dir=certs", "--service-cluster-ip-range=10.99.0.0/24", "--endpoint-reconciler-type=none", "--token-auth-file=tokens.csv", "--authorization-mode=RBAC",
                   "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key")
        insecure = ssl._create_unverified_context()  # its certificate is its own, made a moment ago
        self.until(120, "the API server is ready", lambda: urllib.request.urlopen(urllib.request.Request(f"{server}/readyz", headers={"Authorization": "Bearer admin-of-this-run"}), timeout=3, context=insecure).status == 200)
        self.spawn("kube-controller-manager", "--kubeconfig=kubeconfig", "--service-account-private-key-file=sa.key", "--bind-address=127.0.0.1", f"--secure-port={manager}",
                   "--cert-dir=kcm", "--leader-elect=false", "--controllers=*,-nodeipam,-node-route-controller,-cloud-node-lifecycle-controller,-service-lb-controller")
        self.spawn("kube-scheduler", "--kubeconfig=kubeconfig", "--bind-address=127.0.0.1", f"--secure-port={scheduler}", "--cert-dir=sched", "--leader-elect=false")
        self.spawn("kwok", "--kubeconfig=kubeconfig", "--config=stages.yaml", "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                   "--node-lease-duration-seconds=40", f"--server-address=127.0.0.1:{nodes}",
                   "--node-ip=127.0.0.1", f"--node-port={nodes}", "--tls-cert-file=kwok.crt", "--tls-private-key-file=kwok.key")
        for number in range(3):
            node = json.loads(json.dumps(NODE))
            node["metadata"]["name"] = f"node-{number}"
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = f"zone-{number}"
            node["metadata"]["labels"]["arch"] = "any"
            node["status"] = {"allocatable": ROOM, "capacity": ROOM}
            self.apply(node)
        self.apply(CLASS)
        for number in range(12):
            self.apply({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"},
                "spec": {"capacity": {"storage": "4Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "pretended", "hostPath": {"path": f"/volume-{number}"}},
            })
        self.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000})
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "memory", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})

    def stop(self):
        """Ends all of it."""
        for _, process in reversed(self.running):
            process.terminate()
        for _, process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def until(self, seconds, what, holds):
        """Waits for it."""
        deadline, why = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            for name, process in self.running:
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended\n{(self.dir / f'{name}.log').read_text()[-3000:]}")
            try:
                if holds():
                    return
            except (OSError, subprocess.CalledProcessError, KeyError) as error:
                why = str(error)
            time.sleep(0.3)
        raise SystemExit(f"not within {seconds} s: {what} {why}")

    def kubectl(self, *arguments, text=None, fails=False):
        """What it says; where it fails, and should not, everything ends."""
        done = subprocess.run([self.kubectl_program, *arguments], input=text, capture_output=True, text=True, env=self.env, check=False)
        if fails:
            return done.stderr if done.returncode else None
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def apply(self, thing, fails=False, dry=False):
        """Applies an object as the server judges it."""
        # by name and not by what was last applied: large CRDs do not fit an annotation
        return self.kubectl("apply", "--server-side", "--validate=strict", *(["--dry-run=server"] if dry else []), "-f", "-", text=json.dumps(thing), fails=fails)

    def get(self, kind, name):
        """An object of the release's namespace."""
        return json.loads(self.kubectl("-n", "memory", "get", kind, name, "-o", "json"))

    def helm(self, *arguments, fails=False):
        """What it says."""
        done = subprocess.run([self.helm_program, *arguments, "--namespace", "memory"], capture_output=True, text=True, env=self.env, check=False)
        if fails:
            return done.stderr if done.returncode else None
        if done.returncode:
            pods = self.kubectl("-n", "memory", "get", "pods,pvc,events", "-o", "wide")
            raise SystemExit(f"helm {' '.join(arguments)}: {done.stderr}\n{pods[-4000:]}")
        return done.stdout


def keys(cluster):
    """What the generated Secret holds."""
    return cluster.get("secret", "memori-memori-stream-auth")["data"]


def ready(cluster, kind, name, replicas):
    """All replicas of the newest version are ready."""
    status = cluster.get(kind, name)["status"]
    that(status.get("readyReplicas") == replicas == status.get("updatedReplicas"), f"{kind} {name} has {status}")


def check(cluster, schemas, binaries):
    """Install, upgrade, roll back, and what is refused."""
    for crd in ("keda.sh_scaledobjects", "keda.sh_triggerauthentications", "monitoring.coreos.com_servicemonitors",
                "monitoring.coreos.com_prometheusrules", "gateway.networking.k8s.io_httproutes"):
        cluster.kubectl("apply", "--server-side", "-f", f"{schemas}/crds/{crd}.yaml")
    for name in ("scaledobjects.keda.sh", "servicemonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com", "httproutes.gateway.networking.k8s.io"):
        cluster.until(30, f"{name} is known", lambda name=name: "True" in cluster.kubectl("get", "crd", name, "-o", "jsonpath={.status.conditions[?(@.type=='Established')].status}"))
    cluster.until(60, "accounts are made", lambda: cluster.kubectl("-n", "memory", "get", "serviceaccount", "default", fails=True) is None)

    minimal = ["--values", f"{VALUES}/minimal.yaml"]
    everything = ["--values", f"{VALUES}/everything.yaml"]
    cluster.helm("install", "memori", CHART, *minimal, "--dry-run=server")
    that(cluster.helm("install", "memori", CHART, *minimal, "--set", "worker.replicas=0", fails=True), "no worker at all is taken")

    # with the two connection strings alone, in a namespace that enforces the restricted standard
    cluster.helm("install", "memori", CHART, *minimal, "--wait", "--timeout", "120s")
    for kind, name, replicas in (("statefulset", "ingest", 2), ("deployment", "augment-worker", 2), ("deployment", "writer", 2)):
        ready(cluster, kind, f"memori-memori-stream-{name}", replicas)
    first = keys(cluster)
    that(set(first) == {"internal-token", "admin-key", "tenant-key", "keys.toml"}, f"the Secret has {set(first)}")
    hooks = json.loads(cluster.kubectl("-n", "memory", "get", "jobs,secrets", "-l", "app.kubernetes.io/component=setup", "-o", "json"))["items"]
    that(not hooks, "the setup hook left something behind")
    pods = json.loads(cluster.kubectl("-n", "memory", "get", "pods", "-l", "app.kubernetes.io/component=ingest", "-o", "json"))["items"]
    that(len({p["spec"]["nodeName"] for p in pods}) == 2, "both front doors are on one node")
    claims = json.loads(cluster.kubectl("-n", "memory", "get", "pvc", "-o", "json"))["items"]
    that({c["status"]["phase"] for c in claims} == {"Bound"} and len(claims) == 2, "the spools have no volumes")

    # everything on, over it
    cluster.helm("upgrade", "memori", CHART, *everything, "--wait", "--timeout", "120s")
    ready(cluster, "statefulset", "memori-memori-stream-ingest", 3)
    that(keys(cluster) == first, "an upgrade made other keys")
    for name in ("archiver", "replay-worker"):
        ready(cluster, "deployment", f"memori-memori-stream-{name}", 2)
    scaled = cluster.get("scaledobject", "memori-memori-stream-augment-worker")
    that(scaled["spec"]["maxReplicaCount"] == 24 and len(scaled["spec"]["triggers"]) == 5, "the ScaledObject is another")
    for kind in ("servicemonitor", "prometheusrule", "httproute", "ingress", "networkpolicy", "poddisruptionbudget"):
        that(json.loads(cluster.kubectl("-n", "memory", "get", kind, "-o", "json"))["items"], f"no {kind}")

    # what KEDA's own definition refuses, made of what the chart renders
    for what, change in (
        ("an unknown field", lambda s: s["spec"].update(maxReplicas=3)),
        ("a wrong type", lambda s: s["spec"].update(maxReplicaCount="many")),
        ("no trigger's type", lambda s: s["spec"]["triggers"][0].pop("type")),
        ("a metric type that there is not", lambda s: s["spec"]["triggers"][0].update(metricType=7)),
    ):
        wrong = json.loads(json.dumps(scaled))
        wrong["metadata"] = {"name": "wrong", "namespace": "memory"}
        wrong.pop("status", None)
        change(wrong)
        that(cluster.apply(wrong, fails=True, dry=True), f"a ScaledObject with {what} is taken")

    # KEDA's part, played by hand: the next upgrade does not undo it
    cluster.kubectl("-n", "memory", "scale", "deployment", "memori-memori-stream-augment-worker", "--replicas=7")
    cluster.helm("upgrade", "memori", CHART, *everything, "--set", "log.level=debug", "--wait", "--timeout", "120s")
    ready(cluster, "deployment", "memori-memori-stream-augment-worker", 7)

    cluster.helm("rollback", "memori", "1", "--wait", "--timeout", "120s")
    ready(cluster, "statefulset", "memori-memori-stream-ingest", 2)
    that(keys(cluster) == first, "a rollback made other keys")
    that(cluster.kubectl("-n", "memory", "get", "scaledobject", "memori-memori-stream-augment-worker", fails=True), "a rollback left the ScaledObject")
    claims = json.loads(cluster.kubectl("-n", "memory", "get", "pvc", "-o", "json"))["items"]
    that(len(claims) == 3, "a spool's volume went with its pod")
    history = json.loads(cluster.helm("history", "memori", "--output", "json"))
    that([h["status"] for h in history][-1] == "deployed" and len(history) == 4, f"history is {history}")

    # an archive on a volume of its own: it stays when everything else goes
    cluster.helm("upgrade", "memori", CHART, *minimal, "--set", "archiver.enabled=true", "--set", "archiver.volume.size=2Gi", "--wait", "--timeout", "120s")
    ready(cluster, "deployment", "memori-memori-stream-archiver", 1)

    # a namespace that is emptied and filled again has its keys
    cluster.helm("uninstall", "memori", "--wait", "--timeout", "60s")
    that(cluster.get("pvc", "memori-memori-stream-archive")["status"]["phase"] == "Bound", "the archive went with the release")
    cluster.helm("install", "memori", CHART, *minimal, "--wait", "--timeout", "120s")
    that(keys(cluster) == first, "an install after an uninstall made other keys")
    there = cluster.env | {"PATH": f"{Path(cluster.helm_program).parent}:{Path(cluster.kubectl_program).parent}:{os.environ['PATH']}"}
    sentences(there)
    cluster.helm("uninstall", "memori", "--wait", "--timeout", "60s")
    docs.run("docs/running-on-kubernetes.md", there, instead=lambda block: forwarded(cluster, there, binaries, block))
    that(b'tenant = "default"' in base64.b64decode(keys(cluster)["keys.toml"]), "the first tenant has no key")


def forwarded(cluster, env, binaries, block):
    """The Service's port, forwarded as the page has it: the pod that answers is `memori up`."""
    if "port-forward" not in block:
        return False
    forward, ask = block.splitlines()
    port = str(free_ports(1)[0])
    folder = cluster.dir / "behind"
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "MEMORI__EMBEDDING__KIND": "none"}
    command = [f"{binaries}/memori", "up", "--listen", f"127.0.0.1:{cluster.behind}", "--data-dir", folder]
    with (cluster.dir / "behind.log").open("w") as log:
        behind = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=own)
        there = subprocess.Popen(["bash", "-c", f"exec {forward.replace('7700:', f'{port}:')}"], stdout=log, stderr=subprocess.STDOUT, env=env)
    try:
        said = []

        def asked():
            done = subprocess.run(["bash", "-c", ask.replace("curl ", "curl -fsS ").replace("7700", port)], capture_output=True, text=True, check=False)
            said[:] = [done.stderr, (cluster.dir / "behind.log").read_text()[-1500:]]
            return done.returncode == 0 and json.loads(done.stdout)["openapi"]

        try:
            cluster.until(40, "the forwarded port answers", asked)
        except SystemExit:
            raise SystemExit("\n".join(["FAILED: the forwarded port does not answer", *said])) from None
    finally:
        for process in (there, behind):
            process.terminate()
            process.wait(30)
    return True


def sentences(env):
    """What sentences name: with an object it is done to this release, else it is a command with these flags."""
    pages = [*sorted(Path("docs").rglob("*.md")), "README.md", "CONTRIBUTING.md"]
    for where, command in docs.named(pages, "kubectl") + docs.named(pages, "helm"):
        words = command.replace("…", "memori-memori-stream").split()
        whole = any("/" in word or word in ("pods", "-l") for word in words)
        done = subprocess.run([*words, *(["--namespace", "memory"] if whole else ["--help"])], capture_output=True, text=True, env=env, check=False)
        that(done.returncode == 0 and "No resources found" not in done.stderr, f"{where}: {command}: {done.stderr}")


def main(helm, kubernetes, etcd, kwok, schemas, binaries):
    """Starts it, asks, ends it."""
    since = time.monotonic()
    # so that what was started is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = Cluster(helm, kubernetes, etcd, kwok)
    try:
        cluster.start()
        check(cluster, schemas, binaries)
    finally:
        cluster.stop()
    print(f"cluster: {checks.passed} passed, 0 failed, in {time.monotonic() - since:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
