"""Markdown, code, formulas; dark and light, phone, Korean; names for screen readers."""
import pytest
from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import say, think

ANSWER = r"""## A heading

Some *text* with `a < b`, a [link](https://example.com/a?b=c&d=e), H<sub>2</sub>O &amp; 5 &lt; 6.
A second line; it costs $5 and $6.

1. one
2. two
   - [x] done
   - [ ] open

| Name | Value |
|:-----|------:|
| a    | 1     |

```python
def f(x):
    return "x < y"  # why
```

Euler: $e^{i\pi} + 1 = 0$, and \(a_1\).

$$\int_0^1 x^2\,dx = \frac{1}{3}$$

> quoted
"""


def show(page, scripted, text=ANSWER):
    scripted.scripts[:] = [(think("Hm. 2*3*4 = 24"), say(text))]
    ask(page, "Show it")
    settled(page)


def test_markdown(page, scripted):
    show(page, scripted)
    body = answer(page).locator(".body")
    expect(body.locator("h2")).to_have_text("A heading")
    expect(body.locator("em")).to_have_text("text")
    expect(body.locator("p code")).to_have_text("a < b")
    expect(body.locator("a")).to_have_attribute("href", "https://example.com/a?b=c&d=e")
    expect(body.locator("a")).to_have_attribute("target", "_blank")
    expect(body.locator("sub")).to_have_text("2")
    expect(body.locator("p").first).to_contain_text("O & 5 < 6.")
    expect(body.locator("p br")).to_have_count(1)
    expect(body.locator("p").first).to_contain_text("it costs $5 and $6.")
    expect(body.locator("ol > li")).to_have_count(2)
    assert [c.is_checked() for c in body.locator("li input").all()] == [True, False]
    expect(body.locator("td").nth(1)).to_have_attribute("align", "right")
    expect(body.locator("blockquote")).to_have_text("quoted")
    expect(body.locator(".katex")).to_have_count(3)
    expect(body.locator(".math.display .katex-display")).to_have_count(1)
    expect(body.locator(".katex-error")).to_have_count(0)


def test_code_has_colours_and_is_copied(page, scripted):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    show(page, scripted)
    code = answer(page).locator(".code")
    expect(code.locator(".code-head span").first).to_have_text("python")
    expect(code.locator(".hljs-keyword").first).to_have_text("def")
    expect(code.locator(".hljs-string")).to_have_text('"x < y"')
    code.get_by_role("button", name="Copy").click()
    expect(code.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == 'def f(x):\n    return "x < y"  # why'
    answer(page).locator(".tools").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER


def test_half_of_a_formula_is_text_and_bad_ones_harm_nothing(page, scripted):
    show(page, scripted, "Half of $$\\frac{1}{ and a bad one: $\\frac{1}$ then \\(x\\).")
    expect(answer(page).locator(".body")).to_contain_text("Half of $$")
    expect(answer(page).locator(".katex")).to_have_count(1)
    show(page, scripted, "$$\\def\\a{\\a\\a}\\a$$ and $\\rule{999999em}{1em}$")
    expect(answer(page).locator(".body")).to_contain_text("and")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_long_answer_renders_only_its_end(page, scripted):
    parts = [f"Paragraph {i} with **bold** text.\n\n" for i in range(400)]
    scripted.scripts[:] = [tuple(say(p) for p in parts)]
    page.evaluate("""() => {
        window.first = null;
        new MutationObserver(() => { window.first ??= document.querySelector(".block strong"); })
            .observe(document.getElementById("messages"), { childList: true, subtree: true });
    }""")
    ask(page, "Long")
    settled(page)
    expect(answer(page).locator(".block")).to_have_count(400)
    assert page.evaluate("document.querySelectorAll('.block strong').length") == 400
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    expect(page.locator("#down")).to_be_visible()
    page.locator("#down").click()
    expect(page.locator("#down")).to_be_hidden()


def luminance(page, selector):
    return page.evaluate("""s => {
        const c = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        c.fillStyle = getComputedStyle(document.querySelector(s)).backgroundColor;
        c.fillRect(0, 0, 1, 1);
        const [r, g, b] = c.getImageData(0, 0, 1, 1).data;
        return (0.21 * r + 0.72 * g + 0.07 * b) / 255;
    }""", selector)


def test_dark_and_light(open_page, scripted):
    assert luminance(open_page(scripted.url, color_scheme="light"), "body") > 0.9
    page = open_page(scripted.url, color_scheme="dark")
    assert luminance(page, "body") < 0.1
    page.locator("#open-settings").click()
    page.get_by_label("Theme").select_option("light")
    assert luminance(page, "body") > 0.9
    page.reload()
    assert luminance(page, "body") > 0.9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(open_page, scripted, scheme):
    """Contrast of at least 4.5 (WCAG AA) for every text that is shown."""
    page = open_page(scripted.url, color_scheme=scheme)
    show(page, scripted)
    page.locator(".think summary").click()
    page.set_input_files("#attach-file", {"name": "a.txt", "mimeType": "", "buffer": b"x" * 10})
    page.locator("#files .chip").hover()
    bad = page.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const rgba = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data]; };
        const lum = c => { const f = c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
        const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
            return [255, 255, 255, 255]; };
        const out = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let n; (n = walk.nextNode());) {
            const e = n.parentElement, s = getComputedStyle(e);
            if (!n.data.trim() || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || e.closest(".katex, option, .only-read, :disabled")) continue;
            const a = lum(rgba(s.color)), b = lum(behind(e)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) out.push([n.data.trim().slice(0, 30), Math.round(ratio * 100) / 100]);
        }
        return out;
    }""")
    assert bad == []


def test_phone(open_page, scripted):
    page = open_page(scripted.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page.locator("#side")).to_be_hidden()
    show(page, scripted)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.getElementById('scroll').scrollWidth <= document.getElementById('scroll').clientWidth")
    for name in ("#send", "#side-open", "#open-settings"):
        box = page.locator(name).bounding_box()
        assert box["width"] >= 36 and box["height"] >= 36 and box["x"] + box["width"] <= 360, name
    page.locator("#side-open").click()
    expect(page.locator("#side")).to_be_visible()
    page.locator("#list .open").first.click()
    expect(page.locator("#side")).to_be_hidden()
    page.locator("#open-settings").click()
    box = page.locator("#settings").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_korean(open_page, scripted):
    page = open_page(scripted.url, locale="ko-KR")
    assert page.get_attribute("html", "lang") == "ko"
    expect(page.locator("#new span")).to_have_text("새 대화")
    expect(page.locator("#input")).to_have_attribute("placeholder", "무엇이든 물어보세요")
    show(page, scripted, "네")
    expect(answer(page).get_by_role("button", name="다시 생성")).to_be_visible()
    expect(answer(page).locator(".think summary")).to_contain_text("생각")
    page.locator("#open-settings").click()
    page.get_by_label("언어").select_option("en")
    expect(page.locator("#settings h2")).to_have_text("Settings")
    page.keyboard.press("Escape")
    expect(answer(page).get_by_role("button", name="Regenerate")).to_be_visible()
    page.reload()
    expect(page.locator("#new span")).to_have_text("New chat")


def test_every_text_is_there_in_every_language(page):
    tables = page.evaluate("import('/web/i18n.js').then(m => m.tables)")
    names = {lang: set(table) for lang, table in tables.items()}
    assert names["en"] == names["ko"]
    for lang, table in tables.items():
        for name, text in table.items():
            holes = {c for c in text if c.isdigit() and "{" + c + "}" in text}
            english = {c for c in tables["en"][name] if c.isdigit() and "{" + c + "}" in tables["en"][name]}
            assert text and holes == english, (lang, name)


def test_everything_to_press_has_a_name(page, scripted):
    show(page, scripted)
    page.locator("#open-settings").click()
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea, a")].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.closest("li")?.querySelector("input[type=checkbox]") === e)
        && e.id !== "import-file").map(e => e.outerHTML)""")
    assert nameless == []
    assert page.get_attribute("#live", "aria-live") == "polite"
    assert page.get_attribute("#notice", "role") == "alert"


def test_the_keyboard_reaches_everything(page, scripted):
    show(page, scripted)
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.localName"))
        if seen.count("new") > 1:
            break
    for name in ("new", "search", "open", "export", "side-open", "model", "open-settings", "summary", "tool", "input"):
        assert name in seen, (name, seen)
