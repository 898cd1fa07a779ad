// The history: conversations in the browser's IndexedDB, nowhere else.
//
// Another tab that changes one says so on a channel, so that lists stay the same.  Without IndexedDB (private windows of
// some browsers) conversations live as long as the page; `kept` tells.
import { isConversation, newId, titleOf } from "./tree.js";

const NAME = "minke", STORE = "conversations", VERSION = 1;
const channel = "BroadcastChannel" in window ? new BroadcastChannel("minke") : null;

export let kept = true;
const memory = new Map();  // instead of the data base

const done = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let opened = null;
function open() {
  opened ??= new Promise(resolve => {
    const lost = () => { kept = false; resolve(null); };
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      request.onsuccess = () => {
        request.result.onversionchange = () => request.result.close();
        resolve(request.result);
      };
      request.onerror = lost;
    } catch { lost(); }
  });
  return opened;
}

async function objects(mode) {
  const db = await open();
  return db && db.transaction(STORE, mode).objectStore(STORE);
}

export async function save(conversation) {
  const store = await objects("readwrite");
  if (store) await done(store.put(conversation)); else memory.set(conversation.id, structuredClone(conversation));
  channel?.postMessage(conversation.id);
}

export async function load(id) {
  const store = await objects("readonly");
  return store ? done(store.get(id)) : structuredClone(memory.get(id));
}

export async function remove(id) {
  const store = await objects("readwrite");
  if (store) await done(store.delete(id)); else memory.delete(id);
  channel?.postMessage(id);
}

export async function all() {
  const store = await objects("readonly");
  return store ? done(store.getAll()) : [...memory.values()];
}

// Other tabs: changed(id of a conversation), stop(id of an answer that this one may be writing).
export function listen({ changed, stop }) {
  channel?.addEventListener("message", e => (e.data.stop ? stop(e.data.stop) : changed(e.data)));
}

export const askToStop = id => channel?.postMessage({ stop: id });

// Those whose title or messages have every word of the query, newest first: [{id, title, updated, excerpt}].
export async function search(query) {
  const words = query.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (const c of await all()) {
    const title = titleOf(c);
    const texts = [title, ...Object.values(c.nodes).flatMap(n => [n.content, ...(n.files ?? []).flatMap(f => [f.name, f.text])])];
    const lower = texts.map(t => t.toLocaleLowerCase());
    if (!words.every(w => lower.some(t => t.includes(w)))) continue;
    rows.push({ id: c.id, title, updated: c.updated, excerpt: words.length ? excerpt(texts.slice(1), lower.slice(1), words[0]) : "" });
  }
  return rows.sort((a, b) => b.updated - a.updated);
}

const AROUND = 30;

function excerpt(texts, lower, word) {
  const i = lower.findIndex(t => t.includes(word));
  if (i < 0) return "";
  const at = lower[i].indexOf(word), from = Math.max(0, at - AROUND);
  return (from > 0 ? "…" : "") + texts[i].slice(from, at + word.length + 2 * AROUND).replace(/\s+/g, " ");
}

// --- files ---------------------------------------------------------------------------------------

export async function exportText() {
  return JSON.stringify({ format: "minke.conversations", version: 1, conversations: await all() }, null, 1);
}

// Adds what a file holds; one whose id is there already gets another.  Returns how many; throws when it is none of ours.
export async function importText(text) {
  const file = JSON.parse(text);
  const list = file?.format === "minke.conversations" && Array.isArray(file.conversations) ? file.conversations : null;
  if (!list || !list.every(isConversation)) throw new Error("not a file of minke.conversations");
  const there = new Set((await all()).map(c => c.id));
  for (const c of list) {
    const now = Date.now(), number = v => (Number.isFinite(v) ? v : now), string = v => (typeof v === "string" ? v : "");
    for (const n of Object.values(c.nodes)) delete n.request;  // what was on its way elsewhere is not asked for here
    await save({ ...c, id: there.has(c.id) ? newId() : c.id, title: string(c.title), system: string(c.system),
      created: number(c.created), updated: number(c.updated) });
  }
  return list.length;
}
