// Tokens with their probabilities: pointed at, with the pointer or the arrow keys, they show what else was likely.
import { $, make } from "./dom.js";
import { t } from "./i18n.js";

const percent = logprob => Math.exp(logprob) * 100;
const percentText = p => (p >= 99.95 ? "100" : p < 0.01 ? "<0.01" : p.toFixed(p < 1 ? 2 : 1)) + " %";
const visible = token => token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣") || "∅";

// rows: [token, logprob, [[token, logprob]...]].  Five steps of likelihood; the tip says the rest.
export function tokenSpans(rows) {
  const box = make("div", { className: "tokens", tabIndex: 0, role: "group", ariaLabel: t("tokens") });
  for (const row of rows) {
    const p = percent(row[1]), step = [90, 60, 30, 10].findIndex(limit => p >= limit);
    const span = make("span", { className: `token p${step < 0 ? 4 : step}` }, row[0]);
    span.row = row;
    box.append(span);
  }
  return box;
}

function bar(part) {
  const fill = make("i");
  fill.style.width = part + "%";
  return make("span", { className: "bar", ariaHidden: "true" }, fill);
}

function fillTip(tip, row) {
  const [token, logprob, others] = row;
  const line = ([text, lp], chosen) => make("tr", { className: chosen ? "chosen" : "" }, make("td", {}, visible(text)),
    make("td", {}, percentText(percent(lp))), make("td", {}, bar(percent(lp))));
  const among = others.some(o => o[0] === token);
  tip.replaceChildren(make("table", {}, ...(among ? [] : [line([token, logprob], true)]),
    ...others.map(o => line(o, o[0] === token))));
}

let at = null;

function hide() {
  $("tip").hidden = true;
  at?.classList.remove("at");
  at = null;
}

function show(span) {
  if (at === span) return;
  hide();
  at = span;
  span.classList.add("at");
  const tip = $("tip"), box = span.getBoundingClientRect();
  fillTip(tip, span.row);
  tip.hidden = false;
  const below = box.bottom + 6 + tip.offsetHeight < innerHeight;
  tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (below ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + "px";
}

export function startTips(root) {
  root.addEventListener("pointerover", e => (e.target.classList.contains("token") ? show(e.target) : hide()));
  root.addEventListener("pointerdown", e => e.target.classList.contains("token") && show(e.target));
  root.addEventListener("pointerleave", hide);
  $("scroll").addEventListener("scroll", hide);
  root.addEventListener("focusout", hide);
  root.addEventListener("keydown", e => {
    const box = e.target, by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!by || !box.classList.contains("tokens")) return;
    e.preventDefault();
    const all = box.children, i = at?.parentElement === box ? [...all].indexOf(at) + by : 0;
    if (all[i]) {
      all[i].scrollIntoView({ block: "nearest" });
      show(all[i]);
    }
  });
}
