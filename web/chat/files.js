// Text files beside a question: chosen, dropped or pasted; read here, and part of the message when it is sent (fileBlock in tree.js).
//
// What is a text is decided by what is in the file, not by its name.  How many tokens it has is the server's word; until it has
// come, and where it does not come, nothing is refused for it: the server refuses what does not fit, with both numbers.
import * as api from "./api.js";
import { $, make, say } from "./dom.js";
import { bytes, number, t } from "./i18n.js";
import { icon, iconButton } from "./icons.js";
import { fileBlock } from "./tree.js";

const MAX_FILES = 20;
const MAX_BYTES = 4 << 20;  // of one file; more than any context holds

// --- reading -------------------------------------------------------------------------------------

const CONTROLS = /[\0-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]/;  // no text has them; ESC colours the lines of logs

function decode(data, encoding) {
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(data);
    return CONTROLS.test(text) ? null : text;
  } catch {
    return null;  // not in this encoding
  }
}

// UTF-8, UTF-16 with its mark, or what spreadsheets and editors of the reader's language wrote before.
function decodeAny(data) {
  const mark = data[0] << 8 | data[1], old = navigator.languages.some(l => l.startsWith("ko")) ? "euc-kr" : "windows-1252";
  for (const encoding of mark === 0xfffe ? ["utf-16le"] : mark === 0xfeff ? ["utf-16be"] : ["utf-8", old]) {
    const text = decode(data, encoding);
    if (text !== null) return { text: text.replace(/\r\n?/g, "\n"), ...(encoding !== "utf-8" && { encoding }) };
  }
  return null;
}

class Refused extends Error {}  // its message is for the reader

// {name, size, text, encoding?}; throws Refused.
async function read(file) {
  if (file.size > MAX_BYTES) throw new Refused(t("file_large", file.name, bytes(file.size), bytes(MAX_BYTES)));
  let data;
  try {
    data = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Refused(t("file_unread", file.name));  // a folder, or it is gone
  }
  if (!data.length) throw new Refused(t("file_empty", file.name));
  const got = decodeAny(data);
  if (!got) throw new Refused(t("file_binary", file.name));
  return { name: file.name, size: data.length, ...got };
}

// --- the files of the next question --------------------------------------------------------------

let files = [];  // {name, size, text, encoding?, tokens?}
let given = null;  // {model(), changed(), notice(text)}

export const pending = () => files.length > 0;
export const tokens = () => files.reduce((sum, f) => sum + (f.tokens ?? 0), 0);

// The files for the message that is sent now.
export function take() {
  const taken = files.map(({ name, size, text, encoding }) => ({ name, size, text, ...(encoding && { encoding }) }));
  files = [];
  show();
  return taken;
}

// A file in a row of files; without `remove` it can only be looked at.
export function chip(file, remove) {
  const more = [bytes(file.size), file.encoding?.toUpperCase(), file.tokens && t("n_tokens", number(file.tokens))].filter(Boolean).join(" · ");
  return make("li", { className: "chip" }, icon("file"), make("span", { className: "chip-name", title: file.name }, file.name), make("small", {}, more),
    remove ? iconButton("close", t("remove_file", file.name), remove, { className: "chip-close" }) : null);
}

function show() {
  $("files").replaceChildren(...files.map((f, i) => chip(f, () => drop(i))));
  $("files").hidden = !files.length;
  given.changed();
}

function drop(i) {
  say(t("file_removed", files[i].name));
  files.splice(i, 1);
  show();
  ($("files").querySelectorAll("button")[Math.min(i, files.length - 1)] ?? $("input")).focus();
}

export async function add(list) {
  const refused = [], added = [];
  for (const file of list) {
    if (files.length >= MAX_FILES) {
      refused.push(t("file_many", MAX_FILES));
      break;
    }
    try {
      const f = await read(file);
      files.push(f);
      added.push(f);
    } catch (e) {
      if (!(e instanceof Refused)) throw e;
      refused.push(e.message);
    }
  }
  if (refused.length) given.notice(refused.join(" "));
  else if (added.length) say(t("file_added", added.map(f => f.name).join(", ")));
  show();
  $("input").focus();
  await Promise.all(added.map(count));
}

async function count(file) {
  const model = given.model();
  try {
    file.tokens = model && await api.countTokens(model.id, fileBlock(file));
  } catch {
    delete file.tokens;
  }
  if (files.includes(file)) show();
}

// Another model counts in its own way.
export const recount = () => Promise.all(files.map(count));

// --- how they come -------------------------------------------------------------------------------

const hasFiles = e => e.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");

function listenToDrops() {
  const over = on => { $("drop").hidden = !on; };
  document.addEventListener("dragover", e => {
    if (!hasFiles(e)) return;
    e.preventDefault();
    e.dataTransfer.dropEffect = "copy";
    over(true);
  });
  document.addEventListener("dragleave", e => e.relatedTarget || over(false));
  document.addEventListener("drop", e => {
    over(false);
    if (!hasFiles(e)) return;
    e.preventDefault();
    add([...e.dataTransfer.files]);
  });
}

export function start(actions) {
  given = actions;
  $("attach").onclick = () => $("attach-file").click();
  $("attach-file").onchange = e => {
    add([...e.target.files]);
    e.target.value = "";
  };
  $("input").onpaste = e => {
    if (!e.clipboardData.files.length || e.clipboardData.types.includes("text/plain")) return;  // spreadsheets copy a picture beside their text
    e.preventDefault();
    add([...e.clipboardData.files]);
  };
  listenToDrops();
}
