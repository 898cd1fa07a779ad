// Runs before the first paint, so that a page in dark does not flash in light.
{
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem("minke.settings")) || {}; } catch { /* no storage: the system's theme */ }
  if (kept.theme === "dark" || kept.theme === "light") document.documentElement.dataset.theme = kept.theme;
}
