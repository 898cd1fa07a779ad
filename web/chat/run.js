// One answer being generated: the request, what arrives, how it ends.
//
// A run belongs to its conversation, not to what is on the screen: it goes on while another one is read.  Its node grows in
// place; `changed` is called, at most once a frame, for whoever shows it.
import * as api from "./api.js";
import * as store from "./store.js";
import { requestFields } from "./settings.js";
import { messages } from "./tree.js";

const SAVE_MS = 1000;  // a reload in the middle of an answer loses no more than this

const rowsOf = list => (list ?? []).map(e => [e.token, e.logprob, (e.top_logprobs ?? []).map(x => [x.token, x.logprob])]);

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
  #saved = Date.now();
  #thinkStart = 0;

  constructor(conversation, node, model, changed) {
    Object.assign(this, { conversation, node, model, changed, started: performance.now(), n: 0 });
  }

  stop() {
    this.#abort.abort();
  }

  // Resolves when the answer has ended, however; the node says how.
  async start() {
    const { node, conversation } = this;
    const request = { model: this.model.id, messages: messages(conversation, node.parent), ...requestFields() };
    try {
      await this.#ask(request);
    } catch (e) {
      if (e.name === "AbortError") node.finish = "stopped";
      else node.error = describe(e, this.model.context_length);
    }
    cancelAnimationFrame(this.#frame);
    this.#endThinking();
    conversation.updated = Date.now();
    await store.save(conversation);
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
    if (chunk.usage) node.usage = chunk.usage;
    if (chunk.timings) node.timings = chunk.timings;
    if (choice) {
      const reasoning = choice.delta?.reasoning_content ?? choice.delta?.reasoning;
      if (reasoning) {
        this.#thinkStart ||= performance.now();
        node.reasoning = (node.reasoning ?? "") + reasoning;
      }
      if (choice.delta?.content) {
        this.#endThinking();
        node.content += choice.delta.content;
      }
      if (reasoning || choice.delta?.content) this.n++;
      const rows = rowsOf(choice.logprobs?.content);
      if (rows.length) (node.logprobs ??= []).push(...rows);
      if (choice.finish_reason) node.finish = choice.finish_reason;
    }
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.changed(this);
    });
    this.#saveSometimes();
  }

  #endThinking() {
    if (this.#thinkStart && !this.node.thoughtMs) this.node.thoughtMs = performance.now() - this.#thinkStart;
  }

  #saveSometimes() {
    if (Date.now() - this.#saved < SAVE_MS) return;
    this.#saved = Date.now();
    store.save(this.conversation).catch(() => { /* the save at the end reports */ });
  }
}
