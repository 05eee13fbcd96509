"""What memory costs a Python program: time per call and per stream, beside a client of the same SDK that nobody registered.

python bench/sdk [--json FILE] [--runs N] [--calls N] [--facts N ...] [--quick]

The provider is a double on this machine that answers at once, so all of a call's time is the SDK's, the network's and ours. A call
asks something new, so nothing is answered from a cache; recall, injection and capture are in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import calls
import facts
import loop
import processes
import provider
from memori import Memori
from samples import Report, quantile

# What is known of who is answered in streams.
_STREAMED_FACTS = 1_000
_PROVIDERS = ("openai", "anthropic")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures of each run go")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="of each case and run")
    parser.add_argument("--facts", type=int, nargs="+", default=[0, 100, 1_000, 10_000], help="known of those who are talked to")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    return parser.parse_args()


def _measured(
    mem: Memori, url: str, of: str, asynchronous: bool, stream: bool, known: int, seed: int, count: int
) -> tuple[calls.Samples, calls.Samples]:
    with mem.scope(entity_id=facts.entity(known), process_id="bench"):
        arguments = (mem, of, url, stream, facts.questions(seed), count)
        return asyncio.run(calls.in_turns_async(*arguments)) if asynchronous else calls.in_turns(*arguments)


def _calls(mem: Memori, url: str, sizes: list[int], runs: int, count: int, report: Report) -> None:
    for known in sizes:
        for of in _PROVIDERS:
            for asynchronous in (False, True):
                pairs = [_measured(mem, url, of, asynchronous, False, known, run, count) for run in range(runs)]
                name = f"call, {of} {'async' if asynchronous else 'sync'}, {known:,} facts"
                for label, share in (("p50", 0.5), ("p99", 0.99)):
                    ours, floor = ([quantile(side.whole, share) for side in sides] for sides in zip(*pairs, strict=True))
                    report.add(f"{name}, {label}", "ms", ours, floor)


def _streams(mem: Memori, url: str, known: int, runs: int, count: int, report: Report) -> None:
    for of in _PROVIDERS:
        for asynchronous in (False, True):
            pairs = [_measured(mem, url, of, asynchronous, True, known, 100 + run, count) for run in range(runs)]
            name = f"stream, {of} {'async' if asynchronous else 'sync'}"
            for label in ("first", "whole"):
                ours, floor = ([quantile(getattr(side, label), 0.5) for side in sides] for sides in zip(*pairs, strict=True))
                report.add(f"{name}, {label}, p50", "ms", ours, floor)


def _loops(mem: Memori, url: str, runs: int, quick: bool, report: Report) -> None:
    for name, history_bytes, at_once, rounds in (("100 calls at once", 0, 100, 3), ("4 MB a call", 4 << 20, 1, 10)):
        pairs = [asyncio.run(loop.pair(mem, url, history_bytes, at_once, 1 if quick else rounds)) for _ in range(runs)]
        for label, share in (("p99", 0.99), ("longest", 1.0)):
            ours, floor = ([quantile(side, share) for side in sides] for sides in zip(*pairs, strict=True))
            report.add(f"event loop late, {name}, {label}", "ms", ours, floor)


def _processes(folder: str, url: str, known: int, runs: int, report: Report) -> None:
    def fresh() -> str:
        return tempfile.mkdtemp(dir=folder)

    imports = [(processes.import_ms("memori"), processes.import_ms("openai")) for _ in range(runs)]
    ours, floor = map(list, zip(*imports, strict=True))
    report.add("import memori, beside import openai", "ms", ours, floor)
    firsts = [processes.first_ms(fresh()) for _ in range(runs)]
    ours, floor = map(list, zip(*firsts, strict=True))
    report.add("first Memori(), beside first OpenAI()", "ms", ours, floor)
    instances = [processes.instance(fresh()) for _ in range(runs)]
    ours, floor, kib, threads = map(list, zip(*instances, strict=True))
    report.add("Memori() per request, beside OpenAI()", "µs", ours, floor)
    # A thousand of them; the engine's own work brings some threads and pages, too.
    if max(threads) > 20 or max(kib) > 20:
        raise RuntimeError(f"instances grow the process: {max(kib):.1f} KiB each, {max(threads)} threads")
    resident = [processes.resident_mib(str(Path(folder, "known")), url, facts.entity(known)) for _ in range(runs)]
    without, begun, after = map(list, zip(*resident, strict=True))
    report.add("resident, engine up", "MiB", begun, without)
    report.add(f"resident, {known:,} facts recalled", "MiB", after, without)


def main() -> None:
    flags = _flags()
    sizes, runs, count = sorted(flags.facts), max(1, flags.runs), max(1, flags.calls)
    if flags.quick:
        sizes, runs, count = sizes[:2], min(runs, 2), min(count, 20)
    streamed = max((size for size in sizes if size <= _STREAMED_FACTS), default=sizes[0])
    report = Report()
    with tempfile.TemporaryDirectory(prefix="memori-bench-") as folder, provider.running() as url:
        with Memori(data_dir=Path(folder, "known")) as mem:
            mem.config.storage.build()
            for known in sizes:
                facts.teach(mem, known)
            before = mem.stats()
            _calls(mem, url, sizes, runs, count, report)
            _streams(mem, url, streamed, runs, count, report)
            stats = mem.stats()
            _loops(mem, url, runs, flags.quick, report)
        asked = stats["recall_ms"]["count"] - before["recall_ms"]["count"]
        stranger = stats["passed_through"]["nothing_recalled"] - before["passed_through"]["nothing_recalled"]
        injected = stats["injected"] - before["injected"]
        report.add("calls that got what is known, of all", "share", [injected / max(1, asked - stranger)], [1.0], "higher")
        _processes(folder, url, sizes[-1], runs, report)
    if flags.json is not None:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(report.rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
