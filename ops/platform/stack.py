"""docker-compose.yml without a container engine: every service that this machine can have is started as a plain process, with the
arguments, environment, files and health check that compose would give it, in compose's order; hosts become loopback, ports free ones.

Grafana's server is in no package registry: its files are checked, and it is not started.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from ports import free_ports

NOBODY = 65534
# what each service listens on, inside
PORTS = {
    "kafka": [9092, 9093], "postgres": [5432], "registry": [8080], "ingest": [7700, 7710], "augment-worker": [7711],
    "writer": [7702, 7712], "archiver": [7713], "prometheus": [9090], "grafana": [3000], "topics": [], "migrate": [],
}


def get(url, data=None, key=None, timeout=20):
    """Status and body; JSON where it is."""
    headers = {"content-type": "application/json"} if data is not None else {}
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data=json.dumps(data).encode() if data is not None else None, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read().decode()
    with contextlib.suppress(json.JSONDecodeError):
        body = json.loads(body)
    return status, body


class Stack:
    """The services of the file, and what was started of them."""

    def __init__(self, compose, binaries, registry, settings=None, rules=None, profiles=()):
        """`settings` are variables that the file is read with; `rules` changes the text of a rule file; services of `profiles` run, too."""
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")} | (settings or {})
        read = subprocess.run([compose, *(f"--profile={p}" for p in profiles), "config", "--format", "json"], capture_output=True, text=True, check=False, env=env)
        if read.returncode:
            raise SystemExit(f"docker compose config: {read.stderr}")
        self.file = json.loads(read.stdout)
        self.services = self.file["services"]
        self.binaries, self.registry, self.rules = Path(binaries), Path(registry), rules or (lambda text: text)
        self.dir = Path(tempfile.mkdtemp(prefix="memori-stack-"))
        self.dir.chmod(0o711)
        unknown = set(self.services) - set(PORTS)
        if unknown:
            raise SystemExit(f"compose has services that the test does not start: {unknown}")
        self.replicas = {name: s.get("deploy", {}).get("replicas", 1) for name, s in self.services.items()}
        self.ports = {}
        for name in self.services:
            for number in range(self.replicas[name]):
                for port, free in zip(PORTS[name], free_ports(len(PORTS[name]))):
                    self.ports[name, number, port] = free
        self.running = {}
        self.logs = {}
        # replicas that may come: scraped from the start on
        self.expected = dict(self.replicas)

    def expect(self, name, count):
        """There may be so many replicas of it."""
        for number in range(self.replicas[name], count):
            for port, free in zip(PORTS[name], free_ports(len(PORTS[name]))):
                self.ports[name, number, port] = free
        self.expected[name] = count

    # ---- what is told to a process

    def local(self, text, name, number):
        """A text of the file as it must be on this machine: hosts, listening addresses and folders."""
        def host(found):
            service, port = found[1], int(found[2])
            return f"127.0.0.1:{self.ports[service, 0, port]}" if (service, 0, port) in self.ports else found[0]

        def own(found):
            port = int(found[2])
            return f"{found[1] and '127.0.0.1'}:{self.ports[name, number, port]}" if (name, number, port) in self.ports else found[0]

        text = re.sub(r"\b(kafka|postgres|registry|writer|ingest|prometheus):(\d+)", host, text)
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1):(\d+)", own, text)
        # the longer path first, where one begins like another
        for target, here in sorted(self.mounts(name, number).items(), reverse=True):
            text = text.replace(target, str(here))
        return text

    def mounts(self, name, number):
        """Where the file's volumes and configs are on this machine: by their place in the container."""
        places = {}
        for config in self.services[name].get("configs", []):
            here = self.dir / f"config-{config['source']}"
            # once: a process may be reading it
            if not here.exists():
                here.write_text(self.file["configs"][config["source"]]["content"])
            places[config["target"]] = here
        for volume in self.services[name].get("volumes", []):
            if volume["type"] == "bind":
                places[volume["target"]] = Path(volume["source"])
            else:
                # one for all who mount it, as Compose has it
                here = self.dir / f"volume-{volume['source']}"
                here.mkdir(exist_ok=True)
                places[volume["target"]] = here
        return places

    def environment(self, name, number):
        """The service's variables."""
        told = self.services[name].get("environment", {})
        return {k: self.local(str(v), name, number) for k, v in told.items()}

    # ---- starting

    def spawn(self, name, number, command, env, user=None):
        """Starts a process; nothing of the caller's environment reaches it but where programs and models are."""
        log = self.dir / f"{name}-{number}.log"
        self.logs[name, number] = log
        base = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "XDG_CACHE_HOME")}
        extra = {"user": user, "group": user, "extra_groups": []} if user and os.geteuid() == 0 else {}
        with log.open("a") as out:
            self.running[name, number] = subprocess.Popen(
                [str(c) for c in command], env=base | env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd="/", **extra
            )

    def start(self, name, number=0):
        """Starts one replica of a service."""
        env = self.environment(name, number)
        command = [self.local(c, name, number) for c in self.services[name].get("command") or []]
        if name == "kafka":
            self.spawn(name, number, self.kafka(env), {})
        elif name == "postgres":
            self.postgres(env, command)
        elif name == "registry":
            port = self.ports[name, 0, 8080]
            java = ["java", "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", self.registry / "apicurio-registry-app-3.0.9-runner.jar"]
            # the image listens on 8080 of its own host
            self.spawn(name, number, java, env | {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": str(port), "QUARKUS_MANAGEMENT_HOST": "127.0.0.1", "QUARKUS_MANAGEMENT_PORT": str(free_ports(1)[0])})
        elif name == "prometheus":
            self.spawn(name, number, ["prometheus", *self.prometheus(command)], env)
        elif name != "grafana":
            self.spawn(name, number, [self.binaries / command[0], *command[1:]], env | {"MEMORI__LOG__FORMAT": "json"})

    def kafka(self, env):
        """The broker's command line, with properties as the image makes them of its environment."""
        line = subprocess.run(["ops/servers.sh", "kafka-command", str(self.dir / "kafka-template")], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
        java = line[: line.index("kafka.Kafka")]
        properties = {k[len("KAFKA_"):].lower().replace("_", "."): v for k, v in env.items() if k.startswith("KAFKA_") and k != "KAFKA_HEAP_OPTS"}
        for listener in ("listeners", "advertised.listeners"):
            # "://:9092" is every address of the container
            properties[listener] = re.sub(r"://:(\d+)", lambda m: f"://127.0.0.1:{self.ports['kafka', 0, int(m[1])]}", properties[listener])
        # a test's disk, not a promise of the file
        properties |= {"log.segment.bytes": "67108864", "log.cleaner.dedupe.buffer.size": "8388608", "log.cleaner.threads": "1", "offsets.topic.num.partitions": "4"}
        file = self.dir / "server.properties"
        file.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        if not list((self.dir / "volume-kafka").iterdir()):
            subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", env["CLUSTER_ID"], "-c", str(file)], check=True, capture_output=True)
        self.kafka_java = java
        return [*java, "kafka.Kafka", str(file)]

    def postgres(self, env, command):
        """The server, and what the image's first start does: user, database, files of docker-entrypoint-initdb.d; then passwords count."""
        own = self.dir / "postgres"
        line = subprocess.run(["ops/servers.sh", "postgres-command", str(own)], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
        port = self.ports["postgres", 0, 5432]
        self.pg = Path(line[0]).parent
        self.spawn("postgres", 0, [*line, *command[1:], "-p", str(port)], {}, user=NOBODY)
        sql = [str(self.pg / "psql"), "-h", "127.0.0.1", "-p", str(port), "-q", "-v", "ON_ERROR_STOP=1"]
        self.until(60, "Postgres answers", lambda: subprocess.run([*sql, "-U", "postgres", "-c", "select 1"], capture_output=True, check=False).returncode == 0)
        user, password, database = env["POSTGRES_USER"], env["POSTGRES_PASSWORD"], env["POSTGRES_DB"]
        subprocess.run([*sql, "-U", "postgres", "-c", f"create role {user} superuser login password '{password}'"], check=True)
        subprocess.run([*sql, "-U", "postgres", "-c", f"create database {database} owner {user}"], check=True)
        for target, here in self.mounts("postgres", 0).items():
            if target.startswith("/docker-entrypoint-initdb.d/"):
                subprocess.run([*sql, "-U", user, "-d", database, "-f", str(here)], check=True)
        (own / "postgres/data/pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        os.kill(self.running["postgres", 0].pid, signal.SIGHUP)

    def prometheus(self, command):
        """Its arguments, with a configuration whose names are looked up here: names of services are addresses already."""
        made = self.dir / "prometheus"
        (made / "rules").mkdir(parents=True, exist_ok=True)
        places = self.mounts("prometheus", 0)
        config = yaml.safe_load(places["/etc/prometheus/prometheus.yml"].read_text())
        for job in config["scrape_configs"]:
            targets = []
            for found in job.pop("dns_sd_configs"):
                # one of a profile that does not run is not found
                for name in filter(self.expected.__contains__, found["names"]):
                    targets += [f"127.0.0.1:{self.ports[name, n, found['port']]}" for n in range(self.expected[name])]
            job["static_configs"] = [{"targets": targets}]
        # a test waits for it
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (made / "prometheus.yml").write_text(yaml.safe_dump(config))
        for file in places["/etc/prometheus/rules"].iterdir():
            (made / "rules" / file.name).write_text(self.rules(file.read_text()))
        return [re.sub(r"--config\.file=.*", f"--config.file={made}/prometheus.yml", argument) for argument in command]

    # ---- health and order

    def healthy(self, name, number=0):
        """What its health check says."""
        test = [self.local(part, name, number) for part in self.services[name]["healthcheck"]["test"]]
        process = self.running.get((name, number))
        if process and process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode}\n{self.tail(name, number)}")
        if test[0] != "CMD":
            raise SystemExit(f"{name}: a health check of kind {test[0]}")
        program = test[1]
        if program in ("wget", "curl"):
            # neither need be on this machine: what they ask is what counts
            with contextlib.suppress(OSError):
                return get(next(part for part in test if part.startswith("http")))[0] == 200
            return False
        if program == "memori":
            command = [self.binaries / "memori", *test[2:]]
        elif program == "pg_isready":
            command = [self.pg / "pg_isready", *test[2:], "-p", str(self.ports["postgres", 0, 5432])]
        elif program.endswith("kafka-cluster.sh"):
            command = [*self.kafka_java, "org.apache.kafka.tools.ClusterTool", *test[2:]]
        else:
            raise SystemExit(f"{name}: the test cannot run {program}")
        try:
            return subprocess.run([str(c) for c in command], capture_output=True, check=False, timeout=30).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def up(self):
        """Everything, in the file's order."""
        left = list(self.services)
        state = {}
        while left:
            name = next((n for n in left if all(d in state for d in self.services[n].get("depends_on", {}))), None)
            if name is None:
                raise SystemExit(f"depends_on goes in a circle: {left}")
            left.remove(name)
            for other, how in self.services[name].get("depends_on", {}).items():
                if how["condition"] == "service_healthy" and other != "grafana":
                    for number in range(self.replicas[other]):
                        self.until(240, f"{other} is healthy", lambda other=other, number=number: self.healthy(other, number))
                elif how["condition"] == "service_completed_successfully":
                    status = self.running[other, 0].wait(120)
                    if status:
                        raise SystemExit(f"{other} ended with {status}\n{self.tail(other, 0)}")
            for number in range(self.replicas[name]):
                self.start(name, number)
            state[name] = True
        for name in self.services:
            if name != "grafana" and "healthcheck" in self.services[name]:
                for number in range(self.replicas[name]):
                    self.until(240, f"{name} is healthy", lambda name=name, number=number: self.healthy(name, number))

    def address(self, name, port, number=0):
        """A service's address, for a client on this machine."""
        return f"http://127.0.0.1:{self.ports[name, number, port]}"

    def stop(self, name, number=0):
        """Asks one to stop, within its grace period; its status."""
        process = self.running.pop((name, number))
        process.terminate()
        return process.wait(60)

    def down(self):
        """Ends all of it, and removes its folder."""
        for process in self.running.values():
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for (name, _), process in self.running.items():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
            if name == "postgres" and process.poll() is None:
                process.send_signal(signal.SIGQUIT)
        shutil.rmtree(self.dir, ignore_errors=True)

    def tail(self, name, number):
        """The end of its log."""
        return "\n".join(self.logs[name, number].read_text(errors="replace").splitlines()[-30:])

    def until(self, seconds, what, holds):
        """Waits for it; the value that held."""
        deadline, why = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            try:
                value = holds()
                if value:
                    return value
            except (OSError, KeyError, TypeError) as error:
                why = str(error)
            time.sleep(0.2)
        logs = "\n".join(f"---- {name} {number}\n{self.tail(name, number)}" for name, number in self.logs)
        raise SystemExit(f"not within {seconds} s: {what} {why}\n{logs[-6000:]}")
