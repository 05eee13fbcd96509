"""Grafana's dashboards, from the description below: build.py writes them, build.py --check compares.

A panel is (title, unit, what it shows, {legend: expression}, and a description where the title does not say it). `$namespace` is every
namespace by default, and matches none at all (compose).
"""

import json
import sys
from pathlib import Path

INTO = Path(__file__).resolve().parents[2] / "helm/memori-stream/files/dashboards"
N = 'namespace=~"$namespace"'


def rate(metric, by="", more=""):
    """Per second, summed by labels."""
    inner = f"sum{f' by ({by})' if by else ''} (rate({metric}{{{N}{more}}}[$__rate_interval]))"
    return inner


def quantile(q, metric, by="", more=""):
    """Of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{N}{more}}}[$__rate_interval])))"


def total(metric, by="", more="", of="sum"):
    """Of a gauge."""
    return f"{of}{f' by ({by})' if by else ''} ({metric}{{{N}{more}}})"


def recallable():
    """What the objective is about."""
    metric = "memori_accepted_to_recallable_seconds"
    return ("Accepted to recallable", "s", "lines", {"p50": quantile(0.5, metric), "p99": quantile(0.99, metric)},
            "From an event's acceptance to the commit that makes its facts recallable. Objective: 99 % within a minute.")


DASHBOARDS = {
    "overview": ("Memori Stream: overview", [
        ("Promises", [
            ("Workers", "short", "stat", {"": f"memori:worker_replicas:count{{{N}}}"}),
            ("Drain time, live", "s", "stat", {"": f'memori:worker_drain:seconds{{{N},lane="live"}}'},
             "How long what waits takes at the present rate: what the workers scale on."),
            ("Over a minute to recall, last hour", "percentunit", "stat", {"": f"memori:recallable_slow:ratio_rate1h{{{N}}}"}),
            ("Dead letters, last hour", "short", "stat", {"": f"sum(increase(memori_worker_events_dead_lettered_total{{{N}}}[1h]))"}),
            ("Spooled events", "short", "stat", {"": total("memori_ingest_spool_events")}),
            ("Halted partitions", "short", "stat", {"": f"{total('memori_worker_halted_partitions')} + {total('memori_writer_halted_partitions')}"}),
        ]),
        ("Flow", [
            recallable(),
            ("Events", "ops", "lines", {
                "accepted": rate("memori_ingest_events_accepted_total"),
                "extracted": rate("memori_worker_events_extracted_total"),
                "recallable": rate("memori_writer_applied_total"),
                "given up": rate("memori_worker_events_dead_lettered_total"),
            }),
            ("Waiting, events", "short", "lines", {
                "workers, {{lane}}": total("memori_worker_lag_events", "lane"),
                "writer, {{topic}} {{lane}}": total("memori_writer_lag_events", "topic, lane"),
            }),
            ("Waiting, age of the oldest", "s", "lines", {
                "workers, {{lane}}": total("memori_worker_lag_seconds", "lane", of="max"),
                "writer, {{topic}} {{lane}}": total("memori_writer_lag_seconds", "topic, lane", of="max"),
            }),
            ("Recalls", "ops", "lines", {"{{route}}": rate("memori_recalls_total", "route")}),
            ("Recall takes", "s", "lines", {"p50": quantile(0.5, "memori_recall_seconds"), "p99": quantile(0.99, "memori_recall_seconds")}),
            ("Tokens", "short", "lines", {"{{direction}}": rate("memori_llm_tokens_total", "direction")}, "Per second."),
            ("Cost per hour", "short", "lines", {"{{model}} {{lane}}": f"3600 / 1e6 * {rate('memori_llm_usage_cost_micros_total', 'model, lane')}"},
             "By the configured prices."),
        ]),
    ]),
    "ingest": ("Memori Stream: ingest", [
        ("Requests", [
            ("Requests", "reqps", "lines", {"{{route}} {{class}}": rate("memori_ingest_request_duration_seconds_count", "route, class")}),
            ("Requests take, p99", "s", "lines", {"{{route}}": quantile(0.99, "memori_ingest_request_duration_seconds", "route")}),
            ("In flight", "short", "lines", {"{{instance}}": total("memori_ingest_requests_in_flight", "instance")}),
            ("Refused", "ops", "lines", {"{{reason}}": rate("memori_ingest_events_rejected_total", "reason"), "foreign host": rate("memori_ingest_hosts_refused_total")}),
        ]),
        ("Events", [
            ("Accepted", "ops", "lines", {"{{durable_in}}": rate("memori_ingest_events_accepted_total", "durable_in"), "seen before": rate("memori_ingest_events_duplicate_total")}),
            ("Not confirmed by the log in time", "ops", "lines", {"": rate("memori_ingest_log_unconfirmed_total")}),
            ("Look-ups at the writer", "ops", "lines", {"{{result}}": rate("memori_ingest_door_lookups_total", "result")}),
            ("Remembered events", "short", "lines", {"{{instance}}": total("memori_ingest_door_recent_events", "instance")}),
            ("Deletions, redrives, flushes", "ops", "lines", {
                "{{kind}}": rate("memori_ingest_controls_total", "kind"),
                "redriven, {{lane}}": rate("memori_ingest_redriven_total", "lane"),
                "not redriven, {{reason}}": rate("memori_ingest_redrive_refused_total", "reason"),
                "flush {{result}}": rate("memori_ingest_flushes_total", "result"),
            }),
            ("Memory blocks removed", "ops", "lines", {"": rate("memori_ingest_context_blocks_removed_total")}, "What was injected into a prompt and came back."),
        ]),
        ("Spool", [
            ("Events", "short", "lines", {"{{instance}}": total("memori_ingest_spool_events", "instance")}),
            ("Bytes", "bytes", "lines", {"{{instance}}": total("memori_ingest_spool_bytes", "instance"), "bound": f"max(memori:ingest_spool:max_bytes{{{N}}})"}),
            ("Moves", "ops", "lines", {
                "delivered": rate("memori_ingest_spool_delivered_total"),
                "refused, full": rate("memori_ingest_spool_full_total"),
                "not written": rate("memori_ingest_spool_failed_total"),
                "set aside": rate("memori_ingest_spool_set_aside_total"),
            }),
            ("Torn bytes found at start", "bytes", "lines", {"{{instance}}": total("memori_ingest_spool_torn_bytes_total", "instance")}),
        ]),
    ]),
    "tenants": ("Memori Stream: tenants", [
        ("Quotas", [
            ("Used by whoever is nearest to its bound", "percentunit", "lines", {"{{quota}}": total("memori_ingest_quota_used_ratio", "quota", of="max")},
             "Of tenants that called within a minute. Who it is: memori quota show TENANT."),
            ("Refused", "ops", "lines", {"{{quota}}": rate("memori_ingest_quota_refused_total", "quota")}),
        ]),
        ("Keys", [
            ("Denied", "ops", "lines", {"{{reason}}": rate("memori_ingest_keys_denied_total", "reason")}),
            ("Look-ups", "ops", "lines", {"{{result}}": rate("memori_ingest_key_lookups_total", "result")}),
            ("Remembered", "short", "lines", {"{{instance}}": total("memori_ingest_keys_remembered", "instance")}),
        ]),
        ("Usage", [
            ("Tokens", "short", "lines", {"{{tenant}} {{lane}}": rate("memori_llm_usage_tokens_total", "tenant, lane")},
             "Per second; tenants that configuration names, else other. All of them: memori tenant usage."),
            ("Cost per hour", "short", "lines", {"{{tenant}}": f"3600 / 1e6 * {rate('memori_llm_usage_cost_micros_total', 'tenant')}"}, "By the configured prices."),
        ]),
    ]),
    "worker": ("Memori Stream: worker", [
        ("Scaling", [
            ("Drain time", "s", "lines", {"{{lane}}": f"memori:worker_drain:seconds{{{N}}}"}),
            ("Workers", "short", "lines", {"running": f"memori:worker_replicas:count{{{N}}}", "ceiling": f"memori:worker_replicas:ceiling{{{N}}}"}),
            ("Waiting", "short", "lines", {"{{lane}}": f"memori:worker_backlog:events{{{N}}}"}),
            ("Age of the oldest", "s", "lines", {"{{lane}}": total("memori_worker_lag_seconds", "lane", of="max")}),
        ]),
        ("Work", [
            ("Done", "ops", "lines", {"{{lane}}": rate("memori_worker_events_extracted_total", "lane"), "given up, {{class}}": rate("memori_worker_events_dead_lettered_total", "class")}),
            ("In flight", "short", "lines", {"{{instance}}": total("memori_worker_events_in_flight", "instance")}),
            ("Held", "short", "lines", {"events": total("memori_worker_held_events"), "put off": total("memori_worker_deferred_events")}),
            ("Held bytes", "bytes", "lines", {"{{instance}}": total("memori_worker_held_bytes", "instance")}),
            ("Facts", "ops", "lines", {"{{kind}}": rate("memori_worker_facts_total", "kind")}),
            ("Events per call", "short", "lines", {"{{lane}}": f"{rate('memori_worker_events_extracted_total', 'lane')} / {rate('memori_worker_extractions_total', 'lane')}"}, "What windows save."),
            ("One call takes, p99", "s", "lines", {"{{lane}}": quantile(0.99, "memori_worker_extraction_seconds", "lane")}),
            ("Tried again", "ops", "lines", {"{{reason}}": rate("memori_worker_retries_total", "reason"), "windows apart, {{class}}": rate("memori_worker_windows_apart_total", "class")}),
        ]),
        ("The model", [
            ("Calls", "ops", "lines", {"{{purpose}} {{result}}": rate("memori_llm_calls_total", "purpose, result")}),
            ("A call takes", "s", "lines", {"p50": quantile(0.5, "memori_llm_call_seconds"), "p99": quantile(0.99, "memori_llm_call_seconds")}),
            ("In flight and limit", "short", "lines", {"{{endpoint}}": total("memori_llm_in_flight", "endpoint"), "limit {{endpoint}}": total("memori_llm_limit", "endpoint")}),
            ("Breaker", "short", "lines", {"{{endpoint}}": total("memori_llm_breaker", "endpoint", of="max")}, "2 is open, 1 a probe."),
            ("Refused as too many, made elsewhere", "ops", "lines", {"too many, {{endpoint}}": rate("memori_llm_limited_total", "endpoint"), "elsewhere, {{endpoint}}": rate("memori_llm_failed_over_total", "endpoint")}),
            ("Waits for its turn, p99", "s", "lines", {"{{for}}": quantile(0.99, "memori_llm_wait_seconds", "for")}),
            ("Tokens by tenant", "short", "lines", {"{{tenant}}": rate("memori_llm_usage_tokens_total", "tenant")}, "Per second; tenants that configuration names, else other."),
            ("Not kept of answers", "ops", "lines", {"{{reason}}": rate("memori_llm_facts_refused_total", "reason"), "repairs, {{outcome}}": rate("memori_llm_repairs_total", "outcome")}),
        ]),
        ("The log", [
            ("Rebalances", "ops", "lines", {"{{change}}": rate("memori_worker_rebalances_total", "change")}),
            ("Not done twice", "ops", "lines", {"partition gone": rate("memori_worker_dropped_by_epoch_total"), "done before": rate("memori_worker_skipped_as_finished_total")}),
            ("Failures of the log", "ops", "lines", {"": rate("memori_worker_log_failures_total")}),
            ("Standing still", "short", "lines", {"halted": total("memori_worker_halted_partitions"), "paused by a burst": total("memori_worker_dead_letter_burst"), "paused, full": total("memori_worker_paused")}),
            ("Vectors", "ops", "lines", {"of {{of}}": rate("memori_worker_vectors_total", "of"), "left out, {{cause}}": rate("memori_worker_vectors_left_out_total", "cause")}),
        ]),
    ]),
    "writer": ("Memori Stream: writer", [
        ("Sink", [
            ("Records", "ops", "lines", {"{{topic}}": rate("memori_writer_records_total", "topic")}),
            ("Waiting, age of the oldest", "s", "lines", {"{{topic}} {{lane}}": total("memori_writer_lag_seconds", "topic, lane", of="max")}),
            ("A flush takes", "s", "lines", {"p50": quantile(0.5, "memori_writer_flush_seconds"), "p99": quantile(0.99, "memori_writer_flush_seconds")}),
            ("Records in a flush", "short", "lines", {"p50": quantile(0.5, "memori_writer_flush_rows"), "p99": quantile(0.99, "memori_writer_flush_rows")}),
            ("Rows written", "ops", "lines", {"": rate("memori_writer_rows_written_total")}),
            ("Flushes tried again", "ops", "lines", {"{{cause}}": rate("memori_writer_flush_retries_total", "cause"), "fenced": rate("memori_writer_fenced_total"), "log": rate("memori_writer_log_errors_total")}),
            ("Became", "ops", "lines", {
                "applied": rate("memori_writer_applied_total"), "erased": rate("memori_writer_erased_total"),
                "dead letter, {{class}}": rate("memori_writer_dead_lettered_total", "class"), "refused, {{class}}": rate("memori_writer_refused_total", "class"),
            }),
            ("Held", "short", "lines", {"held": total("memori_writer_held_records"), "in a flush": total("memori_writer_in_flight_records")}),
            ("Packs", "ops", "lines", {"{{result}}": rate("memori_writer_packs_total", "result")}),
            ("Halted partitions", "short", "lines", {"{{instance}}": total("memori_writer_halted_partitions", "instance")}),
        ]),
        ("Recall", [
            recallable(),
            ("Recalls", "ops", "lines", {"{{route}}": rate("memori_recalls_total", "route")}),
            ("Recall takes", "s", "lines", {"p50": quantile(0.5, "memori_recall_seconds"), "p99": quantile(0.99, "memori_recall_seconds")}),
            ("Images at hand", "percentunit", "lines", {"{{part}}": f"{rate('memori_recall_cache_hits_total', 'part')} / ({rate('memori_recall_cache_hits_total', 'part')} + {rate('memori_recall_cache_misses_total', 'part')})"}),
            ("Cached images", "bytes", "lines", {"{{instance}}": total("memori_recall_cache_bytes", "instance")}),
            ("Making an image, p99", "s", "lines", {"{{source}}": quantile(0.99, "memori_recall_image_seconds", "source")}),
            ("Ranked by", "ops", "lines", {"{{recipe}} {{reason}}": rate("memori_recall_rankings_total", "recipe, reason")}),
            ("Vectors of queries", "ops", "lines", {"{{result}}": rate("memori_recall_query_vectors_total", "result")}),
            ("Waiting for a commit", "short", "lines", {"waiters": total("memori_writer_waiters"), "refused": rate("memori_writer_waits_refused_total")}),
            ("Woken by", "ops", "lines", {"{{cause}}": rate("memori_writer_wake_ups_total", "cause")}),
            ("Embedding takes, p99", "s", "lines", {"{{kind}}": quantile(0.99, "memori_embedding_seconds", "kind")}),
            ("Vectors can be made", "short", "lines", {"{{instance}}": total("memori_embedding_available", "instance", of="min")}),
        ]),
    ]),
}

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(number, place, title, unit, shows, expressions, description=""):
    """One panel of Grafana's."""
    made = {
        "id": number,
        "type": "stat" if shows == "stat" else "timeseries",
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
            for i, (legend, expression) in enumerate(expressions.items())
        ],
    }
    if shows == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area"}
    else:
        made["fieldConfig"]["defaults"]["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return made


def dashboard(name, title, rows):
    """One dashboard of Grafana's."""
    panels, y, number = [], 0, 1
    for row, contents in rows:
        panels.append({"id": number, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        number, y, x = number + 1, y + 1, 0
        for content in contents:
            width, height = (4, 4) if content[2] == "stat" else (12, 8)
            if x + width > 24:
                x, y = 0, y + height
            panels.append(panel(number, {"x": x, "y": y, "w": width, "h": height}, *content))
            number, x = number + 1, x + width
        y += height
    return {
        "uid": f"memori-{name}",
        "title": title,
        "tags": ["memori"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "editable": False,
        "links": [{"type": "dashboards", "tags": ["memori"], "title": "Memori Stream", "asDropdown": True, "keepTime": True}],
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {"name": "namespace", "type": "query", "datasource": SOURCE, "query": "label_values(memori_ingest_requests_in_flight, namespace)",
             "refresh": 2, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}},
        ]},
        "panels": panels,
    }


def main():
    """Writes, or compares."""
    check = "--check" in sys.argv
    stale = []
    for name, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, rows), indent=1) + "\n"
        file = INTO / f"{name}.json"
        if check:
            if not file.exists() or file.read_text() != text:
                stale.append(file.name)
        else:
            file.write_text(text)
    stale += [f.name for f in INTO.glob("*.json") if f.stem not in DASHBOARDS] if check else []
    if stale:
        sys.exit(f"not as ops/grafana/build.py makes them: {', '.join(stale)}; run it")


if __name__ == "__main__":
    main()
