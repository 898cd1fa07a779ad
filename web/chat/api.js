// The server's API as this page uses it: models, health, and a chat whose answer arrives in pieces.

const KEY = "minke.key";

// The key lives as long as the tab.
export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: v => (v ? sessionStorage.setItem(KEY, v) : sessionStorage.removeItem(KEY)),
};

// status: of HTTP; 0: no answer at all.  `cut`: the answer ended in its middle.
export class ApiError extends Error {
  constructor(status, message, more = {}) {
    super(message);
    Object.assign(this, { status, retryAfter: 0, cut: false }, more);
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = "Bearer " + key.get();
  let r;
  try {
    r = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new ApiError(0, e.message);
  }
  if (r.ok) return r;
  const text = await r.text().catch(() => "");
  let body = {};
  try { body = JSON.parse(text); } catch { /* not from minke: a proxy's page */ }
  const message = body.error?.message || (typeof body.error === "string" ? body.error : "") || r.statusText || text.slice(0, 200);
  throw new ApiError(r.status, message, { body, retryAfter: Number(r.headers.get("Retry-After")) || 0 });
}

export async function models() {
  return (await (await ask("/v1/models")).json()).data;
}

export async function countTokens(model, text) {
  const body = JSON.stringify({ model, messages: [{ role: "user", content: text }] });
  const r = await ask("/v1/messages/count_tokens", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  return (await r.json()).input_tokens;
}

// {status: "ok" | "loading" | "draining" | "gone" | ..., model, progress}; never throws.
export async function health() {
  try {
    return await (await ask("/health")).json();
  } catch (e) {
    return e.body?.status ? e.body : { status: e.status ? "failed" : "gone" };
  }
}

// Lines of a stream of server-sent events; only `data:` matters on these paths.
async function* dataLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  }
}

// Calls on(chunk) for every chunk of the answer; returns when it is complete.  Throws ApiError, or AbortError when the
// signal stopped it.
export async function chat(request, signal, on) {
  const r = await ask("/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
  });
  try {
    for await (const line of dataLines(r.body)) {
      if (line === "[DONE]") return;
      const chunk = JSON.parse(line);
      if (chunk.error) throw new ApiError(r.status, chunk.error.message || String(chunk.error), { cut: true });
      on(chunk);
    }
  } catch (e) {
    if (e instanceof ApiError || e.name === "AbortError") throw e;
    throw new ApiError(0, e.message, { cut: true });
  }
  throw new ApiError(0, "", { cut: true });
}
