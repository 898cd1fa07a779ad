"""An answer that broke off is taken up: after a reload, a lost connection, Stop, and when the tab that wrote it is closed."""
import json
import urllib.request

import pytest
from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import Cut, Gate, Refuse, say, think, token

THOUGHT, FIRST, REST = "2*3 is 6,\nso 42.", "The answer is **forty", "-two**, as before."


def whole():
    """The answer, as the server gives it each time."""
    return think(THOUGHT), say(FIRST), say(REST)


def half(*then):
    return think(THOUGHT), say(FIRST), *then


def stored(page):
    """The answer as the browser keeps it."""
    return page.evaluate("import('/web/store.js').then(m => m.all()).then(l => Object.values(l[0].nodes).filter(n => n.role === 'assistant').pop())")


def shows_the_half(page):
    expect(answer(page).locator(".body")).to_have_text("The answer is **forty")
    for _ in range(200):  # until it is kept, too
        if stored(page)["content"] == FIRST:
            return
        page.wait_for_timeout(20)
    pytest.fail("the browser does not keep it")


def is_whole(page):
    expect(answer(page).locator(".body")).to_have_text("The answer is forty-two, as before.")
    settled(page)
    expect(answer(page).locator(".note")).to_be_hidden()
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".branch")).to_have_count(0)
    assert answer(page).locator(".think-text").text_content() == THOUGHT


def test_a_reload_in_the_middle_of_an_answer(page, scripted):
    rest = Gate()
    scripted.scripts[:] = [half(Gate()), (think(THOUGHT), say(FIRST[:6]), rest, say(FIRST[6:]), say(REST))]
    ask(page, "2*3*7?")
    shows_the_half(page)
    page.reload()
    shows_the_half(page)  # while what is known comes again
    expect(answer(page).locator(".wait")).to_contain_text("Taking the answer up where it broke off")
    expect(page.locator("#stop")).to_be_visible()
    rest.open.set()
    is_whole(page)
    assert scripted.asked[0] == scripted.asked[1]  # the seed, too
    assert "request" not in stored(page)
    page.reload()
    is_whole(page)
    assert len(scripted.asked) == 2


def test_a_reload_before_the_first_word(page, scripted):
    scripted.scripts[:] = [(Gate(),), whole()]
    ask(page, "2*3*7?")
    expect(answer(page).locator(".wait")).to_be_visible()
    expect(page.locator("#list .open")).to_have_count(1)  # the question is kept
    page.reload()
    is_whole(page)


def test_another_answer_leaves_the_half_beside_it(page, scripted):
    """Another model under the same name: what had come is not lost, and not mixed with the new."""
    scripted.scripts[:] = [half(Gate()), (think("Let me see."), say("Nobody knows."))]
    ask(page, "2*3*7?")
    shows_the_half(page)
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("Nobody knows.")
    settled(page)
    expect(answer(page).locator(".branch")).to_have_text("2/2")
    expect(answer(page).locator(".figures")).to_contain_text("2 tokens")
    answer(page).get_by_role("button", name="Previous version").click()
    shows_the_half(page)
    expect(answer(page).locator(".note")).to_have_text("Stopped")


@pytest.mark.parametrize("end", ["stop", "cut"])
def test_continue(page, scripted, end):
    scripted.scripts[:] = [half(Gate() if end == "stop" else Cut()), whole()]
    ask(page, "2*3*7?")
    shows_the_half(page)
    if end == "stop":
        page.keyboard.press("Escape")
    go_on = answer(page).get_by_role("button", name="Continue")
    expect(go_on).to_be_visible()
    page.reload()
    shows_the_half(page)
    expect(page.locator("#send")).to_be_visible()  # nothing was asked without being told to
    assert len(scripted.asked) == 1
    go_on.click()
    is_whole(page)


def test_a_server_that_is_away_when_the_page_comes_back(page, scripted):
    scripted.scripts[:] = [half(Gate()), (Refuse(500, "out of memory"),), whole()]
    ask(page, "2*3*7?")
    shows_the_half(page)
    page.reload()
    expect(answer(page).locator(".note.error")).to_contain_text("out of memory")
    shows_the_half(page)
    answer(page).get_by_role("button", name="Continue").click()
    is_whole(page)


def test_two_tabs_write_one_answer_once(page, scripted):
    scripted.scripts[:] = [half(Gate()), whole()]
    ask(page, "2*3*7?")
    shows_the_half(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(answer(other).locator(".think")).to_be_attached()
    expect(other.locator("#stop")).to_be_visible()
    assert len(scripted.asked) == 1
    page.close()  # the other one takes over
    is_whole(other)
    assert len(scripted.asked) == 2


def test_another_tab_stops_the_answer(page, scripted):
    scripted.scripts[:] = [half(Gate())]
    ask(page, "2*3*7?")
    shows_the_half(page)
    other = page.context.new_page()
    other.goto(page.url)
    shows_the_half(other)
    other.locator("#stop").click()
    for p in (page, other):
        expect(answer(p).locator(".note span")).to_have_text("Stopped")
        expect(p.locator("#send")).to_be_visible()
    assert scripted.left.wait(5), "the server was not told"
    assert len(scripted.asked) == 1


def test_deleting_in_another_tab_ends_the_answer(page, scripted):
    scripted.scripts[:] = [half(Gate())]
    ask(page, "2*3*7?")
    shows_the_half(page)
    other = page.context.new_page()
    other.goto(scripted.url)
    other.locator("#list .item").hover()
    other.get_by_role("button", name="Delete: 2*3*7?").click()
    other.locator("#confirm button.danger").click()
    assert scripted.left.wait(5), "the server was not told"
    other.reload()
    expect(other.locator("#state.ok")).to_be_visible()
    expect(other.locator("#list .open")).to_have_count(0)


def test_token_probabilities_of_an_answer_that_goes_on(open_page, scripted):
    first, second = token("six", -0.2, [("six", -0.2)]), token("ty", -3.5, [("ty", -3.5)])
    scripted.scripts[:] = [(first, Gate()), (first, second)]
    page = open_page(scripted.url)
    page.evaluate("localStorage.setItem('minke.settings', JSON.stringify({logprobs: true}))")
    page.reload()
    ask(page, "How many?")
    expect(answer(page).locator(".body")).to_have_text("six")
    page.keyboard.press("Escape")
    expect(page.locator(".token")).to_have_text(["six"])
    answer(page).get_by_role("button", name="Continue").click()
    expect(page.locator(".token")).to_have_text(["six", "ty"])


def test_what_another_tab_has_finished_is_not_asked_again(page, scripted):
    rest = Gate()
    scripted.scripts[:] = [half(rest, say(REST))]
    ask(page, "2*3*7?")
    shows_the_half(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#stop")).to_be_visible()
    rest.open.set()
    is_whole(page)
    is_whole(other)
    assert len(scripted.asked) == 1


def test_deleting_a_conversation_ends_its_answer(page, scripted):
    scripted.scripts[:] = [half(Gate())]
    ask(page, "2*3*7?")
    shows_the_half(page)
    page.locator("#list .item").hover()
    page.get_by_role("button", name="Delete: 2*3*7?").click()
    page.locator("#confirm button.danger").click()
    assert scripted.left.wait(5), "the server was not told"
    page.reload()
    expect(page.locator("#list .open")).to_have_count(0)


def test_an_imported_half_asks_nothing(page, open_page, scripted, tmp_path):
    scripted.scripts[:] = [half(Cut())]
    ask(page, "2*3*7?")
    expect(answer(page).get_by_role("button", name="Continue")).to_be_visible()
    text = page.evaluate("import('/web/store.js').then(m => m.exportText())")
    (tmp_path / "kept.json").write_text(text.replace('"error"', '"was"'))
    other = open_page(scripted.url)
    other.set_input_files("#import-file", tmp_path / "kept.json")
    other.locator("#list .open").click()
    shows_the_half(other)
    expect(other.locator("#send")).to_be_visible()
    assert len(scripted.asked) == 1


def test_a_real_answer_is_the_same_after_a_reload(open_page, serve):
    question = "What is (37+58)*6-129?"
    body = json.dumps({"messages": [{"role": "user", "content": question}], "seed": 7}).encode()
    with urllib.request.urlopen(urllib.request.Request(serve + "/v1/chat/completions", body), timeout=20) as r:
        wanted = json.load(r)["choices"][0]["message"]
    page = open_page(serve)
    page.evaluate("localStorage.setItem('minke.settings', JSON.stringify({seed: 7}))")
    page.reload()
    ask(page, question)
    page.wait_for_function("() => document.querySelector('.think-text, .message.assistant .body')?.textContent")
    page.reload()
    settled(page)
    node = stored(page)
    assert (node["reasoning"], node["content"]) == (wanted["reasoning_content"], wanted["content"])
