// Small helpers for elements.  Nothing here, and nothing that uses it, turns a text into HTML.

export const $ = id => document.getElementById(id);

// make("button", {className: "x", onclick: fn, ariaLabel: "Copy"}, "text", child...)
export function make(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(e.dataset, value); else e[name] = value;
  }
  e.append(...children.filter(c => c !== null && c !== undefined));
  return e;
}

// Says it to screen readers.
export function say(text) {
  $("live").textContent = text;
}

// Opens a <dialog>; resolves to the value of the button that closed it ("" when dismissed).  Cancel is no submit button:
// Enter in a field would press the first of these.
export function openDialog(dialog) {
  return new Promise(resolve => {
    dialog.returnValue = "";
    const cancel = dialog.querySelector(".cancel");
    if (cancel) cancel.onclick = () => dialog.close("");
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}

export function confirmed(text) {
  $("confirm-text").textContent = text;
  return openDialog($("confirm")).then(v => v === "ok");
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// The clipboard needs a secure context; over plain HTTP from another machine the old way still works.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text, className: "only-read" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
