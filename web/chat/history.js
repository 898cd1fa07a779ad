// The list of conversations beside the chat: search, rename, delete, export, import.
import { $, confirmed, download, make } from "./dom.js";
import { t } from "./i18n.js";
import { iconButton } from "./icons.js";
import * as store from "./store.js";

let actions = null;  // {current(), open(id), deleted(id), notice(text), saved(conversation)}

const DAY = 86400000;

function groupOf(time) {
  const days = (new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / DAY;
  return t(days < 0.5 ? "today" : days < 1.5 ? "yesterday" : days < 7.5 ? "week" : "older");
}

function item(row) {
  const open = make("button", { className: "open", onclick: () => actions.open(row.id) },
    make("span", { className: "title" }, row.title || t("untitled")), row.excerpt ? make("small", {}, row.excerpt) : null);
  const li = make("li", { className: "item" }, open);
  const tool = (sign, name, onclick) => iconButton(sign, `${t(name)}: ${row.title}`, onclick, { className: "icon", title: t(name) });
  li.append(tool("pencil", "rename", () => rename(li, row)), tool("trash", "delete", () => remove(row)));
  li.dataset.id = row.id;
  if (row.id === actions.current()) open.setAttribute("aria-current", "true");
  return li;
}

export async function show() {
  const query = $("search").value.trim(), rows = await store.search(query), parts = [];
  let group = "";
  for (const row of rows) {
    if (!query && groupOf(row.updated) !== group) parts.push(make("li", { className: "group" }, group = groupOf(row.updated)));
    parts.push(item(row));
  }
  if (!rows.length && query) parts.push(make("li", { className: "group" }, t("nothing_found")));
  $("list").replaceChildren(...parts);
}

function rename(li, row) {
  const input = make("input", { value: row.title, ariaLabel: t("rename"), maxLength: 200 });
  let ended = false;
  const end = async keep => {
    if (ended) return;
    ended = true;
    const c = keep && input.value.trim() ? await store.load(row.id) : null;
    if (c) {
      c.title = input.value.trim();
      await store.save(c);
      actions.saved(c);
    }
    await show();
  };
  input.onkeydown = e => {
    if (e.key === "Enter" && !e.isComposing) end(true);
    if (e.key === "Escape") { e.stopPropagation(); end(false); }
  };
  input.onblur = () => end(true);
  li.replaceChildren(input);
  input.select();
  input.focus();
}

async function remove(row) {
  if (!await confirmed(t("sure_delete", row.title))) return;
  await store.remove(row.id);
  actions.deleted(row.id);
  await show();
}

async function importFile(file) {
  try {
    actions.notice(t("imported", await store.importText(await file.text())));
  } catch (e) {
    actions.notice(t("not_a_file", e.message));
  }
  await show();
}

export function start(given) {
  actions = given;
  $("search").oninput = show;
  $("search").onkeydown = e => {
    if (e.key === "ArrowDown") { e.preventDefault(); $("list").querySelector(".open")?.focus(); }
    if (e.key === "Enter") $("list").querySelector(".open")?.click();
  };
  $("list").onkeydown = e => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[e.key], all = [...$("list").querySelectorAll(".open")], at = all.indexOf(document.activeElement);
    if (!by || at < 0) return;
    e.preventDefault();
    (all[at + by] ?? (by < 0 ? $("search") : all[at])).focus();
  };
  $("export").onclick = async () => download(`minke-${new Date().toISOString().slice(0, 10)}.json`, await store.exportText());
  $("import").onclick = () => $("import-file").click();
  $("import-file").onchange = async e => {
    if (e.target.files[0]) await importFile(e.target.files[0]);
    e.target.value = "";
  };
}
