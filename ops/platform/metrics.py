"""Rules and dashboards against what there is: metrics.py [--live PROMETHEUS], run from the root. Needs PyYAML and promtool.

Without a Prometheus: every metric that a rule or a panel names is in docs/metrics.md, every expression is PromQL, every alert has a page
in docs/runbooks and tests in which it fires and in which it does not. With the address of one that scrapes a live run: every name is
there too, every rule evaluates, every metric there is documented.
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

RULES = sorted(Path("helm/memori-stream/files/rules").glob("*.yaml"))
DASHBOARDS = sorted(Path("helm/memori-stream/files/dashboards").glob("*.json"))
TESTS = sorted(Path("ops/prometheus/tests").glob("*.yaml"))
RUNBOOKS = Path("docs/runbooks")
VALUES = Path("helm/memori-stream/values.yaml")
SETTINGS = Path("service/src/settings.rs")
# parts of a histogram's name
PARTS = ("_bucket", "_count", "_sum")


def documented():
    """The metrics of docs/metrics.md."""
    rows = [line.split("|")[1] for line in Path("docs/metrics.md").read_text().splitlines() if line.startswith("| `memori_")]
    return set(re.findall(r"memori_[a-z_]+", " ".join(rows)))


def names(expression):
    """The metrics and the recorded series that an expression names."""
    return set(re.findall(r"memori[_:][a-z0-9_:]+", expression))


def family(name, known):
    """A histogram's name without its part."""
    for part in PARTS:
        if name.endswith(part) and name[: -len(part)] in known:
            return name[: -len(part)]
    return name


def rules():
    """(where, expression, rule) of every rule."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield f"{file.name}: {rule.get('alert') or rule['record']}", rule["expr"], rule


def panels():
    """(where, expression) of every panel, with Grafana's variables filled in."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*")
                yield f"{file.name}: {panel['title']}", expression


def promtool(*arguments):
    """Fails with what promtool says."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"promtool {' '.join(arguments)}: {done.stdout}{done.stderr}")


def value(path):
    """Whether the chart has it."""
    found = yaml.safe_load(VALUES.read_text())
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def setting(path):
    """Whether the programs have it: a field of the section's struct."""
    section, _, key = path.partition(".")
    fields = re.search(rf"^    {section.capitalize()} \{{\n(.*?)^    \}}", SETTINGS.read_text(), re.DOTALL | re.MULTILINE)
    return bool(fields and re.search(rf"^        {key}: ", fields[1], re.MULTILINE))


def still(failures):
    """Everything that needs no server."""
    known = documented()
    recorded = {rule["record"] for _, _, rule in rules() if "record" in rule}
    expressions = [(where, expression) for where, expression, _ in rules()] + list(panels())
    for where, expression in expressions:
        for name in names(expression):
            if name not in recorded and family(name, known) not in known:
                failures.append(f"{where} names {name}, which docs/metrics.md does not have")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        made = [{"record": f"panel:{i}", "expr": expression} for i, (_, expression) in enumerate(panels())]
        yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}, file)
        file.flush()
        promtool("check", "rules", file.name)
    promtool("check", "rules", *map(str, RULES))
    for test in TESTS:
        promtool("test", "rules", str(test))

    fires, quiet = set(), set()
    for test in TESTS:
        for case in yaml.safe_load(test.read_text())["tests"]:
            last = {}
            for check in case.get("alert_rule_test", []):
                last.setdefault(check["alertname"], []).append(bool(check.get("exp_alerts")))
            for alert, seen in last.items():
                if True in seen:
                    fires.add(alert)
                    # it has to go again in the same incident
                    if not seen[-1]:
                        quiet.add(alert)
    alerts = {rule["alert"]: rule for _, _, rule in rules() if "alert" in rule}
    pages = {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}
    for alert, rule in alerts.items():
        if alert not in fires or alert not in quiet:
            failures.append(f"{alert}: no test sees it {'clear' if alert in fires else 'fire'}")
        page = rule["annotations"]["runbook_url"].rsplit("/", 1)[1]
        if page not in pages:
            failures.append(f"{alert}: docs/runbooks/{page} is not there")
        elif not (RUNBOOKS / page).read_text().startswith(f"# {alert}\n"):
            failures.append(f"docs/runbooks/{page} is of another alert")
        pages.discard(page)
        if rule["labels"].get("severity") not in ("critical", "warning"):
            failures.append(f"{alert}: no severity")
    failures += [f"docs/runbooks/{page} is nobody's" for page in pages]
    for page in RUNBOOKS.glob("*.md"):
        text = page.read_text()
        for name in set(re.findall(r"memori_[a-z_]+", text)):
            if name not in known:
                failures.append(f"{page} names {name}, which docs/metrics.md does not have")
        failures += [f"{page} names {name}, which no rule records" for name in set(re.findall(r"memori:[a-z_:]+", text)) - recorded]
        told = re.findall(r"`([a-zA-Z_]+(?:\.[a-zA-Z_]+)+)`", text)
        told += [name.lower().replace("__", ".") for name in re.findall(r"MEMORI__(\w+)", text)]
        failures += [f"{page} names {name}, which is neither a value of the chart nor a setting" for name in told if not (value(name) or setting(name))]
        for link in re.findall(r"\]\(([^)#]+)", text):
            if not link.startswith("http") and not (page.parent / link).exists():
                failures.append(f"{page} links to {link}, which is not there")
    return len(expressions), len(alerts)


def ask(base, path, **parameters):
    """An answer of Prometheus' API."""
    url = f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)["data"]


def live(base, failures):
    """What a live run has."""
    there = {name for name in ask(base, "label/__name__/values") if name.startswith("memori")}
    known = documented()
    recorded = {rule["record"] for _, _, rule in rules() if "record" in rule}
    for name in there:
        if not name.startswith("memori:") and family(name, known) not in known:
            failures.append(f"{name} is served, and docs/metrics.md does not have it")
    # counted from its first event on: a label's value is not known before
    late = there | {name for name in known if any(name + part in there for part in PARTS)}
    for where, expression in [(w, e) for w, e, _ in rules()] + list(panels()):
        ask(base, "query", query=expression)
        for name in names(expression):
            if name not in recorded and name not in late:
                failures.append(f"{where} names {name}, which no process serves")
    broken = [r["name"] for g in ask(base, "rules")["groups"] for r in g["rules"] if r["health"] == "err"]
    failures += [f"the rule {name} does not evaluate" for name in broken]
    return len(there)


def main():
    """Runs what is asked for."""
    failures = []
    if "--live" in sys.argv:
        count = live(sys.argv[sys.argv.index("--live") + 1], failures)
        told = f"{count} metrics of a live run"
    else:
        expressions, alerts = still(failures)
        told = f"{expressions} expressions, {alerts} alerts"
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(f"metrics: {told}; {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
