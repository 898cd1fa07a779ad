"""The page of `minke serve` in headless Chromium.

`serve` is minke itself.  `scripted` is a server whose page is minke's own, byte for byte and with its headers, and whose
API answers what a test has written down: that is how answers get slow, malicious or wrong at will.
"""
import shutil
import urllib.error
import urllib.request

import pytest
from pages import serving
from playwright.sync_api import sync_playwright
from scripted import Scripted

WAIT_MS = 8000

@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home")) as url:
        yield url


@pytest.fixture(scope="session")
def fetch():
    """fetch(url, headers) -> (status, headers, body); errors of HTTP are answers, too."""

    def get(url, headers=None):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=20) as r:
                return r.status, r.headers, r.read()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read()

    return get


@pytest.fixture
def scripted(serve):
    with Scripted(serve) as s:
        yield s


# Playwright has an event loop of its own while it runs: it must have ended when other tests use asyncio.
@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if not path:
        pytest.exit("chromium is not there: tools/deps test installs it", returncode=3)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield b
        b.close()


@pytest.fixture
def open_page(browser):
    """open_page(url, **context options) -> page.

    At the end of the test no page may have asked anybody but its own server, and no script may have failed.
    """
    contexts, outside, failures = [], [], []

    def watch(page, url):
        def request(r):
            if not r.url.startswith((url, "data:", "blob:" + url)):
                outside.append(r.url)

        page.on("request", request)
        page.on("pageerror", lambda e: failures.append(str(e)))
        page.set_default_timeout(WAIT_MS)

    def open_(url, hash_="", **options):
        context = browser.new_context(**({"locale": "en-US", "viewport": {"width": 1200, "height": 800}} | options))
        contexts.append(context)
        context.on("page", lambda p: watch(p, url))
        page = context.new_page()
        page.goto(url + "/" + hash_)
        page.wait_for_selector("#state.ok, #state.loading, #state.locked, #state.gone")
        return page

    yield open_
    for c in contexts:
        c.close()
    assert outside == []
    assert failures == []


@pytest.fixture
def page(open_page, scripted):
    return open_page(scripted.url)
