// One answer being generated: the request, what arrives, how it ends.
//
// A run belongs to its conversation, not to what is on the screen: it goes on while another one is read.  Its node grows in
// place; `changed` is called, at most once a frame, for whoever shows it.
//
// An answer can be taken up where it broke off (a reload, a lost connection, Stop).  Its node keeps `request`, what was asked for
// besides the messages, until the answer is complete.  The same request gets the same answer from minke, so that it is simply
// asked for again: first comes what is there already, then the rest.  Whatever else comes (another model under the same name, say)
// is an answer of its own, and what was there becomes a branch beside it.
//
// Of several tabs one writes; the others wait for its lock, and whoever gets it looks first whether anything is left to do.
import * as api from "./api.js";
import * as store from "./store.js";
import { messages, setAside } from "./tree.js";

const SAVE_MS = 500;  // what has come is kept that soon

const rowsOf = list => (list ?? []).map(e => [e.token, e.logprob, (e.top_logprobs ?? []).map(x => [x.token, x.logprob])]);

// The request is there and nothing says how it ended: the answer is on its way, or nobody waited for its end.
export const isOpen = node => Boolean(node?.request && !node.finish && !node.error);

// A page that goes away breaks its connections off: that is no error of the answer.
let leaving = false;
window.addEventListener("beforeunload", () => { leaving = true; });
window.addEventListener("pageshow", () => { leaving = false; });

// Pages of another machine without TLS have no locks: there two tabs may write the same answer, with the same words.
export const canLock = Boolean(navigator.locks);
const alone = (id, signal, work) => (canLock ? navigator.locks.request("minke.answer." + id, { signal }, work) : work());

const lengthOf = part => (part.reasoning?.length ?? 0) + part.content.length;

// What went wrong, in a form that can be kept: {kind: name of a text, args, message of the server}.
export function describe(e, contextLength) {
  const code = String(e.body?.error?.code ?? e.body?.error?.type ?? "");
  const full = e.status === 400 && (/context/.test(code) || /context|window/.test(e.message));
  const kinds = { 0: "e_gone", 400: "e_bad", 401: "e_key", 403: "e_forbidden", 429: "e_busy", 503: "e_busy" };
  const kind = e.cut ? "e_cut" : full ? "e_full" : kinds[e.status] ?? "e_server";
  const args = kind === "e_full" ? [contextLength || "?"] : kind === "e_busy" ? [e.retryAfter || 1] : [];
  return { kind, args, message: e.status === 0 && !e.cut ? "" : e.message };
}

export class Run {
  #abort = new AbortController();
  #frame = 0;
  #timer = 0;
  #thinkStart = 0;
  #dropped = false;
  #heard = { reasoning: "", content: "", logprobs: [] };
  #kept;  // characters that the node had before; 0 when the answer has caught up with them

  // resumed: the node has been stored by an earlier run
  constructor(conversation, node, model, changed, resumed) {
    Object.assign(this, { conversation, node, model, changed, resumed, wasOpen: isOpen(node), started: performance.now(), n: 0, writes: false });
    this.#begin();
  }

  // Whoever writes it stops; those that wait find out when it is their turn.
  stop() {
    if (this.writes || !canLock) this.#abort.abort(); else store.askToStop(this.node.id);
  }

  // Stops, and nothing of it is kept any more.
  drop() {
    this.#dropped = true;
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  // Another tab has written: this one goes on from there when its turn comes.
  follow(conversation) {
    this.conversation = conversation;
    this.node = conversation.nodes[this.node.id] ?? this.node;
    this.#begin();
  }

  // While words come that are there already: how far it is, from 0 to 1; otherwise null.
  get behind() {
    return this.writes && this.#kept ? Math.min(lengthOf(this.#heard) / this.#kept, 1) : null;
  }

  // Resolves when the answer has ended, however; the node says how.  first(): what to do once this tab is the one that writes.
  async start(first) {
    try {
      await alone(this.node.id, this.#abort.signal, () => this.#write(first));
    } catch (e) {
      if (e.name !== "AbortError") throw e;  // stopped before its turn: another tab writes
    }
  }

  async #write(first) {
    const { node, conversation } = this;
    if (this.resumed && this.#isDone(await store.load(conversation.id))) return;
    this.writes = true;
    await first();
    try {
      await this.#ask({ model: node.model, messages: messages(conversation, node.parent), ...node.request });
      if (this.#kept) this.#compare();
      node.seed = node.request.seed;
      delete node.request;
    } catch (e) {
      if (e.name === "AbortError") node.finish = "stopped";
      else if (!leaving) node.error = describe(e, this.model.context_length);
    }
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#endThinking();
    conversation.updated = Date.now();
    if (!this.#dropped) await store.save(conversation);
  }

  // What another tab has written while this one waited is taken over.  Returns whether nothing is left to do.
  #isDone(stored) {
    const { node, conversation } = this, there = stored?.nodes[node.id];
    if (!there) return true;  // deleted
    for (const name of Object.keys(node)) if (!(name in there)) delete node[name];
    Object.assign(node, there);
    conversation.nodes = { ...stored.nodes, ...conversation.nodes };
    if (!there.request || (this.wasOpen && !isOpen(there))) return true;
    this.#begin();
    return false;
  }

  #begin() {
    const { node } = this;
    this.#kept = lengthOf(node);
    if (!node.content) delete node.thoughtMs;
    delete node.finish;
    delete node.error;
  }

  // While models are being loaded the question waits.
  async #ask(request) {
    for (;;) {
      try {
        return await api.chat(request, this.#abort.signal, chunk => this.#take(chunk));
      } catch (e) {
        if (e.status !== 503 || (await api.health()).status !== "loading") throw e;
        await new Promise(resolve => setTimeout(resolve, 1000));
        this.#abort.signal.throwIfAborted();
      }
    }
  }

  #take(chunk) {
    const { node } = this, choice = chunk.choices?.[0];
    if (choice) this.#hear(choice);
    if (this.#kept && (choice?.finish_reason || lengthOf(this.#heard) >= this.#kept)) this.#compare();
    if (!this.#kept) this.#tell();
    if (chunk.usage) node.usage = chunk.usage;
    if (chunk.timings) node.timings = chunk.timings;
    if (choice?.finish_reason) node.finish = choice.finish_reason;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.changed(this);
    });
    this.#saveSoon();
  }

  #hear({ delta, logprobs }) {
    const heard = this.#heard, reasoning = delta?.reasoning_content ?? delta?.reasoning;
    if (reasoning) {
      this.#thinkStart ||= performance.now();
      heard.reasoning += reasoning;
    }
    if (delta?.content) {
      this.#endThinking();
      heard.content += delta.content;
    }
    if (reasoning || delta?.content) this.n++;
    heard.logprobs.push(...rowsOf(logprobs?.content));
  }

  // As long as what was there, or at its end: it begins with that, or it is another answer.
  #compare() {
    const { node } = this, heard = this.#heard, thought = node.reasoning ?? "";
    const same = heard.content.startsWith(node.content) && heard.reasoning.startsWith(thought) && (!node.content || heard.reasoning === thought);
    if (!same) setAside(this.conversation, node);
    this.#kept = 0;
    this.#tell();
  }

  #tell() {
    const { node } = this, { reasoning, content, logprobs } = this.#heard;
    if (reasoning) node.reasoning = reasoning;
    node.content = content;
    if (logprobs.length) node.logprobs = logprobs;
  }

  #endThinking() {
    if (this.#thinkStart && !this.node.thoughtMs) this.node.thoughtMs = performance.now() - this.#thinkStart;
  }

  #saveSoon() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      store.save(this.conversation).catch(() => { /* the save at the end reports */ });
    }, SAVE_MS);
  }
}
