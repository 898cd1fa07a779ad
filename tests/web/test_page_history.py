"""Conversations stay in the browser: reload, search, rename, delete, export and import."""
import json

from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import say


def talk(page, scripted, *pairs):
    scripted.scripts[:] = [(say(a),) for _, a in pairs]
    for i, (q, _) in enumerate(pairs):
        if i:
            page.locator("#new").click()
        ask(page, q)
        settled(page)


def titles(page):
    return page.locator("#list .title")


def test_history_survives_a_reload(page, scripted):
    talk(page, scripted, ("How do whales sleep?", "With half a brain."), ("What is krill?", "Small crustaceans."))
    page.reload()
    expect(titles(page)).to_have_text(["What is krill?", "How do whales sleep?"])
    expect(answer(page).locator(".body")).to_have_text("Small crustaceans.")
    page.get_by_role("button", name="How do whales sleep?", exact=True).click()
    expect(answer(page).locator(".body")).to_have_text("With half a brain.")
    expect(page.locator("#list [aria-current]")).to_have_text("How do whales sleep?")
    page.go_back()
    expect(answer(page).locator(".body")).to_have_text("Small crustaceans.")


def test_branches_survive_a_reload(page, scripted):
    scripted.scripts[:] = [(say("heads"),), (say("tails"),)]
    ask(page, "Toss")
    settled(page)
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(answer(page).locator(".body")).to_have_text("tails")
    settled(page)
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("tails")
    answer(page).get_by_role("button", name="Previous version").click()
    expect(answer(page).locator(".body")).to_have_text("heads")


def test_search(page, scripted):
    talk(page, scripted, ("How do whales sleep?", "With half a brain, near the surface."), ("What is krill?", "Small crustaceans."))
    page.keyboard.press("Control+k")
    page.keyboard.type("SURFACE half")
    expect(titles(page)).to_have_text(["How do whales sleep?"])
    expect(page.locator("#list small")).to_contain_text("near the surface")
    page.keyboard.press("Enter")
    expect(answer(page).locator(".body")).to_contain_text("With half a brain")
    page.fill("#search", "dolphin")
    expect(page.locator("#list")).to_have_text("Nothing found")
    page.fill("#search", "")
    expect(titles(page)).to_have_count(2)
    page.focus("#search")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#list .open").nth(1)).to_be_focused()


def test_rename_and_delete(page, scripted):
    talk(page, scripted, ("One", "1"), ("Two", "2"))
    page.locator("#list .item").nth(1).hover()
    page.get_by_role("button", name="Rename: One").click()
    page.keyboard.type("The first number")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Two", "The first number"])
    page.locator("#list .item").nth(0).hover()
    page.get_by_role("button", name="Delete: Two").click()
    expect(page.locator("#confirm-text")).to_contain_text("“Two”")
    page.locator("#confirm button").first.click()  # no
    expect(titles(page)).to_have_count(2)
    page.locator("#list .item").nth(0).hover()
    page.get_by_role("button", name="Delete: Two").click()
    page.locator("#confirm button.danger").click()
    expect(titles(page)).to_have_text(["The first number"])
    expect(page.locator(".message")).to_have_count(0)
    page.reload()
    expect(titles(page)).to_have_text(["The first number"])


def test_export_and_import(page, open_page, scripted, tmp_path):
    talk(page, scripted, ("One", "1"), ("Two", "2"))
    with page.expect_download() as d:
        page.locator("#export").click()
    path = tmp_path / "kept.json"
    d.value.save_as(path)
    file = json.loads(path.read_text())
    assert file["format"] == "minke.conversations" and len(file["conversations"]) == 2
    other = open_page(scripted.url)
    expect(titles(other)).to_have_count(0)
    other.set_input_files("#import-file", path)
    expect(titles(other)).to_have_text(["Two", "One"])
    expect(other.locator("#notice")).to_have_text("2 conversations imported")
    other.set_input_files("#import-file", path)  # once more: copies, nothing is overwritten
    expect(titles(other)).to_have_count(4)


def test_a_file_that_is_none_of_ours_is_refused(page, tmp_path):
    node = {"id": "a", "parent": None, "role": "user", "content": "x"}
    bad = [
        "not json", "[]", '{"format": "minke.conversations"}',
        {"id": "c", "nodes": {"a": node | {"role": "system"}}, "leaf": "a"},
        {"id": "c", "nodes": {"a": node | {"parent": "b"}}, "leaf": "a"},
        {"id": "c", "nodes": {"a": node | {"parent": "a"}}, "leaf": "a"},  # a circle
        {"id": "c", "nodes": {"a": node | {"content": 1}}, "leaf": "a"},
        {"id": "c", "nodes": {"a": node}, "leaf": "b"},
        {"id": "c", "nodes": None, "leaf": None},
    ]
    path = tmp_path / "bad.json"
    for b in bad:
        text = b if isinstance(b, str) else json.dumps({"format": "minke.conversations", "conversations": [b]})
        path.write_text(text)
        page.evaluate("document.getElementById('notice').textContent = ''")
        page.set_input_files("#import-file", path)
        expect(page.locator("#notice")).to_contain_text("holds no conversations of minke", timeout=3000)
        expect(titles(page)).to_have_count(0)


def test_another_tab_follows(page, scripted):
    talk(page, scripted, ("Shared", "answer"))
    other = page.context.new_page()
    other.goto(page.url)
    expect(answer(other).locator(".body")).to_have_text("answer")
    scripted.scripts[:] = [(say("more"),)]
    ask(other, "Go on")
    settled(other)
    expect(answer(page).locator(".body")).to_have_text("more")
