"""docker-compose.yml, held to what it promises: compose.py COMPOSE BINARIES REGISTRY, run from the root. See stack.py for what runs."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checks
import docs
import yaml
from checks import that
from incidents import Incidents, faster
from stack import Stack, get

KEY, OPERATOR = "memori-dev-key", "memori-dev-admin"


def refused(compose):
    """Compose's own reader finds nothing in the file, and would."""
    text = Path("docker-compose.yml").read_text()
    for what, changed in (
        ("an unknown key", text.replace("restart: unless-stopped", "restarts: always", 1)),
        ("a service that is not there", text.replace("topics: {condition", "topix: {condition", 1)),
        ("a volume that is not there", text.replace("spool:/var/lib/memori", "spoool:/var/lib/memori", 1)),
    ):
        done = subprocess.run([compose, "-f", "-", "--project-directory", ".", "config", "-q"], input=changed, capture_output=True, text=True, check=False)
        that(done.returncode != 0, f"compose takes {what}")
    done = subprocess.run([compose, "config", "-q"], capture_output=True, text=True, check=False)
    that(done.returncode == 0 and not done.stderr.strip(), f"docker compose config: {done.stderr}")


def sources():
    """Whoever builds the image is given every folder that the workspace names."""
    members = re.search(r"^members = \[(.*?)\]", Path("Cargo.toml").read_text(), re.S | re.M).group(1)
    given = set(Path(".dockerignore").read_text().split())
    for member in re.findall(r'"([^"/]+)(?:/[^"]*)?"', members):
        that(f"!{member}" in given, f".dockerignore keeps {member} from the image, which is compiled from it")


def hardened(stack):
    """Ours run as nobody in particular, on a file system that they cannot write; ports are this machine's alone."""
    versions = {}
    for name, service in stack.services.items():
        image = service["image"]
        that(re.search(r":v?\d+\.\d+", image), f"{name}: {image} is no exact version")
        versions[name] = image
        for port in service.get("ports", []):
            that(port.get("host_ip") == "127.0.0.1", f"{name}: port {port} is everybody's")
        if image.startswith("memori-stream:"):
            that(service.get("read_only") and service.get("cap_drop") == ["ALL"] and service["user"] == "65532:65532", f"{name} is not hardened")
            that("no-new-privileges:true" in service.get("security_opt", []), f"{name} may gain privileges")
            if service.get("restart") != "no":
                that("healthcheck" in service, f"{name} has no health check")
    # what tests run is what compose runs
    tested = re.search(r"^kafka_version=(.*)$", Path("ops/servers.sh").read_text(), re.MULTILINE)[1]
    that(versions["kafka"].endswith(f":{tested}"), f"tests run Kafka {tested}, compose {versions['kafka']}")
    tested = re.search(r"^registry_version=(.*)$", Path("ops/tools.sh").read_text(), re.MULTILINE)[1]
    that(versions["registry"].endswith(f":{tested}"), f"tests run the registry {tested}, compose {versions['registry']}")


def grafana(stack):
    """The files that Grafana is given: a source that is a service, and dashboards where they are looked for."""
    places = stack.mounts("grafana", 0)
    sources = yaml.safe_load(places["/etc/grafana/provisioning/datasources/memori.yml"].read_text())["datasources"]
    that([s["url"] for s in sources] == ["http://prometheus:9090"], "Grafana asks another Prometheus")
    provider = yaml.safe_load(places["/etc/grafana/provisioning/dashboards/memori.yml"].read_text())["providers"][0]
    folder = places[provider["options"]["path"]]
    home = stack.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    that((folder / Path(home).name).exists() and home.startswith(provider["options"]["path"]), "the home dashboard is not there")
    uids = [json.loads(f.read_text())["uid"] for f in folder.glob("*.json")]
    that(len(uids) == len(set(uids)) >= 4, f"dashboards: {uids}")


def conversation(stack):
    """One conversation, end to end, as docs/running-with-compose.md tells it."""
    api = stack.address("ingest", 7700)
    event = {"event_id": "first", "entity_id": "alice", "messages": [
        {"role": "user", "content": "I live in Lisbon and I am allergic to peanuts."}, {"role": "assistant", "content": "Noted!"}]}
    that(get(f"{api}/v1/events", event)[0] == 401, "an event without a key is taken")
    that(get(f"{api}/v1/events", event, OPERATOR)[0] == 403, "the operator's key posts events")
    status, answer = get(f"{api}/v1/events", event, KEY)
    that(status == 202 and answer["durable_in"] == "log", f"the event: {status} {answer}")
    status, answer = get(f"{api}/v1/events/wait", {"event_ids": ["first"], "timeout_ms": 30000}, KEY, timeout=40)
    that(status == 200 and answer["events"][0]["status"] == "applied", f"the wait: {status} {answer}")
    status, answer = get(f"{api}/v1/recall", {"entity_id": "alice", "query": "Where does she live?"}, KEY)
    that(status == 200 and any("Lisbon" in f["content"] for f in answer["facts"]), f"the recall: {status} {answer}")
    that(get(f"{api}/v1/admin/dead-letters", key=OPERATOR)[0] == 200, "the operator sees no dead letters")
    batch = {"events": [{"event_id": f"e{n}", "entity_id": f"person-{n}", "messages": [{"role": "user", "content": f"My favourite number is {n}."}]} for n in range(200)]}
    status, answer = get(f"{api}/v1/events/batch", batch, KEY)
    that(status == 200 and {r["status"] for r in answer["results"]} == {"accepted"}, f"the batch: {status}")
    status, answer = get(f"{api}/v1/events/wait", {"event_ids": [f"e{n}" for n in range(200)], "timeout_ms": 60000}, KEY, timeout=70)
    that(answer["complete"], "200 events were not applied within a minute")
    that(get(f"{api}/v1/events", {"entity_id": 7}, KEY)[0] == 422, "an event whose entity is a number is taken")
    for _ in range(2):
        that(get(f"{api}/v1/recall/batch", {"queries": [{"entity_id": "person-7", "query": "number"}]}, KEY)[0] == 200, "a batch of recalls")


# Compose itself without an engine: it reads the project and what it is told, and then there is nobody to do it.
DOCKER = """#!/bin/sh
[ "$1" = compose ] || { echo "nobody runs this: docker $*" >&2; exit 2; }
shift
said=$(DOCKER_HOST=unix:///nobody timeout 60 %s "$@" 2>&1)
case $said in *"failed to connect to the docker API"*) echo "$*" >> "$TAKEN"; exit 0 ;; esac
echo "$said" >&2; exit 1
"""


def taken(compose, folder):
    """An environment in whose `docker compose` every line is read by Compose, and a file of those that it took."""
    docker, told = Path(folder, "docker"), Path(folder, "taken")
    docker.write_text(DOCKER % compose)
    docker.chmod(0o755)
    told.touch()
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": folder, "TAKEN": str(told)}, told


def pages(stack, compose):
    """What docs/running-with-compose.md and sentences elsewhere tell people to do."""
    page = "docs/running-with-compose.md"
    api = stack.address("ingest", 7700)
    with tempfile.TemporaryDirectory() as folder:
        env, told = taken(compose, folder)
        for wrong in ("up --wat", "logs ingests", "up --scale workers=2", "exec"):
            done = subprocess.run(["docker", "compose", *wrong.split()], capture_output=True, env=env, check=False)
            that(done.returncode != 0, f"docker compose {wrong} is taken")
        docs.run(page, env, lambda text: text.replace("http://127.0.0.1:7700", api))
        for where, command in docs.named([*sorted(Path("docs").rglob("*.md")), "README.md", "CONTRIBUTING.md"], "docker"):
            if command not in ("docker compose up", "docker build"):
                done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, check=False)
                that(done.returncode == 0, f"{where}: {command}: {done.stderr}")
        that(len(told.read_text().splitlines()) >= 9, f"Compose took only {told.read_text()}")
        # whom a command is run in, Compose asks the engine
        for line in told.read_text().splitlines():
            inside = re.match(r"(?:--profile \S+ )*exec (\S+) ", line)
            that(not inside or inside[1] in stack.services, f"docker compose {line}: there is no such service")
        # what the page sets before a command reaches the workers
        line = next(line for line in Path(page).read_text().splitlines() if line.startswith("MEMORI_EXTRACTOR_KIND="))
        sets = dict(part.split("=", 1) for part in line.split(" docker ")[0].split())
        read = subprocess.run([compose, "config", "--format", "json"], capture_output=True, text=True, check=True, env=env | sets)
        there = json.loads(read.stdout)["services"]["augment-worker"]["environment"]
        for name, value in sets.items():
            that(there[name.replace("MEMORI_EXTRACTOR_", "MEMORI__EXTRACTOR__")] == value, f"{page}: {name} does not reach the workers")
    text, file = Path(page).read_text(), Path("docker-compose.yml").read_text()
    told = set(re.findall(r"\b(?:MEMORI|POSTGRES|GRAFANA|PROMETHEUS)_(?:[A-Z0-9]+_?)+", text)) - set(re.findall(r"MEMORI__\w+", text)) - {"MEMORI_EXTRACTOR_API_KEY"}
    read = set(re.findall(r"\$\{([A-Z0-9_]+)", file))
    that(told <= read, f"{page} tells of variables that compose does not read: {told - read}")
    that(read - {"MEMORI_VERSION", "MEMORI_EXTRACTOR_API_KEY"} <= told, f"{page} does not tell of {read - told}")


def registry(stack):
    """It has the schemas of what is on the log, and keeps them in Postgres."""
    subjects = get(f"{stack.address('registry', 8080)}/apis/ccompat/v7/subjects")[1]
    that({"memori.ConversationEvent", "memori.FactsExtracted"} <= set(subjects), f"schemas are missing: {subjects}")
    sql = [str(stack.pg / "psql"), "-h", "127.0.0.1", "-p", str(stack.ports["postgres", 0, 5432]), "-U", "memori", "-d", "registry", "-Atc", "select count(*) from content"]
    done = subprocess.run(sql, capture_output=True, text=True, check=False, env={"PGPASSWORD": "memori", "PATH": "/usr/bin:/bin"})
    that(done.returncode == 0 and int(done.stdout) >= 1, f"the registry keeps nothing in Postgres: {done.stdout}{done.stderr}")


def archive(stack):
    """The profile `archive`: what was said is in the folder that everybody else mounts, as its own commands see it."""
    command = [str(stack.binaries / "memori"), "archive"]
    env = {"PATH": os.environ["PATH"]} | stack.environment("archiver", 0)

    def kept():
        done = subprocess.run([*command, "status", "--json"], capture_output=True, text=True, check=False, env=env)
        records = {}
        for partition in json.loads(done.stdout or '{"partitions": []}')["partitions"]:
            topic = partition["topic"].removeprefix("memori.")
            records[topic] = records.get(topic, 0) + partition["records"]
        # this run's events, and what was made of them
        return records.get("conversations.live", 0) >= 202 and records.get("facts.live", 0) > 0

    stack.until(60, "everything is archived", kept)
    done = subprocess.run([*command, "verify"], capture_output=True, text=True, check=False, env=env)
    that(done.returncode == 0, f"memori archive verify: {done.stdout}{done.stderr}")
    for name in ("ingest", "augment-worker", "writer"):
        volume = next(v for v in stack.services[name]["volumes"] if v["source"] == "archive")
        that(volume.get("read_only") and stack.environment(name, 0)["MEMORI__ARCHIVE__URL"] == env["MEMORI__ARCHIVE__URL"], f"{name} does not read what the archiver writes")


def scraped(stack):
    """Prometheus sees every process, and all that rules and dashboards name."""
    base = stack.address("prometheus", 9090)
    def targets():
        return get(f"{base}/api/v1/targets")[1]["data"]["activeTargets"]

    stack.until(60, "all targets are up", lambda: [t["health"] for t in targets()] == ["up"] * 5)
    stack.until(30, "rules are evaluated", lambda: get(f"{base}/api/v1/query?query=memori:worker_replicas:count")[1]["data"]["result"][0]["value"][1] == "2")
    result = get(f"{base}/api/v1/query?query=memori:ingest_spool:max_bytes")[1]["data"]["result"]
    that(result[0]["value"][1] == "1073741824", "the spool's bound is not known")


def named(stack):
    """All that rules and dashboards name was there in this run, incidents included, and all that was there is documented."""
    # what a process that has just been started has not had time to say
    def told():
        done = subprocess.run([sys.executable, "ops/platform/metrics.py", "--live", stack.address("prometheus", 9090)], capture_output=True, text=True, check=False)
        stack.said = done.stdout + done.stderr
        return done.returncode == 0

    try:
        stack.until(20, "every metric is there", told)
    except SystemExit:
        raise SystemExit(stack.said) from None
    print(stack.said.strip())


def main(compose, binaries, where_registry):
    """Starts it, asks, ends it."""
    since = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    refused(compose)
    sources()
    done = subprocess.run([compose, "config", "--services"], capture_output=True, text=True, check=True)
    that("archiver" not in done.stdout.split(), "the archiver runs where nobody asks for it")
    # a test waits for a range to close
    stack = Stack(compose, binaries, where_registry, settings={"MEMORI_ARCHIVE_ROLL_AGE_S": "1"}, rules=faster, profiles=["archive"])
    try:
        hardened(stack)
        grafana(stack)
        stack.up()
        print(f"compose: up after {time.monotonic() - since:.0f} s; Grafana's server is in no registry of packages: its files are checked, it is not started")
        conversation(stack)
        pages(stack, compose)
        registry(stack)
        archive(stack)
        scraped(stack)
        Incidents(stack, KEY, that).run()
        named(stack)
        for name, number in [("ingest", 0), ("augment-worker", 0), ("augment-worker", 1), ("archiver", 0), ("writer", 0)]:
            that(stack.stop(name, number) == 0, f"{name} did not drain")
    finally:
        stack.down()
    print(f"compose: {checks.passed} passed, 0 failed, in {time.monotonic() - since:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
