"""The tables of docs/results.md say what the stored files say, and every plot that it shows is drawn of stored runs."""
import importlib.util
import pathlib
import re
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = REPO / "tools/make_results.py"
DOCUMENT = (REPO / "docs/results.md").read_text()


def module():
    spec = importlib.util.spec_from_file_location("make_results", SCRIPT)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_document_says_what_the_files_say():
    ran = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_number_changed_by_hand_is_found():
    m = module()
    changed = 0
    for name in m.TABLES:
        start = DOCUMENT.index(f"<!-- table: {name} -->")
        number = re.compile(r"\| (\d[\d,.]*) \|").search(DOCUMENT, start)
        if number is None or number.start() > DOCUMENT.find("<!-- table:", start + 1) > 0:
            continue  # a table of words
        assert m.filled(DOCUMENT[: number.start(1)] + "98765" + DOCUMENT[number.end(1) :]) == DOCUMENT, name
        changed += 1
    assert changed > 6


def test_every_table_that_can_be_made_is_in_the_document():
    assert set(re.findall(r"<!-- table: (.+?) -->", DOCUMENT)) == set(module().TABLES)


def test_every_stored_load_test_has_its_distribution_drawn():
    m = module()
    for where in ("h200", "cpu"):
        stored = any(level.get("histograms") for _, levels in m.runs(f"bench_{where}") for level in levels)
        assert stored == (f"img/results/itl_{where}.svg" in DOCUMENT) == (REPO / f"docs/img/results/itl_{where}.svg").exists()
