// One message on the page: question or answer with its thinking, its figures and what can be done with it.
import { make } from "./dom.js";
import { chip } from "./files.js";
import { bytes, number, seconds, t } from "./i18n.js";
import { copyButton, icon, iconButton } from "./icons.js";
import { Markdown } from "./markdown.js";
import { settings } from "./settings.js";
import { tokenSpans } from "./tokens.js";

const SHORT_MS = 95;  // thinking that took less says nothing of its time

function button(text, label, onclick, className = "tool") {
  return make("button", { type: "button", className, onclick, ...(label && { ariaLabel: label, title: label }) }, text);
}

function figures(node) {
  const { usage, timings } = node, out = [];
  if (usage) out.push(t(usage.completion_tokens === 1 ? "one_token" : "n_tokens", number(usage.completion_tokens)));
  if (timings?.predicted_per_second) out.push(t("speed", number(timings.predicted_per_second, timings.predicted_per_second < 100 ? 1 : 0)));
  if (timings) out.push(t("first", seconds((timings.queue_ms || 0) + timings.prompt_ms)));
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached) out.push(t("cached", number(cached)));
  return out.join(" · ");
}

// A file of a question, to be opened.
function attached(file) {
  const text = make("pre", { tabIndex: 0 });
  return make("details", { className: "attached", ontoggle: () => { text.textContent = file.text; } },
    make("summary", {}, icon("file"), make("span", { className: "chip-name" }, file.name), make("small", {}, bytes(file.size))), text);
}

// Shows a node and follows it while it grows.  `actions`: {siblings, go(node), edit(node, text, files), regenerate(node),
// remove(node), retry(node, error), errorText(error), isOpen(node), goOn(node)}.
export class Message {
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    this.byHand = false;  // thinking was opened or closed by the reader
    this.asTokens = settings.logprobs;  // where there are any
    this.element = make("article", { className: "message " + node.role, ariaLabel: t(node.role === "user" ? "you" : "answer") });
    this.element.dataset.id = node.id;
    if (node.role === "user") this.#question(); else this.#answer();
    this.tools = make("div", { className: "tools" });
    this.element.append(this.tools);
  }

  #question() {
    const { content, files = [] } = this.node;
    this.body = make("div", { className: "question" }, ...files.map(attached), content ? make("div", { className: "body plain" }, content) : null);
    this.element.append(this.body);
  }

  #answer() {
    this.thinkText = make("div", { className: "think-text" });
    this.thinkLabel = make("span", {});
    const summary = make("summary", { onclick: () => { this.byHand = true; } }, this.thinkLabel);
    this.think = make("details", { className: "think", hidden: true }, summary, this.thinkText);
    this.wait = make("p", { className: "wait", hidden: true });
    this.waiting = t("waiting");
    this.behind = null;
    this.body = make("div", { className: "body" });
    this.markdown = new Markdown(this.body);
    this.tokens = make("div", { className: "as-tokens", hidden: true });
    this.note = make("div", { className: "note", hidden: true });
    this.element.append(this.think, this.body, this.tokens, this.wait, this.note);
  }

  // What a silent answer waits for.
  waitsFor(text) {
    this.waiting = text;
    if (this.behind === null) this.wait.textContent = text;
  }

  // live: the answer is still arriving; behind: so far its words are those that are there already (0 to 1), or null
  update(live = false, behind = null) {
    if (this.node.role === "assistant") {
      this.#showThinking(live);
      this.#showText(live);
      this.#showWait(live, behind);
      this.#showNote(live);
    }
    this.#showTools(live);
  }

  #showThinking(live) {
    const { reasoning, content, thoughtMs } = this.node;
    this.think.hidden = !reasoning;
    if (!reasoning) return;
    const thinking = live && !content;
    if (!this.byHand) this.think.open = thinking || settings.open;
    this.think.classList.toggle("live", thinking);
    this.thinkLabel.textContent = thinking ? t("thinking") : thoughtMs >= SHORT_MS ? t("thought", seconds(thoughtMs)) : t("thought_some");
    if (this.thinkText.textContent === reasoning) return;
    const end = this.thinkText.scrollHeight - this.thinkText.scrollTop - this.thinkText.clientHeight < 30;
    this.thinkText.textContent = reasoning;
    if (thinking && end) this.thinkText.scrollTop = this.thinkText.scrollHeight;
  }

  #showText(live) {
    const { content, logprobs } = this.node;
    const asTokens = this.asTokens && !live && logprobs?.length > 0;
    this.body.hidden = asTokens;
    this.tokens.hidden = !asTokens;
    if (live) this.tokens.replaceChildren();
    if (asTokens && !this.tokens.firstChild) this.tokens.append(tokenSpans(logprobs));
    if (!asTokens) this.markdown.show(content, !live);
    this.body.classList.toggle("live", live);
  }

  #showWait(live, behind) {
    const { content, reasoning } = this.node;
    this.behind = behind;
    this.wait.hidden = !live || (behind === null && Boolean(content || reasoning));
    this.wait.textContent = behind === null ? this.waiting : t("behind", Math.floor(100 * behind));
  }

  #showNote(live) {
    const { node, actions } = this, { error, finish } = node, there = Boolean(node.content || node.reasoning);
    const text = error ? actions.errorText(error) : finish === "length" ? t("cut_length") : finish === "stopped" ? t("stopped")
      : actions.isOpen(node) ? t("interrupted") : "";
    this.note.hidden = live || !text;
    this.note.className = error ? "note error" : "note";
    this.note.replaceChildren(make("span", {}, text));
    if (live) return;
    if (error?.message) this.note.append(make("small", {}, error.message));
    const again = error?.kind === "e_key" ? "give_key" : node.request && there ? "go_on" : "retry";
    if (error) this.note.append(button(t(again), "", () => actions.retry(node, error), ""));
    else if (node.request) this.note.append(button(t("go_on"), "", () => actions.goOn(node), ""));
  }

  #showTools(live) {
    const { node, actions } = this, list = actions.siblings(node), i = list.indexOf(node), parts = [];
    this.tools.hidden = live;
    if (live) return;
    if (list.length > 1) {
      const step = (by, sign, label) => iconButton(sign, label, () => actions.go(list[i + by]), { disabled: !list[i + by] });
      parts.push(make("span", { className: "branch", role: "group", ariaLabel: t("branch", i + 1, list.length) }, step(-1, "left", t("previous")),
        make("span", {}, `${i + 1}/${list.length}`), step(1, "right", t("next"))));
    }
    if (node.content) parts.push(copyButton(t("copy"), () => node.content, t("copied"), true));
    if (node.role === "user") parts.push(iconButton("pencil", t("edit"), () => this.edit()));
    else if (node.content || node.reasoning || !node.error) parts.push(iconButton("again", t("regenerate"), () => actions.regenerate(node)));
    if (node.logprobs?.length) {
      const b = button(t("tokens"), t("show_tokens"), () => { this.asTokens = !this.asTokens; this.update(); });
      b.ariaPressed = String(this.asTokens);
      parts.push(b);
    }
    parts.push(iconButton("trash", t("delete"), () => actions.remove(node)));
    if (node.role === "assistant") parts.push(make("span", { className: "figures", title: [node.model, node.seed !== undefined && `${t("s_seed")} ${node.seed}`].filter(Boolean).join(" · ") }, figures(node)));
    this.tools.replaceChildren(...parts);
  }

  edit() {
    const area = make("textarea", { value: this.node.content, rows: Math.min(12, this.node.content.split("\n").length + 1), ariaLabel: t("edit") });
    const end = () => { form.replaceWith(this.body); this.tools.hidden = false; };
    let kept = this.node.files ?? [];
    const list = make("ul", { className: "files", ariaLabel: t("files") });
    const drop = f => { kept = kept.filter(k => k !== f); drawFiles(); area.focus(); };
    const drawFiles = () => { list.replaceChildren(...kept.map(f => chip(f, () => drop(f)))); list.hidden = !kept.length; };
    const send = () => { end(); this.actions.edit(this.node, area.value.trim(), kept); };
    drawFiles();
    const form = make("form", { className: "edit", onsubmit: e => { e.preventDefault(); send(); } }, list, area,
      make("div", { className: "edit-foot" }, button(t("cancel"), "", end, ""), make("button", { className: "main" }, t("save_send"))));
    area.onkeydown = e => {
      if (e.key === "Escape") { e.stopPropagation(); end(); }
      if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
    };
    this.body.replaceWith(form);
    this.tools.hidden = true;
    area.focus();
  }
}
