// A conversation is a tree of messages: an edited question and a regenerated answer are branches beside the old ones.
//
// conversation: {id, title, system, created, updated, nodes: {id: node}, leaf}
// node: {id, parent, role, content, reasoning, files, ...}; parent is null for the first message.  `leaf` is the end of the
// branch that is shown.  Nothing here knows of the page or of storage.

export const newId = () => crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint32Array(4)), n => n.toString(36)).join("");

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", system, created: now, updated: now, nodes: {}, leaf: null };
}

// Adds a message below `parent` and shows it.
export function add(conversation, parent, node) {
  const created = Date.now();
  const made = { id: newId(), parent, created, content: "", ...node };
  conversation.nodes[made.id] = made;
  conversation.leaf = made.id;
  conversation.updated = created;
  return made;
}

// From the first message to `leaf`.
export function path(conversation, leaf = conversation.leaf) {
  const nodes = [];
  for (let n = conversation.nodes[leaf]; n; n = conversation.nodes[n.parent]) nodes.push(n);
  return nodes.reverse();
}

// The messages in the same place, oldest first; ties keep their order.
export function children(conversation, parent) {
  return Object.values(conversation.nodes).filter(n => n.parent === parent).sort((a, b) => a.created - b.created);
}

export const siblings = (conversation, node) => children(conversation, node.parent);

// Shows the branch that goes through `node`, at its newest end.
export function select(conversation, node) {
  for (let below = [node]; below.length; below = children(conversation, node.id)) node = below[below.length - 1];
  conversation.leaf = node.id;
}

// Takes a message away with all that follows it; what is shown then is a branch beside it, or ends before it.
export function remove(conversation, node) {
  const others = siblings(conversation, node).filter(n => n !== node);
  const drop = n => {
    children(conversation, n.id).forEach(drop);
    delete conversation.nodes[n.id];
  };
  drop(node);
  if (others.length) select(conversation, others[others.length - 1]);
  else conversation.leaf = node.parent;
}

// Makes what `node` says a branch of its own beside it, so that the node can say something else.
export function setAside(conversation, node) {
  const { request, ...said } = node;  // it will not be continued
  const old = { ...said, id: newId(), created: node.created - 1, finish: "stopped" };
  conversation.nodes[old.id] = old;
  node.content = "";
  for (const name of ["reasoning", "thoughtMs", "logprobs", "usage", "timings"]) delete node[name];
}

const TITLE = 60;

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = path(conversation).find(n => n.role === "user");
  const text = (first?.content || first?.files?.map(f => f.name).join(", ") || "").replace(/\s+/g, " ").trim();
  return text.length > TITLE ? [...text].slice(0, TITLE - 1).join("") + "…" : text;
}

// A file as a model reads it: its name, and its text between fences longer than any inside.
export function fileBlock({ name, text }) {
  const inside = Math.max(2, ...[...text.matchAll(/`{3,}/g)].map(m => m[0].length)), fence = "`".repeat(inside + 1);
  const kind = name.match(/\.(\w{1,12})$/)?.[1].toLowerCase() ?? "";
  return `File: ${name.replace(/[\s`]+/g, " ")}\n${fence}${kind}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
}

const textOf = node => [...(node.files ?? []).map(fileBlock), node.content].filter(Boolean).join("\n\n");

// What the model is sent; past reasoning goes with it, its template decides what becomes of it.  An answer that failed
// before its first word is left out; two questions in a row are one, since templates want roles that alternate.
export function messages(conversation, leaf) {
  const list = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  for (const n of path(conversation, leaf)) {
    const last = list[list.length - 1];
    if (n.role === "user" && last?.role === "user") {
      last.content += "\n\n" + textOf(n);
    } else if (n.role === "user" || n.content || n.reasoning) {
      const m = { role: n.role, content: textOf(n) };
      if (n.role === "assistant" && n.reasoning) m.reasoning_content = n.reasoning;
      list.push(m);
    }
  }
  return list;
}

// Whether something read from a file is a conversation that the functions above can work with.
export function isConversation(c) {
  const text = v => typeof v === "string";
  if (!c || !text(c.id) || typeof c.nodes !== "object" || c.nodes === null || Array.isArray(c.nodes)) return false;
  const ok = ([id, n]) => n && n.id === id && (n.role === "user" || n.role === "assistant") && text(n.content) &&
    (n.files === undefined || (Array.isArray(n.files) && n.files.every(f => f && text(f.name) && text(f.text) && Number.isFinite(f.size)))) &&
    (n.parent === null || Object.hasOwn(c.nodes, n.parent)) && [n.reasoning, n.model].every(v => v === undefined || text(v));
  const ends = n => {  // a circle of parents would never end
    const seen = new Set();
    for (; n; n = c.nodes[n.parent]) {
      if (seen.has(n.id)) return false;
      seen.add(n.id);
    }
    return true;
  };
  return Object.entries(c.nodes).every(ok) && Object.values(c.nodes).every(ends) &&
    (c.leaf === null || Object.hasOwn(c.nodes, c.leaf));
}
