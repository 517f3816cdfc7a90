// Binds values to elements by their data attributes. Texts of events are untrusted: they only become textContent,
// a data attribute or a bar's width, never markup.

import { write } from "/static/format.js";

const BOUND = "[data-text],[data-show],[data-hide],[data-level-from],[data-bar]";

function resolve(scope, path) {
  return path.split(".").reduce((value, name) => (value === null || value === undefined ? undefined : value[name]), scope);
}

function isTruthy(value) {
  return Array.isArray(value) ? value.length > 0 : Boolean(value);
}

// Lets long names break after a dot; the copied text stays the same.
function breakable(element, text) {
  element.replaceChildren(...text.split(/(?<=[._])/).flatMap((part) => [part, document.createElement("wbr")]));
}

function set(element, scope) {
  const wants = element.dataset;
  if (wants.text !== undefined) {
    const [path, format] = wants.text.split(":");
    const text = write(resolve(scope, path), format);
    if (element.textContent !== text) format === "code" ? breakable(element, text) : (element.textContent = text);
  }
  if (wants.show !== undefined) element.hidden = !isTruthy(resolve(scope, wants.show));
  if (wants.hide !== undefined) element.hidden = isTruthy(resolve(scope, wants.hide));
  if (wants.levelFrom !== undefined) {
    const level = String(resolve(scope, wants.levelFrom) ?? "");
    if (wants.level !== level) wants.level = level;
  }
  if (wants.bar !== undefined) {
    element.style.setProperty("--part", Math.max(0, Math.min(1, Number(resolve(scope, wants.bar)) || 0)));
  }
}

// Rows with the same key keep their element: opened details stay open, a selection stays selected.
function fill(list, rows) {
  const template = document.getElementById(list.dataset.row).content.firstElementChild;
  const fields = list.dataset.key.split(",");
  const known = new Map();
  for (const child of list.children) if (child.dataset.rowKey !== undefined) known.set(child.dataset.rowKey, child);
  let place = [...list.children].find((child) => child.dataset.rowKey !== undefined) ?? null;
  for (const row of rows) {
    const key = fields.map((field) => row[field]).join("\u001f");
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = template.cloneNode(true);
      element.dataset.rowKey = key;
      list.insertBefore(element, place);
    } else if (element === place) {
      place = place.nextElementSibling;
    } else {
      list.insertBefore(element, place);
    }
    for (const child of element.querySelectorAll(BOUND)) set(child, row);
  }
  for (const gone of known.values()) gone.remove();
}

export function bind(root, state) {
  for (const element of root.querySelectorAll(BOUND)) if (!element.closest("[data-row-key]")) set(element, state);
  for (const list of root.querySelectorAll("[data-rows]")) {
    const rows = resolve(state, list.dataset.rows) ?? [];
    fill(list, rows.slice(0, Number(list.dataset.max ?? rows.length)));
  }
}
