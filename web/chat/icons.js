// The signs on buttons: lines on a grid of 24, in the colour of the text beside them.
import { copy, make, say } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

const paths = {
  panel: "M6.5 5h11A2.5 2.5 0 0 1 20 7.5v9a2.5 2.5 0 0 1-2.5 2.5h-11A2.5 2.5 0 0 1 4 16.5v-9A2.5 2.5 0 0 1 6.5 5zM9.5 5v14",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  sliders: "M4 8h8M16.5 8H20M4 16h3.5M12 16h8M14.25 5.75a2.25 2.25 0 1 1 0 4.5 2.25 2.25 0 0 1 0-4.5zM9.75 13.75a2.25 2.25 0 1 1 0 4.5 2.25 2.25 0 0 1 0-4.5z",
  pencil: "M4.5 19.5l1-4.2L16 4.8a2.26 2.26 0 0 1 3.2 3.2L8.7 18.5zM14 6.8l3.2 3.2",
  trash: "M5 7h14M9.5 7V4.5h5V7M7 7l.8 12.5h8.4L17 7M10.3 10.5v5.5M13.7 10.5v5.5",
  up: "M12 19V5.5M6 11.2l6-6 6 6",
  down: "M12 5v13.5M6 12.8l6 6 6-6",
  stop: "M8 7h8a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H8a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1z",
  plus: "M12 5.5v13M5.5 12h13",
  copy: "M11 8.5h6A2.5 2.5 0 0 1 19.5 11v6a2.5 2.5 0 0 1-2.5 2.5h-6A2.5 2.5 0 0 1 8.5 17v-6A2.5 2.5 0 0 1 11 8.5zM5.5 15.5A2 2 0 0 1 4.5 13.7V7A2.5 2.5 0 0 1 7 4.5h6.7a2 2 0 0 1 1.8 1",
  check: "M5 12.8l4.5 4.5L19 7.3",
  again: "M19.5 12a7.5 7.5 0 1 1-2.6-5.7M17.3 2.8v3.9h-3.9",
  clip: "M19.3 11.3l-7.4 7.4a4.6 4.6 0 0 1-6.5-6.5l7.8-7.8a3.1 3.1 0 0 1 4.4 4.4l-7.5 7.5a1.56 1.56 0 0 1-2.2-2.2l6.8-6.8",
  file: "M7.5 3.5h6L18.5 8.5v10.5a1.5 1.5 0 0 1-1.5 1.5H7.5A1.5 1.5 0 0 1 6 19V5a1.5 1.5 0 0 1 1.5-1.5zM13.2 3.8v5h5",
  save: "M12 4v10.5M7.3 10.2l4.7 4.7 4.7-4.7M5 19.5h14",
  load: "M12 15V4.5M7.3 9l4.7-4.7L16.7 9M5 19.5h14",
  left: "M14.5 6l-6 6 6 6",
  right: "M9.5 6l6 6-6 6",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "sign " + name);
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", paths[name]);
  svg.append(path);
  return svg;
}

// A button that is only a sign: its name is said to screen readers and shown when it is pointed at.
export function iconButton(name, label, onclick, more = {}) {
  return make("button", { type: "button", className: "tool", ariaLabel: label, title: label, onclick, ...more }, icon(name));
}

// Elements with data-icon get their sign in front.
export function drawIcons(root) {
  for (const e of root.querySelectorAll("[data-icon]")) e.prepend(icon(e.dataset.icon));
}

// A button that copies and says for a while that it has.  `bare`: a sign without its word.
export function copyButton(text, getText, copied, bare) {
  const b = make("button", { type: "button", className: "tool" });
  const draw = (sign, word) => {
    b.replaceChildren(icon(sign), ...(bare ? [] : [make("span", {}, word)]));
    if (bare) b.ariaLabel = b.title = word;
  };
  b.onclick = async () => {
    await copy(getText());
    draw("check", copied);
    say(copied);
    setTimeout(() => draw("copy", text), 1500);
  };
  draw("copy", text);
  return b;
}
