"""What goes wrong is said, with what to do."""
import pytest
from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import Cut, Failure, Refuse, say

REFUSALS = [
    (Refuse(400, "messages: 1200 tokens, but the context holds 1000", "context_length_exceeded"), "no longer fits into the context of 1000"),
    (Refuse(400, "temperature: expected 0 to 2"), "refused the request"),
    (Refuse(403, "not from here"), "does not answer pages from this address"),
    (Refuse(429, "too many requests wait", headers={"Retry-After": "7"}), "Try again in 7 s"),
    (Refuse(500, "the kernel is missing"), "could not answer"),
]


@pytest.mark.parametrize("refusal,text", REFUSALS, ids=lambda v: v if isinstance(v, str) else str(v.status))
def test_a_refusal_says_what_to_do(page, scripted, refusal, text):
    scripted.scripts[:] = [(refusal,), (say("now it works"),)]
    ask(page, "Try")
    note = answer(page).locator(".note.error")
    expect(note).to_contain_text(text)
    expect(note.locator("small")).to_have_text(refusal.body["error"]["message"])
    expect(page.locator("#live")).to_contain_text(text)
    page.reload()
    expect(note).to_contain_text(text)
    note.get_by_role("button", name="Try again").click()
    expect(answer(page).locator(".body")).to_have_text("now it works")
    settled(page)
    expect(page.locator(".message")).to_have_count(2)
    assert scripted.asked[1]["messages"] == [{"role": "user", "content": "Try"}]


def test_after_a_refusal_one_can_go_on(page, scripted):
    scripted.scripts[:] = [(Refuse(500, "no"),), (say("yes"),)]
    ask(page, "First")
    expect(answer(page).locator(".note.error")).to_be_visible()
    ask(page, "Second")
    expect(answer(page).locator(".body")).to_have_text("yes")
    assert scripted.asked[1]["messages"] == [{"role": "user", "content": "First\n\nSecond"}]


def test_an_answer_that_breaks_off_is_kept(page, scripted):
    scripted.scripts[:] = [(say("It begins"), Cut())]
    ask(page, "Try")
    expect(answer(page).locator(".note.error")).to_contain_text("ended in the middle of the answer")
    expect(answer(page).locator(".body")).to_have_text("It begins")


def test_an_error_in_the_stream_is_shown(page, scripted):
    scripted.scripts[:] = [(say("It begins"), Failure("the disk is full"))]
    ask(page, "Try")
    expect(answer(page).locator(".note.error small")).to_have_text("the disk is full")
    expect(answer(page).locator(".body")).to_have_text("It begins")


def test_an_answer_at_its_limit_says_so(page, scripted):
    scripted.scripts[:] = [(say("It begins"), "length")]
    ask(page, "Try")
    expect(answer(page).locator(".note")).to_have_text("The answer reached its limit of tokens.")


def test_a_server_that_is_gone(page, scripted):
    scripted.gone = True
    ask(page, "Anybody?")
    expect(answer(page).locator(".note.error")).to_contain_text("Is minke serve still running?")
    expect(page.locator("#state")).to_have_class("state gone")
    expect(page.locator("#state")).to_have_text("No connection")
    scripted.gone = False  # it is started again
    expect(page.locator("#state")).to_have_class("state ok")
    answer(page).get_by_role("button", name="Try again").click()
    expect(answer(page).locator(".body")).to_have_text("hello")


def test_a_question_waits_for_the_model(open_page, scripted):
    scripted.health = (503, {"status": "loading", "model": "script", "progress": 0.43})
    page = open_page(scripted.url)
    expect(page.locator("#state")).to_have_text("Loading 43 %")
    scripted.scripts[:] = [(Refuse(503, "the model is being loaded"),), (say("here I am"),)]
    ask(page, "Ready?")
    page.wait_for_timeout(500)
    scripted.health = (200, {"status": "ok"})
    expect(answer(page).locator(".body")).to_have_text("here I am")
    expect(page.locator("#state")).to_have_class("state ok")


def test_without_storage_the_page_still_answers(browser, scripted):
    context = browser.new_context(locale="en-US")
    context.add_init_script("Object.defineProperty(window, 'indexedDB', {get() { throw new Error('none'); }})")
    page = context.new_page()
    page.goto(scripted.url)
    expect(page.locator("#notice")).to_contain_text("keeps nothing")
    ask(page, "Hi")
    expect(answer(page).locator(".body")).to_have_text("hello")
    expect(page.locator("#list .title")).to_have_text("Hi")
    context.close()
