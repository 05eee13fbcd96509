"""The page for people (docs/python.md) tells the truth, and so does the front page: its programs run as they are written, and print what it says.

The blocks of Python under one heading are one program; those of the notebook are its cells.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from double import Double
from support import environment, http, known, platform, run, served

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "python.md"
_FENCE = re.compile(r"```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sections() -> dict[str, list[tuple[str, str]]]:
    """The fenced blocks under each heading, as (language, text)."""
    found = {}
    # A line of code may begin with the mark of a heading, never with two of them.
    for part in re.split(r"^(?=##)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        found[part.splitlines()[0].lstrip("# ")] = [(match[1], match[2]) for match in _FENCE.finditer(part)]
    return found


SECTIONS = sections()


def program(title: str) -> str:
    return "\n".join(text for language, text in SECTIONS[title] if language == "python")


def printed(title: str) -> str:
    """What the page says that the program prints."""
    return next(text for language, text in SECTIONS[title] if language == "text")


RUN = {
    "Quickstart",
    "In a file of the user's",
    "In your own database",
    "On a platform",
    "Registering clients",
    "Who a call is about",
    "Recall",
    "Waiting",
    "Streaming",
    "Async",
    "FastAPI",
    "In a notebook",
    "When memory is down",
    "Errors",
}


def test_every_block_of_python_is_run_here() -> None:
    assert {title for title, blocks in SECTIONS.items() if any(language == "python" for language, _ in blocks)} == RUN
    assert {language for blocks in SECTIONS.values() for language, _ in blocks} == {"python", "sh", "text"}


def test_the_quickstart(work: Path, env: dict[str, str], double: Double) -> None:
    assert run(program("Quickstart"), work, env).stdout == printed("Quickstart")
    sent = double.bodies()[-1]["messages"]
    assert len(sent) == 1
    shown = [text for language, text in SECTIONS["Quickstart"] if language == "text"][1]
    # The frame is shown in part, and on another day.
    pattern = re.escape(shown.strip()).replace("…", ".*").replace(re.escape("2026-03-02"), r"\d{4}-\d\d-\d\d")
    assert re.fullmatch(pattern, sent[0]["content"].strip()), sent[0]["content"]


def test_the_front_page(work: Path, env: dict[str, str]) -> None:
    (source,) = (
        match[2] for match in _FENCE.finditer((ROOT / "README.md").read_text(encoding="utf-8")) if match[1] == "python"
    )
    run(source, work, env)
    found = known(work, env, {"user_123": 1})
    assert any("window seats" in fact for fact in found["user_123"]["facts"])


def test_a_file_of_the_user_s(work: Path, env: dict[str, str], home: Path) -> None:
    file = home / ".local" / "share" / "memori-stream" / "memori.db"
    assert str(file) in run(program("In a file of the user's"), work, env).stdout
    assert file.exists()


def test_the_user_s_database(work: Path, env: dict[str, str]) -> None:
    assert str(work / "app.memori.db") in run(program("In your own database"), work, env).stdout
    assert (work / "app.memori.db").exists()


def test_a_platform(work: Path, env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "platform-home"
    folder.mkdir()
    with platform(folder) as (url, _):
        assert url in run(program("On a platform"), work, {**env, "MEMORI_API_URL": url}).stdout


def test_several_clients(work: Path, env: dict[str, str], double: Double) -> None:
    run(program("Registering clients"), work, env)
    first, second = double.requests
    assert (first.path, second.path) == ("/v1/messages", "/v1/responses")
    assert "Mira" in json.dumps(second.json()["input"])


def test_whose_call_it_is(work: Path, env: dict[str, str]) -> None:
    assert run(program("Who a call is about"), work, env).stdout == printed("Who a call is about")


def test_recall(work: Path, env: dict[str, str]) -> None:
    *facts, wishes, counts = run(program("Recall"), work, env).stdout.splitlines()
    assert any("nurse" in fact for fact in facts)
    assert any("Portuguese" in wish for wish in ast.literal_eval(wishes))
    assert [count > 0 for count in ast.literal_eval(counts)] == [True, False]


def test_waiting(work: Path, env: dict[str, str]) -> None:
    assert run(program("Waiting"), work, env).stdout == "{'asked': 100} 100\n"


def test_streaming(work: Path, env: dict[str, str]) -> None:
    assert run(program("Streaming"), work, env).stdout == "You said: Tell me a story about my dog Rex.\n"
    found = known(work, env, {"user_123": 1})
    assert found["user_123"]["assistant"] == ["You said: Tell me a story about my dog Rex."]


def test_async(work: Path, env: dict[str, str]) -> None:
    assert run(program("Async"), work, env).stdout == printed("Async")


def test_fastapi(work: Path, env: dict[str, str]) -> None:
    with served(program("FastAPI"), work, env) as url:
        status, body = http("POST", f"{url}/chat/ann", {"message": "I live in Bern."})
        assert (status, json.loads(body)) == (200, {"response": "You said: I live in Bern."})
        status, text = http("POST", f"{url}/stream/bob", {"message": "I live in Oslo."})
        assert (status, text) == (200, "You said: I live in Oslo.")
    found = known(work, env, {"ann": 1, "bob": 1})
    assert found["ann"]["user"] == ["I live in Bern."]
    assert found["bob"]["user"] == ["I live in Oslo."]


def test_the_notebook(work: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, whose loop runs while the cells do."""
    nbclient = pytest.importorskip("nbclient", reason="the line of the newest SDKs has a kernel")
    import nbformat

    cells = [text for language, text in SECTIONS["In a notebook"] if language == "python"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    # The kernel's own folders, and the file by which it is found, are in the test's home.
    for name, value in environment(Path(env["HOME"]), {}).items():
        monkeypatch.setenv(name, value)
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute(env=env)
    _, ann, bob = ("".join(output["data"]["text/plain"] for output in cell["outputs"]) for cell in notebook.cells[:3])
    assert "old maps" in ann
    assert "stamps" in bob
    assert "maps" not in bob
    found = known(work, env, {"ann": 1, "bob": 1})
    assert found["ann"]["user"] == ["I collect old maps."]
    assert found["bob"]["user"] == ["I collect stamps."]


def test_what_is_counted(work: Path, env: dict[str, str]) -> None:
    shown = run(program("When memory is down"), work, env).stdout
    assert "memori.db" in shown
    assert "queue_events" in shown
    assert "nothing_recalled" in shown


def test_errors(work: Path, env: dict[str, str], double: Double) -> None:
    assert run(program("Errors"), work, env).stdout == ""
    assert len(double.requests) == 1


def test_every_setting_is_on_the_page() -> None:
    import inspect

    import memori

    parameters = set(inspect.signature(memori.Memori.__init__).parameters) - {"self", "conn"}
    assert {name for row in _rows("Settings") for name in re.findall(r"`(\w+)`", row[0])} == parameters


def test_every_error_is_on_the_page() -> None:
    import memori

    errors = {
        name for name in memori.__all__ if isinstance(value := getattr(memori, name), type) and issubclass(value, Exception)
    }
    assert {name for row in _rows("Errors") for name in re.findall(r"`(\w+)`", row[0])} == errors


def _rows(title: str) -> list[list[str]]:
    """The rows of a section's table, less its head."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]
