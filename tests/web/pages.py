"""What the tests of the page share: minke serve as a process, and what a person does on the page."""
import contextlib
import json
import os
import pathlib
import subprocess

import pytest
from playwright.sync_api import expect

ROOT = pathlib.Path(__file__).resolve().parents[2]
MINKE = pathlib.Path(os.environ.get("MINKE_BIN", ROOT / "build" / "minke"))
MODEL = os.environ.get("MINKE_TEST_MODEL", str(ROOT / "models" / "thimble"))


@contextlib.contextmanager
def serving(home, *args):
    """minke serve; gives its URL."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MINKE_")} | {"HOME": str(home), "LC_ALL": "C.UTF-8"}
    cmd = [str(MINKE), "serve", MODEL, "-t", "1", "--port", "0", "--json", *args]
    with subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean, cwd=ROOT) as p:
        line = p.stdout.readline()
        if not line:
            pytest.fail("minke serve did not start: " + p.stderr.read())
        try:
            yield json.loads(line)["url"]
        finally:
            p.terminate()
            p.communicate(timeout=20)


def ask(page, text):
    page.fill("#input", text)
    page.press("#input", "Enter")


def answer(page, i=-1):
    return page.locator(".message.assistant").nth(i)


def settled(page):
    """The last answer is complete."""
    expect(answer(page).locator(".tools")).to_be_visible()
