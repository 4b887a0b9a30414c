"""The report's page in a real browser: it is drawn, sorts, filters, and runs nothing that a model wrote."""

import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from report_runs import records, write_run

from specexp.report.formats import page
from specexp.report.rows import make_rows
from specexp.report.runs import find_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.slow

DRIVER = """<script>
const first = () => document.querySelector("#runs tbody tr:not([hidden]) td").textContent;
const click = name => [...document.querySelectorAll("th")].find(th => th.textContent === name).click();
const seen = [first()]; click("speedup"); seen.push(first()); click("speedup"); seen.push(first());
const filter = document.getElementById("filter"); filter.value = "gamma=4"; filter.dispatchEvent(new Event("input"));
seen.push(document.querySelectorAll("#runs tbody tr:not([hidden])").length);
const drafted = getComputedStyle(document.querySelector("pre .draft")).backgroundColor;
document.title = JSON.stringify({seen, drafted, evil: window.evil === undefined});
</script>"""


@pytest.fixture
def browser():
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs chromium")

    def run(*arguments):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture
def html(tmp_path):
    for gamma in (2, 4, 8):
        write_run(tmp_path / "sweep" / f"g{gamma}", gamma, made=records(gamma, text=None))
    runs = find_runs([tmp_path / "sweep"])
    evil = [replace(record, prompt="</pre><script>window.evil = 1</script>") for record in records(4)]
    write_run(tmp_path / "sweep" / "evil", 6, made=evil)
    runs = find_runs([tmp_path / "sweep"])
    file = tmp_path / "sweep.html"
    file.write_text(page(runs, make_rows(runs), ["a note"], {}), encoding="utf-8")
    return file


def test_the_table_sorts_and_filters_and_texts_are_coloured(browser, html):
    driven = html.with_name("driven.html")
    driven.write_text(html.read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browser("--dump-dom", driven.as_uri()))[1].replace("&quot;", '"')
    assert title == '{"seen":["speculative gamma=2","speculative gamma=2","baseline (mean of 4 runs)",1],"drafted":"rgb(205, 236, 205)","evil":true}'


def test_it_can_be_looked_at(browser, html):
    pytest.importorskip("PIL")  # comes with matplotlib
    from PIL import Image

    picture = html.with_name("page.png")
    browser(f"--screenshot={picture}", "--window-size=1280,900", html.as_uri())
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**20)
        assert image.size[0] == 1280 and len(colours) > 20
