"""Text files beside a question: chosen, dropped, pasted, refused, sent, kept."""
import json
import urllib.request

import pytest
from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import say

TABLE = b"name,value\nkrill,<b>1</b>\n"
NOTES = "# Wale\n```\nx\n```\n".encode()
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256))
TEN_KB = 10000
DATA = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name));
    return data;
}"""


def file(name, data):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def attach(page, *files):
    page.set_input_files("#attach-file", [file(*f) for f in files])


def chips(page):
    return page.locator("#files .chip")


def sent(scripted, i=-1):
    return scripted.asked[i]["messages"][-1]["content"]


def test_files_go_with_the_question_and_are_kept(page, scripted):
    attach(page, ("krill.csv", TABLE), ("notes.md", NOTES), ("not this.txt", b"oops"))
    expect(page.locator("#live")).to_have_text("krill.csv, notes.md, not this.txt attached")
    expect(chips(page).nth(0)).to_have_text("krill.csv26 B · 6 tokens")
    expect(page.locator("#gauge-text")).to_have_text("21 / 1,000")
    page.get_by_role("button", name="Remove not this.txt").press("Enter")
    expect(chips(page)).to_have_count(2)
    expect(page.get_by_role("button", name="Remove notes.md")).to_be_focused()
    ask(page, "What is in them?")
    settled(page)
    assert sent(scripted) == ("File: krill.csv\n```csv\nname,value\nkrill,<b>1</b>\n```\n\n"
                              "File: notes.md\n````md\n# Wale\n```\nx\n```\n````\n\nWhat is in them?")
    expect(page.locator("#files")).to_be_hidden()
    page.reload()
    attached = page.locator(".message.user .attached")
    expect(attached.locator("summary")).to_have_text(["krill.csv26 B", "notes.md17 B"])
    attached.nth(0).locator("summary").click()
    assert attached.nth(0).locator("pre").text_content() == TABLE.decode()
    expect(page.locator(".message.user .body")).to_have_text("What is in them?")
    page.fill("#search", "krill")
    expect(page.locator("#list .open")).to_have_count(1)


def test_files_without_a_question(page, scripted):
    attach(page, ("a.py", b"print(1)"))
    expect(chips(page)).to_have_count(1)
    page.locator("#send").click()
    settled(page)
    assert sent(scripted) == "File: a.py\n```py\nprint(1)\n```"
    expect(page.locator("#list .title")).to_have_text("a.py")


def test_an_edited_question_keeps_its_files_or_not(page, scripted):
    attach(page, ("a.txt", b"one"), ("b.txt", b"two"))
    expect(chips(page)).to_have_count(2)
    ask(page, "Both?")
    settled(page)
    page.press("#input", "ArrowUp")
    page.locator(".edit").get_by_role("button", name="Remove a.txt").click()
    expect(page.locator(".edit textarea")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .branch")).to_have_text("2/2")
    settled(page)
    assert sent(scripted) == "File: b.txt\n```txt\ntwo\n```\n\nBoth?"
    page.locator(".message.user").get_by_role("button", name="Previous version").click()
    expect(page.locator(".message.user .attached")).to_have_count(2)


def test_drop(page, scripted):
    data = page.evaluate_handle(DATA, ["dropped.json", "{}"])
    page.dispatch_event("#messages", "dragover", {"dataTransfer": data})
    expect(page.locator("#drop")).to_have_text("Drop text files here")
    page.dispatch_event("#messages", "drop", {"dataTransfer": data})
    expect(page.locator("#drop")).to_be_hidden()
    expect(chips(page)).to_contain_text("dropped.json")
    expect(page.locator("#input")).to_be_focused()


def test_paste(page, scripted):
    paste = """([name, text, words]) => {
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([text], name));
        if (words) clipboardData.setData("text/plain", words);
        return document.getElementById("input").dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}));
    }"""
    assert page.evaluate(paste, ["pasted.txt", "hello", ""]) is False
    expect(chips(page)).to_contain_text("pasted.txt")
    assert page.evaluate(paste, ["picture.png", "x", "cells of a table"]) is True  # pasted as the text that it is, too
    expect(chips(page)).to_have_count(1)


REFUSED = [
    ("whale.png", PNG, "“whale.png” is not a text file"),
    ("old.exe", b"MZ\x90\x01\x03", "“old.exe” is not a text file"),
    ("empty.txt", b"", "“empty.txt” is empty"),
    ("log.txt", b"x" * (4 << 20) + b"x", "“log.txt” is too large: 4.2 MB, and at most 4.2 MB"),
]


@pytest.mark.parametrize("name,data,text", REFUSED, ids=[r[0] for r in REFUSED])
def test_what_is_no_text_is_refused_by_name(page, name, data, text):
    attach(page, (name, data), ("good.txt", b"good"))
    expect(page.locator("#notice")).to_contain_text(text)
    expect(chips(page)).to_have_count(1)
    expect(chips(page)).to_contain_text("good.txt")


def test_too_many_files(page):
    attach(page, *[(f"{i}.txt", b"x") for i in range(21)])
    expect(page.locator("#notice")).to_have_text("At most 20 files can be attached.")
    expect(chips(page)).to_have_count(20)


def test_files_that_do_not_fit_the_context(page, scripted):
    attach(page, ("war.txt", b"peace " * 1200))
    expect(page.locator("#gauge-text")).to_have_text("1,204 / 1,000")
    expect(page.locator("#gauge")).to_have_class("gauge full over")
    ask(page, "Who wins?")
    expect(page.locator("#notice")).to_contain_text("has 1,204 tokens, but the context holds 1,000")
    expect(page.locator("#input")).to_have_value("Who wins?")
    assert scripted.asked == []
    page.get_by_role("button", name="Remove war.txt").click()
    page.press("#input", "Enter")
    settled(page)
    assert sent(scripted) == "Who wins?"


KOREAN = "이름,값\r\n고래,1\r\n"
ENCODINGS = [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "UTF-16LE"), ("cp949", "EUC-KR")]


@pytest.mark.parametrize("encoding,shown", ENCODINGS)
def test_encodings(open_page, scripted, encoding, shown):
    page = open_page(scripted.url, locale="ko-KR")
    attach(page, ("고래.csv", KOREAN.encode(encoding)))
    expect(chips(page)).to_contain_text("고래.csv")
    expect(chips(page).get_by_role("button", name="고래.csv 빼기")).to_be_visible()
    assert shown in chips(page).inner_text() and (shown or "UTF" not in chips(page).inner_text())
    ask(page, "무엇인가요?")
    settled(page)
    assert sent(scripted) == "File: 고래.csv\n```csv\n이름,값\n고래,1\n```\n\n무엇인가요?"


def test_a_latin_text(page, scripted):
    attach(page, ("menu.txt", "Crème brûlée – 5 €".encode("cp1252")))
    expect(chips(page)).to_contain_text("WINDOWS-1252")
    page.locator("#send").click()
    settled(page)
    assert "Crème brûlée – 5 €" in sent(scripted)


def test_on_a_phone_long_names_do_not_widen_the_page(open_page, scripted):
    page = open_page(scripted.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    attach(page, ("a very long name " * 10 + ".txt", b"x" * TEN_KB), ("b" * 200, b"short"))
    expect(chips(page)).to_have_count(2)
    scripted.scripts[:] = [(say("ok"),)]
    fits = "document.documentElement.scrollWidth <= innerWidth && document.getElementById('scroll').scrollWidth <= document.getElementById('scroll').clientWidth"
    assert page.evaluate(fits)
    for name in ("#attach", "#send"):
        box = page.locator(name).bounding_box()
        assert box["width"] >= 36 and box["height"] >= 36 and box["x"] >= 0 and box["x"] + box["width"] <= 360, name
    ask(page, "Fits?")
    settled(page)
    page.locator(".attached summary").first.click()
    assert page.evaluate(fits)
    expect(answer(page).locator(".body")).to_have_text("ok")


def test_the_server_itself_counts_the_tokens(open_page, serve):
    block = "File: a.csv\n```csv\nname,value\n1,2\n```"
    body = json.dumps({"messages": [{"role": "user", "content": block}]}).encode()
    with urllib.request.urlopen(urllib.request.Request(serve + "/v1/messages/count_tokens", body), timeout=20) as r:
        n = json.load(r)["input_tokens"]
    page = open_page(serve)
    attach(page, ("a.csv", b"name,value\n1,2\n"))
    expect(chips(page)).to_have_text(f"a.csv15 B · {n} tokens")
