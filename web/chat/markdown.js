// Answers as the reader sees them: Markdown, code, formulas.
//
// What a model writes is text from outside, so that no HTML is made of it: marked only splits the Markdown into tokens, and
// elements are built from these one by one, with textContent.  HTML in an answer is shown as text, but for a few tags
// without attributes; links lead to the web or to a mail address or are no links; pictures are links, since nothing is
// fetched for an answer.  There is nothing to sanitise, and the page's policy refuses every text that would become HTML.
import "./vendor/marked.js";
import { make } from "./dom.js";
import { t } from "./i18n.js";
import { copyButton } from "./icons.js";

const { marked } = window;

// --- formulas: an extension of marked ------------------------------------------------------------

// A dollar opens a formula when no space follows and closes it when none stands before and no digit follows: prices stay.
const INLINE = /^(?:\\\(([\s\S]+?)\\\)|\$\$([^$]+?)\$\$|\$(?![\s$])((?:\\.|[^\\$\n])+?)(?<!\s)\$(?!\d))/;
const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;

function formula(name, level, pattern, begin) {
  return {
    name, level,
    start: src => src.match(begin)?.index,
    tokenizer(src) {
      const m = pattern.exec(src);
      if (!m) return undefined;
      const tex = m.slice(1).find(x => x !== undefined);
      return { type: "formula", raw: m[0], tex: tex.trim(), display: level === "block" || m[2] !== undefined };
    },
  };
}

marked.use({ gfm: true, breaks: true, extensions: [
  formula("blockFormula", "block", BLOCK, /^ {0,3}(?:\$\$|\\\[)/m),
  formula("formula", "inline", INLINE, /\\\(|\$/),
] });

// --- from tokens to elements ---------------------------------------------------------------------

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: "\"", apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•", middot: "·", deg: "°",
  times: "×", divide: "÷", plusmn: "±", minus: "−", le: "≤", ge: "≥", ne: "≠", larr: "←", rarr: "→", infin: "∞", euro: "€", szlig: "ß" };

// marked escapes the texts of its tokens, for HTML that is not made here.
function plain(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{2,8}));/gi, (all, decimal, hex, name) => {
    if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : all;
    const code = parseInt(decimal ?? hex, decimal ? 10 : 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
  });
}

function link(href, content) {
  let url = null;
  try { url = new URL(plain(href)); } catch { /* relative, or none */ }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return make("span", { title: plain(href) }, ...content);
  return make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, ...content);
}

const BARE = /^<(\/?)(b|br|del|em|i|ins|kbd|mark|s|small|strong|sub|sup|u)\s*\/?>$/i;

// A list of inline tokens.  Bare tags come as tokens of their own: what follows goes into the element until it is closed.
function inlines(tokens) {
  const root = make("span"), open = [root];
  for (const token of tokens) {
    const tag = token.type === "html" ? BARE.exec(token.text) : null, last = open[open.length - 1];
    if (!tag) {
      last.append(inline[token.type]?.(token) ?? token.raw);
    } else if (tag[2].toLowerCase() === "br") {
      last.append(make("br"));
    } else if (!tag[1]) {
      open.push(make(tag[2]));
      last.append(open[open.length - 1]);
    } else if (open.length > 1 && last.localName === tag[2].toLowerCase()) {
      open.pop();
    }
  }
  return [...root.childNodes];
}

const inline = {
  text: token => (token.tokens ? wrap(inlines(token.tokens)) : plain(token.text)),
  escape: token => plain(token.text),
  strong: token => make("strong", {}, ...inlines(token.tokens)),
  em: token => make("em", {}, ...inlines(token.tokens)),
  del: token => make("del", {}, ...inlines(token.tokens)),
  codespan: token => make("code", {}, plain(token.text)),
  br: () => make("br"),
  link: token => link(token.href, inlines(token.tokens)),
  image: token => link(token.href, [plain(token.text || token.href)]),
  formula: typeset,
};

function wrap(nodes) {
  const fragment = document.createDocumentFragment();
  fragment.append(...nodes);
  return fragment;
}

const blocks = {
  heading: token => make("h" + token.depth, {}, ...inlines(token.tokens)),
  paragraph: token => make("p", {}, ...inlines(token.tokens)),
  text: inline.text,
  blockquote: token => make("blockquote", {}, ...blockList(token.tokens)),
  hr: () => make("hr"),
  html: token => make("p", { className: "raw" }, token.text.trim()),
  formula: typeset,
  code: codeBlock,
  list: token => make(token.ordered ? "ol" : "ul", token.ordered && token.start !== 1 ? { start: token.start } : {}, ...token.items.map(listItem)),
  table,
};

const blockList = tokens => tokens.filter(x => x.type !== "space" && x.type !== "def").map(x => blocks[x.type]?.(x) ?? make("p", {}, x.raw));

function listItem(item) {
  const box = item.task ? make("input", { type: "checkbox", checked: item.checked, disabled: true }) : null;
  return make("li", {}, box, ...blockList(item.tokens));
}

function table(token) {
  const cell = tag => (c, i) => make(tag, { align: token.align[i] ?? "" }, ...inlines(c.tokens));
  const row = tag => cells => make("tr", {}, ...cells.map(cell(tag)));
  return make("div", { className: "table", tabIndex: 0 }, make("table", {}, make("thead", {}, row("th")(token.header)),
    make("tbody", {}, ...token.rows.map(row("td")))));
}

// --- formulas and code, whose libraries are loaded when the first one comes ----------------------

function typeset({ tex, display }) {
  const span = make("span", { className: display ? "math display" : "math" }, tex);
  import("./vendor/katex.js").then(() => window.katex.render(tex, span, { displayMode: display, throwOnError: false, trust: false,
    strict: "ignore", maxExpand: 1000, maxSize: 30 }));
  return span;
}

function codeBlock({ text, lang }) {
  const language = (lang ?? "").match(/^\S*/)[0], code = make("code", {}, text);
  code.dataset.language = language;
  const head = make("div", { className: "code-head" }, make("span", {}, language), copyButton(t("copy"), () => text, t("copied")));
  return make("div", { className: "code" }, head, make("pre", { tabIndex: 0 }, code));
}

const LONG = 100000;  // characters of code that are left without colours

// highlight.js gives HTML of one form only, which is read here: spans with a class, and text.
async function highlight(code) {
  const { language } = code.dataset, text = code.textContent;
  if (!language || text.length > LONG) return;
  await import("./vendor/highlight.js");
  if (!window.hljs.getLanguage(language)) return;
  const open = [document.createDocumentFragment()];
  for (const m of window.hljs.highlight(language, text, true).value.matchAll(/<span class="([^"]*)">|(<\/span>)|([^<]+)/g)) {
    if (m[3]) open[open.length - 1].append(plain(m[3]));
    else if (m[2]) open.pop();
    else open.push(open[open.length - 1].appendChild(make("span", { className: m[1] })));
  }
  if (open[0].textContent === text) code.replaceChildren(open[0]);
}

// Keeps `container` showing a text that grows.  Blocks (paragraphs, lists ...) that have not changed are left alone, so
// that a long answer costs no more than its last block and a selection in it survives.
export class Markdown {
  #container;
  #blocks = [];  // {raw, done, element}

  constructor(container) {
    this.#container = container;
  }

  show(text, complete) {
    const tokens = marked.lexer(text).filter(token => token.type !== "space" && token.type !== "def");
    tokens.forEach((token, i) => {
      const done = complete || i < tokens.length - 1, old = this.#blocks[i];
      if (old && old.raw === token.raw && old.done === done) return;
      const element = make("div", { className: "block" }, ...blockList([token]));
      if (old) old.element.replaceWith(element); else this.#container.append(element);
      this.#blocks[i] = { raw: token.raw, done, element };
      if (done) element.querySelectorAll("pre code").forEach(highlight);
    });
    for (const b of this.#blocks.splice(tokens.length)) b.element.remove();
  }
}
