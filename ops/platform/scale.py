"""Workers that are scaled by what the chart's ScaledObject says, on a real Kafka, while the load goes up and down.

scale.py COMPOSE BINARIES REGISTRY HELM, run from the root. The autoscaler's arithmetic is Kubernetes' own, done here; queries, thresholds,
bounds and behaviour are those that the chart renders. The stack is compose's, with a model that takes a quarter of a second.
"""

import math
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import yaml
from incidents import Provider
from stack import Stack, get

KEY = "memori-dev-key"
OBJECTIVE, MOST, CONCURRENCY, TAKES = 10, 8, 2, 0.25
# events a second, and for how long
LOAD = [(4, 25), (50, 60), (4, 150)]


def rendered(helm):
    """The ScaledObject, for objectives of a test's length."""
    sets = ["kafka.brokers=k:1", "postgres.url=postgres://p/m", "worker.autoscaling.enabled=true", "worker.autoscaling.prometheus.serverAddress=http://p:9090",
            "worker.autoscaling.minReplicas=1", f"worker.autoscaling.maxReplicas={MOST}", f"worker.autoscaling.objectiveSeconds={OBJECTIVE}",
            "extractor.kind=llm", "extractor.baseUrl=http://m/v1", "extractor.model=m", f"extractor.maxConcurrency={CONCURRENCY}", "worker.autoscaling.scaleIn.stabilizationSeconds=15", "worker.autoscaling.scaleIn.periodSeconds=3"]
    arguments = [part for s in sets for part in ("--set", s)] + ["--set-string", 'worker.autoscaling.prometheus.selector=job="augment-worker"']
    text = subprocess.run([helm, "template", "memori", "helm/memori-stream", *arguments], capture_output=True, text=True, check=True).stdout
    return next(o["spec"] for o in yaml.safe_load_all(text) if o and o["kind"] == "ScaledObject")


class Autoscaler:
    """What the HorizontalPodAutoscaler makes of a ScaledObject's Prometheus triggers."""

    def __init__(self, spec, ask):
        self.least, self.most = spec["minReplicaCount"], spec["maxReplicaCount"]
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        self.window, self.step, self.period = down["stabilizationWindowSeconds"], down["policies"][0]["value"], down["policies"][0]["periodSeconds"]
        self.triggers = [t for t in spec["triggers"] if t["type"] == "prometheus"]
        self.ask, self.wishes, self.went = ask, [], 0

    def wish(self, present):
        """The highest of all triggers, within the tolerance of a tenth."""
        wishes = []
        for trigger in self.triggers:
            # a test has no two minutes
            value = self.ask(re.sub(r"\[2m\]", "[10s]", trigger["metadata"]["query"]))
            target = float(trigger["metadata"]["threshold"])
            if value is None:
                continue
            ratio = value / target if trigger["metricType"] == "Value" else value / target / present
            wishes.append(present if abs(ratio - 1) <= 0.1 else math.ceil(ratio * present))
        return max(wishes, default=present)

    def decide(self, present, now):
        """How many there are to be."""
        wish = min(self.most, max(self.least, self.wish(present)))
        self.wishes = [(at, w) for at, w in self.wishes if now - at < self.window] + [(now, wish)]
        if wish > present:
            # twice as many, or two more, at a time
            return min(wish, max(present * 2, present + 2))
        held = max(w for _, w in self.wishes)
        if held < present and now - self.went >= self.period:
            self.went = now
            return max(held, present - self.step)
        return present


class Load(threading.Thread):
    """Posts events, so many a second."""

    def __init__(self, api):
        super().__init__(daemon=True)
        self.api, self.rate, self.ids, self.stopped, self.error = api, 0, [], False, None

    def run(self):
        """Until it is stopped."""
        while not self.stopped:
            since = time.monotonic()
            events = [{"event_id": f"s{len(self.ids) + n}", "entity_id": f"p{len(self.ids) + n}", "messages": [{"role": "user", "content": "I like trains."}]} for n in range(self.rate)]
            if events:
                status, answer = get(f"{self.api}/v1/events/batch", {"events": events}, KEY)
                if status != 200 or {r["status"] for r in answer["results"]} != {"accepted"}:
                    self.error = f"{status} {answer}"
                    return
                self.ids += [e["event_id"] for e in events]
            time.sleep(max(0, since + 1 - time.monotonic()))


def main(compose, binaries, registry, helm):
    """Starts it, scales it, audits it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    provider = Provider()
    provider.takes_seconds = TAKES
    stack = Stack(compose, binaries, registry)
    stack.replicas["augment-worker"] = 1
    stack.expect("augment-worker", MOST)
    stack.services["augment-worker"]["environment"].update({
        "MEMORI__EXTRACTOR__KIND": "llm", "MEMORI__EXTRACTOR__BASE_URL": f"http://127.0.0.1:{provider.server_address[1]}/v1", "MEMORI__EXTRACTOR__MODEL": "m",
        "MEMORI__EXTRACTOR__API_KEY": "k", "MEMORI__EXTRACTOR__STRUCTURED_OUTPUT": "text", "MEMORI__EXTRACTOR__MAX_CONCURRENCY": str(CONCURRENCY),
        "MEMORI__EXTRACTOR__ADAPTIVE": "false", "MEMORI__EXTRACTOR__KNOWN_FACTS_TOKENS": "0", "MEMORI__WORKER__WINDOW_EVENTS": "1", "MEMORI__EMBEDDING__KIND": "none",
    })
    try:
        stack.up()

        def ask(query):
            result = get(f"{stack.address('prometheus', 9090)}/api/v1/query?query={urllib.parse.quote(query)}")[1]["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        scaler = Autoscaler(rendered(helm), ask)
        load = Load(stack.address("ingest", 7700))
        load.start()
        present, highest, course = 1, 1, []
        drain = 'memori:worker_drain:seconds{lane="live"}'
        ends = time.monotonic()
        for rate, seconds in LOAD:
            load.rate, ends = rate, ends + seconds
            while time.monotonic() < ends:
                if load.error:
                    raise SystemExit(f"FAILED: an event was refused: {load.error}")
                wanted = scaler.decide(present, time.monotonic())
                for number in range(present, wanted):
                    stack.start("augment-worker", number)
                for number in range(wanted, present):
                    status = stack.stop("augment-worker", number)
                    if status:
                        raise SystemExit(f"FAILED: a worker that was scaled in ended with {status}")
                if wanted != present:
                    course.append(wanted)
                present, highest = wanted, max(highest, wanted)
                if rate == LOAD[-1][0] and highest == MOST and present <= 2 and (ask(drain) or 0) < OBJECTIVE:
                    break
                time.sleep(1.5)
        load.stopped = True
        load.join(10)
        waiting = ask(drain)
        for at in range(0, len(load.ids), 1000):
            part = load.ids[at:at + 1000]
            answer = get(f"{stack.address('ingest', 7700)}/v1/events/wait", {"event_ids": part, "timeout_ms": 60000}, KEY, timeout=70)[1]
            if not answer["complete"] or {e["status"] for e in answer["events"]} != {"applied"}:
                raise SystemExit("FAILED: events were lost")
        time.sleep(2)
        applied = ask("sum(memori_writer_applied_total)")
        print(f"scale: {len(load.ids)} events; workers 1 → {' → '.join(map(str, course))}; {provider.calls} calls to the model; {applied:.0f} applied; drain time at the end {waiting:.1f} s")
        for holds, what in (
            (highest == MOST, f"the workers never were {MOST}"), (present <= 2, f"{present} workers are left"), (waiting < OBJECTIVE, "the lag is not back at its objective"),
            (applied == len(load.ids), "what was applied is not what was sent"),
            # what a partition that moves had in flight is asked again; its effects are not had again
            (provider.calls <= len(load.ids) * 1.15, "more than one call in seven was made again"),
        ):
            if not holds:
                raise SystemExit(f"FAILED: {what}")
        print("scale: 5 passed, 0 failed")
    finally:
        stack.down()


if __name__ == "__main__":
    main(*sys.argv[1:])
