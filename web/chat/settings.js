// Settings: what they are, where they are kept, the dialog that changes them, and what of them a request carries.
//
// An empty field is the server's default, which stands in it as a hint.  Only what was set is sent, and a seed: without one the
// server takes 0, and a question asked again would get the same answer again.
import { $, make, openDialog } from "./dom.js";
import { t } from "./i18n.js";

const KEPT = "minke.settings";

// name: field of the request, unless `page`; from/to: range; fallback: what a server does that does not say
const number = (name, from, to, more = {}) => ({ name, type: "number", from, to, ...more });
const choice = (name, ...options) => ({ name, type: "choice", options });
const groups = [
  ["g_chat", [{ name: "system", type: "text", page: true, help: true, none: "no_text" }]],
  ["g_sampling", [
    number("temperature", 0, 2, { help: true }), number("top_p", 0, 1), number("top_k", 0, 1000000, { whole: true }), number("min_p", 0, 1),
    number("repetition_penalty", 0.001, 1000), number("presence_penalty", -2, 2, { fallback: 0 }), number("frequency_penalty", -2, 2, { fallback: 0 }),
    number("max_tokens", 1, 10000000, { whole: true, none: "no_limit" }), number("seed", 0, 2 ** 53 - 1, { whole: true, none: "random", help: true }),
    { name: "stop", type: "text", help: true, none: "no_text" },
  ]],
  ["g_thinking", [choice("think", "default", "on", "off"), choice("effort", "default", "low", "medium", "high"),
    number("budget", 0, 10000000, { whole: true, none: "no_limit" }), { name: "open", type: "flag" }]],
  ["g_page", [{ name: "logprobs", type: "flag", help: true }, choice("theme", "auto", "light", "dark"),
    { ...choice("lang", "auto", "en", "ko"), texts: { en: "English", ko: "한국어" } }, { name: "ctrl_enter", type: "flag" }]],
];
const rows = groups.flatMap(([, list]) => list);

export const settings = read();
let changed = () => {};

function read() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { /* no storage, or not ours */ }
  const initial = r => (r.type === "choice" ? r.options[0] : r.type === "flag" ? false : r.type === "number" ? null : "");
  const good = { number: v => v === null || Number.isFinite(v), text: v => typeof v === "string", flag: v => typeof v === "boolean" };
  const out = {};
  for (const r of rows) {
    const v = kept[r.name], ok = r.type === "choice" ? r.options.includes(v) : good[r.type](v);
    out[r.name] = ok && v !== undefined ? v : initial(r);
  }
  return out;
}

function set(name, value) {
  settings[name] = value;
  try { localStorage.setItem(KEPT, JSON.stringify(settings)); } catch { /* they hold for this page */ }
  changed(name);
}

const BEHIND = { light: "#ffffff", dark: "#12161c" };  // --page of chat.css

export function applyTheme() {
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  for (const bar of document.querySelectorAll("meta[name=theme-color]")) {
    bar.content = BEHIND[settings.theme] ?? BEHIND[bar.media.includes("dark") ? "dark" : "light"];
  }
}

// Fields of a request for chat completions.
export function requestFields() {
  const out = {};
  for (const r of groups[1][1]) {
    if (r.type === "number" && settings[r.name] !== null) out[r.name] = settings[r.name];
  }
  out.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
  const stop = settings.stop.split("\n").filter(Boolean);
  if (stop.length) out.stop = stop;
  if (settings.think !== "default") out.thinking = { type: settings.think === "on" ? "enabled" : "disabled" };
  if (settings.effort !== "default") out.reasoning_effort = settings.effort;
  if (settings.budget !== null) out.thinking_budget = settings.budget;
  if (settings.logprobs) Object.assign(out, { logprobs: true, top_logprobs: 5 });
  return out;
}

// --- the dialog ----------------------------------------------------------------------------------

function hint(row, defaults) {
  const v = defaults?.[row.name] ?? row.fallback;
  if (v !== undefined) return t("default", Math.round(v * 1e6) / 1e6);
  return row.none ? t(row.none) : t("o_default");
}

function numberInput(row, defaults) {
  const input = make("input", { type: "number", min: row.from, max: row.to, step: row.whole ? 1 : "any", inputMode: "decimal",
    placeholder: hint(row, defaults), value: settings[row.name] ?? "" });
  input.oninput = () => {
    const v = input.value === "" ? null : input.valueAsNumber;
    const ok = !input.validity.badInput && (v === null || (v >= row.from && v <= row.to && (!row.whole || Number.isInteger(v))));
    input.setAttribute("aria-invalid", String(!ok));
    input.title = ok ? "" : t("invalid", row.from, row.to);
    if (ok) set(row.name, v);
  };
  return input;
}

const makers = {
  number: numberInput,
  text(row, defaults) {
    const area = make("textarea", { rows: row.name === "system" ? 3 : 2, placeholder: hint(row, defaults), value: settings[row.name] });
    area.oninput = () => set(row.name, area.value);
    return area;
  },
  choice(row) {
    const select = make("select", {}, ...row.options.map(o => new Option(row.texts?.[o] ?? t("o_" + o), o)));
    select.value = settings[row.name];
    select.onchange = () => set(row.name, select.value);
    return select;
  },
  flag(row) {
    const box = make("input", { type: "checkbox", checked: settings[row.name] });
    box.onchange = () => set(row.name, box.checked);
    return box;
  },
};

function field(row, defaults) {
  const input = makers[row.type](row, defaults), id = "s-" + row.name;
  input.id = id;
  const parts = [make("label", { htmlFor: id }, t("s_" + row.name)), input];
  if (row.help) {
    parts.push(make("small", { id: id + "-help" }, t(`s_${row.name}_help`)));
    input.setAttribute("aria-describedby", id + "-help");
  }
  return make("div", { className: "field " + row.type }, ...parts);
}

function fill(defaults) {
  $("fields").replaceChildren(...groups.map(([name, list]) =>
    make("fieldset", {}, make("legend", {}, t(name)), ...list.map(r => field(r, defaults)))));
}

// defaults: sampling of the model in use; onChange(name) after each change
export function openSettings(defaults, onChange) {
  changed = name => {
    onChange(name);
    if (name === "lang") fill(defaults());
  };
  $("reset").onclick = () => {
    for (const r of [...groups[1][1], ...groups[2][1]]) set(r.name, r.type === "choice" ? "default" : r.type === "flag" ? false : r.type === "number" ? null : "");
    fill(defaults());
  };
  fill(defaults());
  return openDialog($("settings"));
}
