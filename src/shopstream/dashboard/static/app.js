// The page: shows the panels it was served with, then updates from the live feed.

import { bind } from "/static/bind.js";
import { drawReports } from "/static/charts.js";
import { derive } from "/static/state.js";

const PANELS = ["health", "incidents", "live", "reports", "failure"];
const RETRY_MS = 5000;

const texts = JSON.parse(document.getElementById("panels").textContent);
const panels = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, JSON.parse(text)]));
const choice = { span: "60m", allIncidents: false };

let scheduled = false;
function show() {
  if (scheduled) return; // bind several changed panels at once
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    bind(document, derive(panels, choice));
    const open = panels.incidents?.ongoing ?? 0;
    document.title = open ? `(${open}) shopstream` : "shopstream";
  });
}

function connection(level, words) {
  const badge = document.getElementById("connection");
  badge.dataset.level = level;
  badge.lastElementChild.textContent = words;
}

function watch() {
  const feed = new EventSource("/events");
  feed.onopen = () => connection("good", "live");
  feed.onerror = () => {
    if (feed.readyState !== EventSource.CLOSED) {
      connection("warn", "reconnecting");
      return;
    }
    connection("warn", "disconnected: open the printed address again");
    setTimeout(watch, RETRY_MS);
  };
  for (const name of PANELS) {
    feed.addEventListener(name, (message) => {
      if (texts[name] === message.data) return;
      texts[name] = message.data;
      panels[name] = JSON.parse(message.data);
      show();
      if (name === "reports") drawReports(panels.reports);
    });
  }
}

document.addEventListener("change", (event) => {
  if (event.target.name !== "span") return;
  choice.span = event.target.value;
  show();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "all-incidents") {
    choice.allIncidents = true;
    show();
  } else if (button.matches(".toggle")) {
    const detail = button.closest("tbody").querySelector(".detail");
    detail.hidden = !detail.hidden;
    button.setAttribute("aria-expanded", String(!detail.hidden));
  } else if (button.matches(".copy")) {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
});

const redraw = () => drawReports(panels.reports);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const radio of document.querySelectorAll("input[name=span]")) if (radio.checked) choice.span = radio.value;
show();
redraw();
watch();
