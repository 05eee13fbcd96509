"""Alerts seen to fire and to clear, in incidents that are forced on a running stack.

Time runs sixty times as fast for the rules: a minute in them is a second here. What they compare is as it is.
"""

import http.server
import json
import re
import signal
import threading
import time

from stack import get

UNITS = {"s": 1 / 60, "m": 1, "h": 60}


def faster(text):
    """Rules with every window and every `for` a sixtieth as long."""
    def second(found):
        return f"{found[1]}{max(1, round(int(found[2]) * UNITS[found[3]]))}s{found[4]}"

    text = re.sub(r"(\[)(\d+)([smh])(\])", second, text)
    return re.sub(r"(for: )(\d+)([smh])()", second, text)


class Provider(http.server.ThreadingHTTPServer):
    """A model that answers as `mode` says: well, with 429, or with what is no answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.mode, self.takes_seconds, self.calls = "well", 0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    """One call."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802
        """Answers it."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.calls += 1
        time.sleep(self.server.takes_seconds)
        status, content = 200, {"well": '{"facts": []}', "badly": "I would rather talk about the weather."}.get(self.server.mode)
        body = {"id": "x", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
        if self.server.mode == "throttled":
            status, body = 429, {"error": {"message": "slow down", "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status == 429:
            self.send_header("retry-after", "1")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Says nothing."""


class Incidents:
    """Forces them on a stack, and watches."""

    def __init__(self, stack, key, that):
        self.stack, self.key, self.that, self.count = stack, key, that, 0
        self.prometheus = stack.address("prometheus", 9090)

    def firing(self):
        """The alerts that fire now."""
        alerts = get(f"{self.prometheus}/api/v1/alerts")[1]["data"]["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def post(self, count=1):
        """Events, each of a person of its own; their ids."""
        ids = []
        for _ in range(count):
            self.count += 1
            ids.append(f"incident-{self.count}")
            event = {"event_id": ids[-1], "entity_id": f"someone-{self.count}", "messages": [{"role": "user", "content": f"I have seen {self.count} ships."}]}
            status, answer = get(f"{self.stack.address('ingest', 7700)}/v1/events", event, self.key)
            self.that(status == 202, f"an event in an incident: {status} {answer}")
        return ids, answer["durable_in"]

    def final(self, ids):
        """How they ended."""
        status, answer = get(f"{self.stack.address('ingest', 7700)}/v1/events/wait", {"event_ids": ids, "timeout_ms": 60000}, self.key, timeout=70)
        self.that(status == 200 and answer["complete"], f"events of an incident are not final: {answer}")
        return {e["status"] for e in answer["events"]}

    def seen(self, alert, meanwhile=lambda: None):
        """Until it fires."""
        def fires():
            meanwhile()
            return alert in self.firing()

        self.stack.until(60, f"{alert} fires", fires)
        self.that(True, alert)

    def gone(self, alert):
        """Until it does not."""
        self.stack.until(90, f"{alert} clears", lambda: alert not in self.firing())
        self.that(True, alert)

    def restart_workers(self, **environment):
        """With other variables."""
        for number in (0, 1):
            if ("augment-worker", number) in self.stack.running:
                self.that(self.stack.stop("augment-worker", number) == 0, "a worker did not drain")
        self.stack.services["augment-worker"]["environment"].update(environment)
        for number in (0, 1):
            self.stack.start("augment-worker", number)
        for number in (0, 1):
            self.stack.until(60, "the worker is healthy", lambda number=number: self.stack.healthy("augment-worker", number))

    def run(self):
        """All of them."""
        since = time.monotonic()
        self.stack.until(60, "nothing fires", lambda: not self.firing())

        # the workers stop
        for number in (0, 1):
            self.that(self.stack.stop("augment-worker", number) == 0, "a worker did not drain")
        ids, _ = self.post(3)
        self.seen("MemoriNoWorker")
        provider = Provider()
        self.restart_workers(
            MEMORI__EXTRACTOR__KIND="llm", MEMORI__EXTRACTOR__BASE_URL=f"http://127.0.0.1:{provider.server_address[1]}/v1", MEMORI__EXTRACTOR__MODEL="m",
            MEMORI__EXTRACTOR__API_KEY="k", MEMORI__WORKER__WINDOW_EVENTS="1", MEMORI__EXTRACTOR__STRUCTURED_OUTPUT="text",
        )
        self.gone("MemoriNoWorker")
        self.that(self.final(ids) == {"applied"}, "what waited for the workers is not applied")

        # Kafka is away: it does not answer, and holds its connections
        kafka = self.stack.running["kafka", 0]
        kafka.send_signal(signal.SIGSTOP)
        ids, durable = self.post()
        self.that(durable == "spool", f"with Kafka away an event is durable in {durable}")
        self.seen("MemoriLogAway")
        kafka.send_signal(signal.SIGCONT)
        self.gone("MemoriLogAway")
        self.that(self.final(ids) == {"applied"}, "what was spooled is not applied")

        # the provider refuses: 429
        provider.mode = "throttled"
        ids, _ = self.post(20)
        self.seen("MemoriProviderThrottles")
        provider.mode = "well"
        self.gone("MemoriProviderThrottles")
        self.that(self.final(ids) == {"applied"}, "good events were given up because the provider throttled")

        # it answers, and says nothing that can be used
        self.stack.until(60, "nothing fires", lambda: not self.firing())
        provider.mode = "badly"
        ids, _ = self.post(3)
        self.seen("MemoriDeadLetters")
        self.that(self.final(ids) == {"dead_lettered"}, "events with useless answers are no dead letters")
        provider.mode = "well"
        self.gone("MemoriDeadLetters")
        provider.shutdown()
        print(f"incidents: worker stopped, Kafka away, provider 429, dead letters: each alert fired and cleared, in {time.monotonic() - since:.0f} s")
