// The read-out of `minke train report`: the step under the pointer, in all charts at once.  The page is complete without.
(() => {
  "use strict";
  const [x0, x1, , charts] = JSON.parse(document.getElementById("data").textContent);
  const smooth = document.getElementById("smooth");
  const SHARE = 2;  // a unit, see report_int.h
  const NARROW = "\u202f";

  // As mk_rep_number does it.
  const digits = (v, n) => String(Number(v.toPrecision(n)));
  const exponent = a => a.toExponential(2).replace(/\.?0*e\+?/, "e");
  function plain(a) {
    if (a !== 0 && (a < 1e-3 || a >= 1e15)) return exponent(a);
    for (const [from, by, name] of [[999999.5e6, 1e12, "T"], [999999.5e3, 1e9, "G"], [999999.5, 1e6, "M"]]) {
      if (a >= from) return digits(a / by, 4) + NARROW + name;
    }
    return a >= 999.95 ? Math.round(a).toLocaleString("en-US") : digits(a, 4);
  }
  function share(p) {
    const text = p !== 0 && (p < 1e-3 || p >= 1e6) ? exponent(p) : p < 999.5 ? digits(p, p < 10 ? 2 : 3) : p.toFixed(0);
    return text + NARROW + "%";
  }
  const number = (v, unit) => (v < 0 ? "\u2212" : "") + (unit === SHARE ? share(100 * Math.abs(v)) : plain(Math.abs(v)));

  function nearest(steps, step) {
    let lo = 0, hi = steps.length - 1;
    while (hi - lo > 1) {
      const mid = (lo + hi) >> 1;
      if (steps[mid] <= step) lo = mid; else hi = mid;
    }
    return step - steps[lo] <= steps[hi] - step ? lo : hi;
  }

  function make(parent, tag, name) {
    const e = document.createElement(tag);
    e.className = name;
    e.hidden = true;
    return parent.appendChild(e);
  }

  const all = [...document.querySelectorAll(".chart")].map((figure, i) => {
    const [unit, log, lo, hi, ...series] = charts[i];
    const plot = figure.querySelector(".plot"), keys = figure.querySelectorAll(".key");
    const chart = {
      unit, plot,
      height: log ? v => Math.log(Math.max(v, lo) / lo) / Math.log(hi / lo) : v => (v - lo) / (hi - lo),
      cursor: make(plot, "div", "cursor"),
      at: make(plot, "span", "at"),
    };
    chart.series = series.map(([deltas, values, means], k) => {
      let sum = 0;
      const hue = (figure.querySelectorAll("svg > .raw, svg > .line, svg > .thin")[k].getAttribute("class").match(/h\d/) || ["h0"])[0];
      const run = keys[k].className.replace("key ", "");
      return {
        steps: deltas.map(d => sum += d), values, means,
        text: keys[k].querySelector("b"), last: keys[k].querySelector("b").textContent,
        dot: make(plot, "div", "dot " + hue + " " + run),
      };
    });
    return chart;
  });

  let shown = null;  // the step
  const place = step => x1 > x0 ? 100 * (step - x0) / (x1 - x0) : 50;

  function showIn(chart, step) {
    for (const s of chart.series) {
      const i = nearest(s.steps, step);
      const v = smooth.checked && s.means.length ? s.means[i] : s.values[i];
      const y = chart.height(v);
      // a run that ended long before has nothing to say here
      const there = step >= s.steps[0] - 1 && step <= s.steps[s.steps.length - 1] + 1;
      s.text.textContent = there ? number(v, chart.unit) : "\u2013";
      s.dot.hidden = !there || y < -0.02 || y > 1.02;
      s.dot.style.left = place(s.steps[i]) + "%";
      s.dot.style.top = 100 * (1 - y) + "%";
    }
    chart.cursor.hidden = chart.at.hidden = false;
    chart.cursor.style.left = chart.at.style.left = place(step) + "%";
    chart.at.textContent = "step " + Math.round(step).toLocaleString("en-US");
  }

  function hide() {
    shown = null;
    for (const chart of all) {
      chart.cursor.hidden = chart.at.hidden = true;
      for (const s of chart.series) {
        s.dot.hidden = true;
        s.text.textContent = s.last;
      }
    }
  }

  function show(step) {
    shown = Math.min(Math.max(Math.round(step), x0), x1);
    for (const chart of all) showIn(chart, shown);
  }

  for (const { plot, series } of all) {
    const follow = e => {
      const box = plot.getBoundingClientRect();
      show(x0 + (e.clientX - box.left) / box.width * (x1 - x0));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", e => e.pointerType === "mouse" && hide());
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", e => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[e.key];
      if (e.key === "Escape") hide();
      if (!by) return;
      e.preventDefault();
      const s = series[0].steps;
      const i = shown === null ? s.length - 1 : nearest(s, shown);
      show(s[Math.min(Math.max(i + by, 0), s.length - 1)]);
    });
  }
  smooth.addEventListener("change", () => shown !== null && show(shown));
})();
