// The page: which conversation is shown, what runs, and what keys and buttons do.
import * as api from "./api.js";
import { $, confirmed, make, openDialog, say } from "./dom.js";
import * as files from "./files.js";
import * as history from "./history.js";
import { number, setLanguage, t } from "./i18n.js";
import { drawIcons } from "./icons.js";
import { Message } from "./message.js";
import { canLock, isOpen, Run } from "./run.js";
import { applyTheme, openSettings, requestFields, settings } from "./settings.js";
import * as store from "./store.js";
import { startTips } from "./tokens.js";
import * as tree from "./tree.js";

const LAST = "minke.model";
const POLL_MS = 15000, POLL_FAST_MS = 1000;

let conversation = tree.newConversation();
let models = [], status = { status: "gone" };
const runs = new Map();   // conversation id -> Run
const shown = new Map();  // node id -> Message

const model = () => models.find(m => m.id === $("model").value) ?? models[0];
const running = () => runs.get(conversation.id);

// --- messages ------------------------------------------------------------------------------------

const actions = {
  siblings: node => tree.siblings(conversation, node),
  errorText: error => t(error.kind, ...error.args),
  async go(node) {
    if (!node || running()) return;
    tree.select(conversation, node);
    await keepAndShow();
    const list = tree.siblings(conversation, node);
    say(t("live_branch", list.indexOf(node) + 1, list.length));
    shown.get(node.id)?.element.querySelector(".branch button:not(:disabled)")?.focus();
  },
  edit: (node, text, kept) => (text || kept.length) && ask(text, kept, node.parent),
  regenerate: node => answer(node.parent),
  isOpen,
  goOn,
  async retry(node, error) {
    if (error.kind === "e_key" && !await askKey()) return;
    if (node.request && (node.content || node.reasoning)) return goOn(node);
    const { parent } = node;
    if (!node.content && !node.reasoning) tree.remove(conversation, node);
    return answer(parent);
  },
  async remove(node) {
    if (running() || !await confirmed(t("sure_delete_message"))) return;
    tree.remove(conversation, node);
    await keepAndShow();
    $("input").focus();
  },
};

async function keepAndShow() {
  show();
  await store.save(conversation);
  history.show();
}

function show() {
  const nodes = tree.path(conversation), ids = new Set(nodes.map(n => n.id)), run = running();
  for (const [id, view] of shown) {
    if (!ids.has(id)) {
      view.element.remove();
      shown.delete(id);
    }
  }
  for (const node of nodes) {
    if (!shown.has(node.id)) shown.set(node.id, new Message(node, actions));
    const view = shown.get(node.id);
    $("messages").append(view.element);  // in the order of the path
    view.update(run?.node === node, run?.behind);
  }
  $("empty").hidden = nodes.length > 0;
  $("stop").hidden = !run;
  $("send").hidden = Boolean(run);
  document.title = (tree.titleOf(conversation) || "minke") + (nodes.length ? " – minke" : "");
  showGauge();
}

function forget() {
  shown.clear();
  $("messages").replaceChildren();
}

// --- asking --------------------------------------------------------------------------------------

async function ask(text, attached, parent = conversation.leaf) {
  if (running()) return;
  if (!Object.keys(conversation.nodes).length) conversation.system = settings.system.trim();
  const node = tree.add(conversation, parent, { role: "user", content: text, ...(attached.length && { files: attached }) });
  await answer(node.id);
}

async function answer(parent) {
  if (running()) return;
  if (!model()) await refresh();
  await write(tree.add(conversation, parent, { role: "assistant", model: model()?.id, request: requestFields() }), false);
}

// Takes up an answer that broke off.
async function goOn(node) {
  if (running()) return;
  if (!model()) await refresh();
  if (model() && !models.some(m => m.id === node.model)) node.model = model().id;
  if (!running() && conversation.nodes[node.id] === node) await write(node, true);
}

async function write(node, resumed) {
  const run = new Run(conversation, node, models.find(m => m.id === node.model) ?? {}, runChanged, resumed);
  runs.set(conversation.id, run);
  show();
  toEnd(!resumed);
  showWait();
  pollAgain();
  await run.start(async () => {
    if (resumed) say(t("live_resumed"));
    await store.save(run.conversation);
    runChanged(run);
    history.show();
  });
  runs.delete(run.conversation.id);
  ended(run);
}

// A conversation that is opened may wait for an answer: a reload broke it off, or another tab is writing it.
function pickUp() {
  const last = conversation.nodes[conversation.leaf];
  if (last && isOpen(last)) goOn(last);
}

function runChanged(run) {
  if (run.conversation !== conversation) return;
  shown.get(run.node.id)?.update(true, run.behind);
  if (run.node.reasoning && !run.node.content && !run.told) {
    run.told = true;
    say(t("live_thinking"));
  }
  showGauge(run);
  toEnd(false);
}

function ended(run) {
  const { node } = run;
  if (run.conversation === conversation) {
    show();
    toEnd(false);
    say(node.error ? actions.errorText(node.error) : node.finish === "stopped" || isOpen(node) ? t("live_stopped") : t("live_done", node.content));
  }
  history.show();
  if (node.error || models.some(m => !isThere(m))) refresh();
  if (node.error?.kind === "e_key" && run.conversation === conversation) actions.retry(node, node.error);
}

// --- gauge, scrolling ----------------------------------------------------------------------------

// What the shown conversation has of the context, with what is being written and the files of the next question.
function usedTokens(run = running()) {
  const last = tree.path(conversation).reverse().find(n => n.usage);
  return (last?.usage.total_tokens ?? 0) + (run && run.node !== last ? run.n : 0) + files.tokens();
}

function showGauge(run = running()) {
  const size = model()?.context_length;
  $("gauge").hidden = !size;
  if (!size) return;
  const used = usedTokens(run), part = used / size;
  const portion = `${number(100 * part, part < 0.0995 ? 1 : 0)} %`;
  const speed = run && run.n > 1 ? " · " + t("speed", number(run.n / (performance.now() - run.started) * 1000, 0)) : "";
  $("gauge").setAttribute("aria-valuemax", size);
  $("gauge").setAttribute("aria-valuenow", Math.min(used, size));
  $("gauge").setAttribute("aria-valuetext", `${number(used)} / ${number(size)}`);
  $("gauge").title = `${t("context")}: ${number(used)} / ${number(size)} (${portion})`;
  $("gauge").dataset.portion = portion;  // where there is no room for more
  $("gauge").classList.toggle("full", part > 0.85);
  $("gauge").classList.toggle("over", used > size);
  $("gauge-fill").style.width = 100 * Math.min(part, 1) + "%";
  $("gauge-text").textContent = `${number(used)} / ${number(size)}${speed}`;
}

let following = true;  // the reader is at the end, so that it stays in sight

function toEnd(always) {
  following ||= always;
  if (following) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function scrolled() {
  const s = $("scroll");
  following = s.scrollHeight - s.scrollTop - s.clientHeight < 60;
  $("main").classList.toggle("scrolled", s.scrollTop > 4);
  $("down").hidden = following;
}

// --- conversations -------------------------------------------------------------------------------

async function open(id) {
  const c = runs.get(id)?.conversation ?? await store.load(id);
  if (!c) return;
  conversation = c;
  forget();
  show();
  toEnd(true);
  narrow(false);
  remember();
  pickUp();
  await history.show();
}

function startNew() {
  conversation = tree.newConversation();
  forget();
  show();
  remember();
  narrow(false);
  history.show();
  $("input").focus();
}

// The address carries the conversation, so that a reload and the browser's own buttons find it.
function remember() {
  const hash = Object.keys(conversation.nodes).length ? "#" + conversation.id : "";
  if (location.hash !== hash) window.history.pushState(null, "", location.pathname + hash);
}

function fromAddress() {
  const id = location.hash.slice(1);
  if (id && id !== conversation.id) open(id); else if (!id && conversation.leaf) startNew();
}

// --- the server ----------------------------------------------------------------------------------

function showStatus() {
  const name = { draining: "draining", gone: "gone", failed: "failed", locked: "locked", loading: "loading" }[status.status] ?? "ok";
  const text = t(name, name === "loading" ? Math.round(100 * (status.progress || 0)) + " %" : "");
  $("state").className = "state " + name;
  $("state").title = text;
  $("state").replaceChildren(make("span", { className: name === "ok" ? "only-read" : "" }, text));
}

const isThere = m => !m?.state || m.state === "loaded";

// With several models, or one that is not in memory, each says how it stands.
function modelLabel(m) {
  return m.state && (models.length > 1 || !isThere(m)) ? `${m.id} (${t("m_" + m.state)})` : m.id;
}

// Only what has changed is drawn anew: somebody may be choosing.
function showModels() {
  const list = $("model"), wanted = list.value || localStorage.getItem(LAST);
  if (models.length !== list.options.length || models.some((m, i) => m.id !== list.options[i].value)) {
    list.replaceChildren(...models.map(m => new Option(m.id, m.id)));
    if (models.some(m => m.id === wanted)) list.value = wanted;
  }
  models.forEach((m, i) => {
    if (list.options[i].text !== modelLabel(m)) list.options[i].text = modelLabel(m);
  });
  list.hidden = !models.length;
  showGauge();
  showWait();
}

// A question that waits says whether it is for the model to be loaded.
function showWait() {
  const run = running();
  if (run) shown.get(run.node.id)?.waitsFor(t(isThere(models.find(m => m.id === run.model.id)) ? "waiting" : "waiting_model"));
}

async function refresh() {
  status = await api.health();
  if (status.status === "ok") {
    try {
      models = await api.models();
    } catch (e) {
      status = { status: e.status === 401 ? "locked" : "failed" };
    }
  }
  showModels();
  showStatus();
  pollAgain();
}

// Soon, while something is on its way: the server, or a model that is loaded or waited for.
function pollAgain() {
  const settled = status.status === "ok" || status.status === "locked";
  const moving = models.some(m => m.state === "loading" || m.state === "unloading") || (running() && !isThere(model()));
  clearTimeout(pollTimer);
  pollTimer = setTimeout(poll, settled && !moving ? POLL_MS : POLL_FAST_MS);
}

let pollTimer = 0;  // a page that nobody sees does not ask; it does when it is seen again

async function poll() {
  if (document.hidden) return;
  const before = status.status;
  await refresh();
  if (before !== "locked" && status.status === "locked") await askKey();
}

// Whoever finds the door locked while somebody is asked already waits for the same answer.
let asking = null;

function askKey() {
  asking ??= askOnce().finally(() => { asking = null; });
  return asking;
}

async function askOnce() {
  $("key").value = "";
  if (await openDialog($("key-dialog")) !== "ok" || !$("key").value.trim()) return false;
  api.key.set($("key").value.trim());
  await refresh();
  return true;
}

// --- the rest of the page ------------------------------------------------------------------------

let noticeTimer = 0;

function notice(text) {
  clearTimeout(noticeTimer);
  $("notice").textContent = text;
  $("notice").hidden = false;
  noticeTimer = setTimeout(() => { $("notice").hidden = true; }, 6000);
}

const isNarrow = () => matchMedia("(max-width: 760px)").matches;

// The history beside the chat: hidden by choice where there is room, above the chat where there is none.
function narrow(open) {
  if (isNarrow()) side(open);
}

function side(open) {
  document.body.classList.toggle("no-side", !open);
  $("side").inert = !open;
  $("side-open").ariaExpanded = String(open);
}

function sideIsOpen() {
  return !document.body.classList.contains("no-side");
}

const KEYS = [["Enter", "k_send"], ["Shift Enter", "k_line"], ["Esc", "k_stop"], ["Ctrl K", "k_search"], ["Ctrl Shift O", "k_new"],
  ["↑", "k_edit"], ["Ctrl ,", "k_settings"]];

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const keySigns = keys => keys.split(" ").map(k => make("kbd", {}, APPLE && k === "Ctrl" ? "⌘" : k));

function showSettings() {
  $("keys").replaceChildren(...KEYS.flatMap(([k, name]) =>
    [make("dt", {}, ...keySigns(k)), make("dd", {}, t(name))]));
  if (Object.keys(conversation.nodes).length) settings.system = conversation.system;
  openSettings(() => model()?.sampling, name => {
    if (name === "theme") applyTheme();
    if (name === "lang") inLanguage();
    if (name === "system" && Object.keys(conversation.nodes).length) {
      conversation.system = settings.system.trim();
      store.save(conversation);
    }
    if (name === "open" || name === "logprobs") redraw();
  });
}

function redraw() {
  forget();
  show();
}

function inLanguage() {
  setLanguage(settings.lang);
  redraw();
  showStatus();
  showModels();
  history.show();
}

function grow() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = Math.min(input.scrollHeight, innerHeight * 0.4) + "px";
}

async function submit(e) {
  e?.preventDefault();
  const text = $("input").value.trim(), size = model()?.context_length;
  if ((!text && !files.pending()) || running()) return;
  if (files.pending() && size && usedTokens() > size) return notice(t("files_full", number(usedTokens()), number(size)));
  $("input").value = "";
  grow();
  const done = ask(text, files.take());
  remember();
  await done;
}

function editLast() {
  const last = tree.path(conversation).reverse().find(n => n.role === "user");
  if (last && !running()) shown.get(last.id).edit();
}

function inputKey(e) {
  if (e.isComposing) return;  // Enter that ends the composition of a syllable sends nothing
  if (e.key === "Enter" && (settings.ctrl_enter ? e.ctrlKey || e.metaKey : !e.shiftKey)) submit(e);
  if (e.key === "ArrowUp" && !$("input").value) {
    e.preventDefault();
    editLast();
  }
}

function pageKey(e) {
  const ctrl = e.ctrlKey || e.metaKey;
  if (document.querySelector("dialog[open]")) return;
  const does = ctrl && e.shiftKey && e.code === "KeyO" ? startNew
    : ctrl && e.code === "KeyK" ? () => { side(true); $("search").select(); $("search").focus(); }
      : ctrl && e.key === "," ? showSettings
        : e.key === "Escape" ? escape : null;
  if (!does) return;
  e.preventDefault();
  does();
}

function escape() {
  if (!$("tip").hidden) $("tip").hidden = true;
  else if (running()) running().stop();
  else if (isNarrow() && sideIsOpen()) side(false);
  else $("input").focus();
}

function start() {
  applyTheme();
  drawIcons(document);
  for (const e of document.querySelectorAll("[data-keys]")) e.replaceChildren(...keySigns(e.dataset.keys));
  setLanguage(settings.lang);
  history.start({ current: () => conversation.id, open, notice,
    deleted: id => {
      runs.get(id)?.drop();
      if (id === conversation.id) startNew();
    },
    saved: c => {
      if (c.id === conversation.id) conversation.title = c.title;
      show();
    } });
  files.start({ model, notice, changed: () => showGauge() });
  $("composer").onsubmit = submit;
  $("input").onkeydown = inputKey;
  $("input").oninput = grow;
  $("stop").onclick = () => running()?.stop();
  $("new").onclick = $("new-here").onclick = startNew;
  $("open-settings").onclick = showSettings;
  $("side-open").onclick = () => side(!sideIsOpen());
  $("side-close").onclick = () => side(false);
  $("scrim").onclick = () => side(false);
  $("scroll").onscroll = scrolled;
  $("down").onclick = () => toEnd(true);
  new ResizeObserver(() => toEnd(false)).observe($("messages"));  // formulas and colours come later than their text
  $("model").onchange = () => {
    localStorage.setItem(LAST, $("model").value);
    showGauge();
    files.recount();
  };
  startTips($("messages"));
  document.addEventListener("keydown", pageKey);
  document.addEventListener("visibilitychange", poll);
  window.addEventListener("popstate", fromAddress);
  store.listen({ changed: changedByOther,
    stop: id => runs.forEach(run => run.node.id === id && run.writes && run.stop()) });
  side(!isNarrow());
  show();
  history.show().then(() => store.kept || notice(t("not_kept")));
  fromAddress();
  poll();
  if (!isNarrow()) $("input").focus();
}

async function changedByOther(id) {
  history.show();
  if (runs.get(id)?.writes && !await store.load(id)) runs.get(id)?.drop();  // deleted there
  if (id === conversation.id && !running()?.writes) await reloadFromOther(id);
}

// Another tab has changed what is shown here.  Messages stay in their place; those that are being written grow.
async function reloadFromOther(id) {
  const c = await store.load(id), run = running();
  if (!c || id !== conversation.id || run?.writes) return;
  for (const [node, view] of shown) {
    if (c.nodes[node]) view.node = c.nodes[node];
  }
  if (run) run.follow(c);
  conversation = c;
  show();
  toEnd(false);
  if (canLock) pickUp();
}

start();
