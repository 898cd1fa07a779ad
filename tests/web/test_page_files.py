"""The files of the page as the server hands them out."""
import json
import re
import struct

from pages import ROOT, serving

CHAT = ROOT / "web" / "chat"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_gets_the_page_and_a_program_a_line(serve, fetch):
    status, headers, body = fetch(serve + "/", HTML)
    assert (status, headers["Content-Type"], body) == (200, "text/html; charset=utf-8", (CHAT / "index.html").read_bytes())
    for other in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        status, headers, body = fetch(serve + "/", other)
        assert (status, body) == (200, b"minke is running\n"), other


def test_every_file_is_what_stands_in_the_source(serve, fetch):
    types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
             ".png": "image/png", ".webmanifest": "application/manifest+json"}
    files = [f for f in CHAT.iterdir() if f.name != "index.html"]
    assert len(files) > 10
    for f in files:
        status, headers, body = fetch(f"{serve}/web/{f.name}")
        assert (status, body) == (200, f.read_bytes()), f.name
        assert headers["Content-Type"] == types[f.suffix]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_everything_the_files_name_is_there(serve, fetch):
    css = fetch(serve + "/web/vendor/katex.css")[2].decode()
    fonts = set(re.findall(r"fonts/[\w-]+\.woff2", css))
    assert len(fonts) == 20
    for font in fonts:
        status, headers, body = fetch(f"{serve}/web/vendor/{font}")
        assert (status, headers["Content-Type"], body[:4]) == (200, "font/woff2", b"wOF2"), font
    for f in CHAT.glob("*.js"):
        for name in re.findall(r"""(?:from|import) ?\(?"\./([^"]+)\"""", f.read_text()):
            assert fetch(f"{serve}/web/{name}")[0] == 200, (f.name, name)
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', (CHAT / "index.html").read_text()):
        assert fetch(serve + name)[0] == 200, name


def test_the_page_can_be_installed(open_page, serve, fetch):
    """The browser's own word for it; the icons are as large as they say.  No service worker: nothing is kept outside the page."""
    manifest = json.loads(fetch(serve + "/web/minke.webmanifest")[2])
    for icon in manifest["icons"]:
        status, headers, body = fetch(serve + icon["src"])
        assert (status, headers["Content-Type"]) == (200, icon["type"])
        if icon["type"] == "image/png":
            assert "{}x{}".format(*struct.unpack(">II", body[16:24])) == icon["sizes"]
    page = open_page(serve)
    devtools = page.context.new_cdp_session(page)
    found = devtools.send("Page.getAppManifest")
    assert found["url"] == serve + "/web/minke.webmanifest" and found["errors"] == []
    errors = [e["errorId"] for e in devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert set(errors) <= {"in-incognito"}  # as every page of a test is
    assert page.evaluate("navigator.serviceWorker.getRegistrations().then(r => r.length)") == 0


def test_a_copy_that_is_still_right_is_not_sent_again(serve, fetch):
    _, headers, body = fetch(serve + "/web/app.js")
    status, again, nothing = fetch(serve + "/web/app.js", {"If-None-Match": headers["ETag"]})
    assert (status, nothing, again["ETag"]) == (304, b"", headers["ETag"])
    assert fetch(serve + "/web/app.js", {"If-None-Match": '"other"'})[2] == body
    assert fetch(serve + "/web/dom.js")[1]["ETag"] != headers["ETag"]


def test_nothing_else_is_there(serve, fetch):
    for path in ("/web/", "/web/none.js", "/web/../web/app.js/x", "/web/%2e%2e/CMakeLists.txt", "/web/index.html", "/web/app.js%00.css"):
        assert fetch(serve + path)[0] in (400, 404), path


def test_a_page_that_is_off_is_off(tmp_path, fetch):
    with serving(tmp_path, "--no-page") as url:
        assert fetch(url + "/", HTML)[2] == b"minke is running\n"
        status, _, body = fetch(url + "/web/app.js")
        assert status == 404 and b"--no-page" in body


def test_models_tell_what_is_used_without_being_asked(serve, fetch):
    sampling = json.loads(fetch(serve + "/v1/models")[2])["data"][0]["sampling"]
    assert set(sampling) == {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
