"""Questions and answers: streams, thinking, stop, branches."""
import json

from pages import answer, ask, settled
from playwright.sync_api import expect
from scripted import Gate, say, think, token


def test_an_answer_arrives_in_pieces(page, scripted):
    gate = Gate()
    scripted.scripts[:] = [(say("The first half"), gate, say(" and the **second**."))]
    ask(page, "Tell me")
    expect(answer(page).locator(".body")).to_have_text("The first half")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    gate.open.set()
    expect(answer(page).locator(".body")).to_have_text("The first half and the second.")
    expect(answer(page).locator("strong")).to_have_text("second")
    settled(page)
    expect(answer(page).locator(".figures")).to_contain_text("2 tokens · 123 tokens/s · first after 0.2 s · 64 from cache")
    expect(page.locator("#gauge-text")).to_have_text("102 / 1,000")
    expect(page.locator("#gauge")).to_have_attribute("aria-valuenow", "102")
    assert scripted.asked[0]["messages"] == [{"role": "user", "content": "Tell me"}]
    assert scripted.asked[0]["model"] == "script"
    assert scripted.asked[0]["stream_options"] == {"include_usage": True}
    expect(page.locator("#live")).to_have_text("Answer complete: The first half and the **second**.")


def test_thinking_is_shown_live_and_folds(page, scripted):
    thinks, says = Gate(), Gate()
    scripted.scripts[:] = [(think("2*3 is 6,\n"), thinks, think("so 6*7 = 42"), say("4"), says, say("2"))]
    ask(page, "2*3*7?")
    details = answer(page).locator(".think")
    expect(details).to_have_attribute("open", "")
    expect(details.locator("summary")).to_have_text("Thinking…")
    expect(details.locator(".think-text")).to_have_text("2*3 is 6,\n", use_inner_text=False)
    expect(page.locator("#live")).to_have_text("The model is thinking")
    page.wait_for_timeout(600)  # shorter thoughts are shown without their time
    thinks.open.set()
    expect(details).not_to_have_attribute("open", "")
    expect(details.locator("summary")).to_contain_text("Thought for")
    details.locator("summary").click()  # the reader opens it: it stays so
    says.open.set()
    settled(page)
    expect(details).to_have_attribute("open", "")
    assert details.locator(".think-text").text_content() == "2*3 is 6,\nso 6*7 = 42"
    ask(page, "And half of it?")
    settled(page)
    assert scripted.asked[1]["messages"][1] == {"role": "assistant", "content": "42", "reasoning_content": "2*3 is 6,\nso 6*7 = 42"}


def test_stop_keeps_what_came_and_leaves_the_server(page, scripted):
    for how in (lambda: page.locator("#stop").click(), lambda: page.keyboard.press("Escape")):
        scripted.left.clear()
        scripted.scripts[:] = [(say("as far as this"), Gate(), say(" never"))]
        ask(page, "Go on")
        expect(answer(page).locator(".body")).to_have_text("as far as this")
        how()
        settled(page)
        expect(answer(page).locator(".note span")).to_have_text("Stopped")
        expect(answer(page).locator(".body")).to_have_text("as far as this")
        expect(page.locator("#live")).to_have_text("Answer stopped")
        assert scripted.left.wait(3), "the server was not told"


def test_an_edited_question_is_a_branch(page, scripted):
    scripted.scripts[:] = [(say("one"),), (say("two"),), (say("three"),)]
    ask(page, "first")
    settled(page)
    ask(page, "second")
    expect(answer(page).locator(".body")).to_have_text("two")
    settled(page)
    page.press("#input", "ArrowUp")  # edits the last question
    area = page.locator(".message.user textarea")
    expect(area).to_be_focused()
    expect(area).to_have_value("second")
    area.fill("second, again")
    area.press("Enter")
    expect(answer(page).locator(".body")).to_have_text("three")
    settled(page)
    assert [m["content"] for m in scripted.asked[2]["messages"]] == ["first", "one", "second, again"]
    branch = page.locator(".message.user").nth(1).locator(".branch")
    expect(branch).to_have_text("2/2")
    branch.get_by_role("button", name="Previous version").click()
    expect(page.locator(".message.user .body").nth(1)).to_have_text("second")
    expect(answer(page).locator(".body")).to_have_text("two")
    expect(page.locator(".message.user").nth(1).locator(".branch")).to_have_text("1/2")
    # an edit that is given up changes nothing
    page.locator(".message.user").nth(1).hover()
    page.locator(".message.user").nth(1).get_by_role("button", name="Edit").click()
    page.keyboard.press("Escape")
    expect(page.locator(".message.user .body").nth(1)).to_have_text("second")
    assert len(scripted.asked) == 3


def test_regenerate_keeps_the_other_answer(page, scripted):
    scripted.scripts[:] = [(say("heads"),), (say("tails"),)]
    ask(page, "Toss")
    settled(page)
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(answer(page).locator(".body")).to_have_text("tails")
    settled(page)
    assert scripted.asked[0]["messages"] == scripted.asked[1]["messages"]
    assert scripted.asked[0]["seed"] != scripted.asked[1]["seed"]  # or it would be the same answer
    expect(answer(page).locator(".branch")).to_have_text("2/2")
    answer(page).get_by_role("button", name="Previous version").click()
    expect(answer(page).locator(".body")).to_have_text("heads")
    answer(page).get_by_role("button", name="Delete").click()
    page.locator("#confirm button.danger").click()
    expect(answer(page).locator(".body")).to_have_text("tails")
    expect(page.locator(".branch")).to_have_count(0)


def test_an_answer_goes_on_behind_another_conversation(page, scripted):
    gate = Gate()
    scripted.scripts[:] = [(say("slow"), gate, say(" but sure"))]
    ask(page, "Work in the background")
    expect(answer(page).locator(".body")).to_have_text("slow")
    page.locator("#new").click()
    expect(page.locator(".message")).to_have_count(0)
    gate.open.set()
    page.get_by_role("button", name="Work in the background", exact=True).click()
    expect(answer(page).locator(".body")).to_have_text("slow but sure")


def test_enter_and_its_relatives(page, scripted):
    page.fill("#input", "a line")
    page.press("#input", "Shift+Enter")
    expect(page.locator("#input")).to_have_value("a line\n")
    # Enter ends the composition of a syllable, as with Korean, and sends nothing
    page.evaluate("""document.getElementById("input").dispatchEvent(
        new KeyboardEvent("keydown", {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))""")
    page.press("#input", "Control+k")
    expect(page.locator("#search")).to_be_focused()
    assert scripted.asked == []
    page.press("#input", "Enter")
    settled(page)
    assert len(scripted.asked) == 1
    page.keyboard.press("Control+Shift+O")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#input")).to_be_focused()


def test_tokens_show_their_probabilities(page, scripted):
    page.locator("#open-settings").click()
    page.get_by_label("Token probabilities").check()
    page.locator("#settings .dialog-foot button.main").click()
    rivals = [("six", -0.2), (" seven", -2.5), ("8", -3), ("9", -4), ("<b>", -5)]
    scripted.scripts[:] = [(token("six", -0.2, rivals), token("ty", -3.5, [("teen", -0.1), ("ty", -3.5)]))]
    ask(page, "How many?")
    settled(page)
    assert scripted.asked[0]["logprobs"] is True and scripted.asked[0]["top_logprobs"] == 5
    tokens = page.locator(".token")
    expect(tokens).to_have_text(["six", "ty"])
    expect(tokens.nth(0)).to_have_class("token p1")
    expect(tokens.nth(1)).to_have_class("token p4")
    tokens.nth(0).hover()
    rows = page.locator("#tip tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(0)).to_have_text("six81.9 %")
    expect(rows.nth(0)).to_have_class("chosen")
    expect(rows.nth(1)).to_contain_text("␣seven")
    expect(rows.nth(4)).to_contain_text("<b>")
    page.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tip .chosen")).to_have_text("ty3.0 %")
    answer(page).get_by_role("button", name="Show tokens").click()
    expect(tokens.first).to_be_hidden()
    expect(answer(page).locator(".body")).to_have_text("sixty")


def test_settings_are_sent(page, scripted):
    page.locator("#open-settings").click()
    temperature = page.get_by_label("Temperature")
    assert temperature.get_attribute("placeholder") == "default 0.6"
    assert page.get_by_label("Top p").get_attribute("placeholder") == "default 0.95"
    page.get_by_label("System prompt").fill("Be brief.")
    temperature.fill("0.3")
    page.get_by_label("Top k").fill("7")
    page.get_by_label("Seed").fill("12")
    page.get_by_label("Stop texts").fill("END\nSTOP")
    page.get_by_label("Tokens at most", exact=True).fill("50")
    page.get_by_label("Think before answering").select_option("off")
    page.get_by_label("Effort").select_option("low")
    page.get_by_label("Top p").fill("1.5")
    expect(page.get_by_label("Top p")).to_have_attribute("aria-invalid", "true")
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "Now")
    settled(page)
    sent = {k: v for k, v in scripted.asked[0].items() if k not in ("stream", "stream_options", "model")}
    assert sent == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Now"}],
        "temperature": 0.3, "top_k": 7, "seed": 12, "stop": ["END", "STOP"], "max_tokens": 50,
        "thinking": {"type": "disabled"}, "reasoning_effort": "low",
    }
    page.locator("#open-settings").click()
    page.locator("#reset").click()
    page.keyboard.press("Escape")
    ask(page, "Again")
    settled(page)
    assert set(scripted.asked[1]) == {"model", "messages", "stream", "stream_options", "seed"}
    assert json.dumps(scripted.asked[1]["messages"][0]) == '{"role": "system", "content": "Be brief."}'


def test_the_model_that_is_picked_answers(open_page, scripted):
    scripted.models = [scripted.models[0], {"id": "other", "context_length": 50}]
    page = open_page(scripted.url)
    expect(page.locator("#model option")).to_have_count(2)
    page.locator("#model").select_option("other")
    expect(page.locator("#gauge-text")).to_have_text("0 / 50")
    ask(page, "Who?")
    settled(page)
    assert scripted.asked[0]["model"] == "other"
    page.reload()
    expect(page.locator("#model")).to_have_value("other")


def test_the_picker_says_which_models_are_loaded(open_page, scripted):
    """In words; while a question waits for its model it says so, too."""
    gate = Gate()
    states = [{"id": "one", "context_length": 50, "state": "loaded"}, {"id": "two", "context_length": 50, "state": "unloaded"}]
    scripted.models = states
    scripted.scripts[:] = [(gate, say("here I am"))]
    page = open_page(scripted.url)
    expect(page.locator("#model option")).to_have_text(["one (loaded)", "two (not loaded)"])
    page.locator("#model").select_option("two")
    ask(page, "Are you there?")
    expect(answer(page).locator(".wait")).to_have_text("Waiting for the model…")
    scripted.models = [states[0], states[1] | {"state": "loading"}]
    expect(page.locator("#model option")).to_have_text(["one (loaded)", "two (loading)"])
    expect(page.locator("#model")).to_have_value("two")
    scripted.models = [states[0], states[1] | {"state": "loaded"}]
    expect(page.locator("#model option")).to_have_text(["one (loaded)", "two (loaded)"])
    expect(answer(page).locator(".wait")).to_have_text("Reading the question…")
    gate.open.set()
    expect(answer(page).locator(".body")).to_have_text("here I am")
    korean = open_page(scripted.url, locale="ko-KR")
    expect(korean.locator("#model option")).to_have_text(["one (불러옴)", "two (불러옴)"])
    scripted.models = [states[0]]
    alone = open_page(scripted.url)
    expect(alone.locator("#model option")).to_have_text(["one"])


def test_a_real_model_thinks_and_answers(open_page, serve):
    page = open_page(serve)
    ask(page, "What is (37+58)*6-129?")
    expect(answer(page).locator(".tools")).to_be_visible(timeout=60000)
    expect(answer(page).locator(".figures")).to_contain_text("tokens/s")
    expect(answer(page).locator(".think summary")).to_contain_text("Thought")
    assert answer(page).locator(".body").inner_text().strip()
