// Charts of the four reports. Plotly interprets some markup, so texts of events are escaped.

import { formats as f } from "/static/format.js";

const plain = (text) => String(text ?? "").replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const CONFIG = { displayModeBar: false, responsive: true };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function layout(more) {
  const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    height: 300,
    margin: { l: 48, r: 12, t: 8, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: colour("ink-2") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    bargap: 0.3,
    ...rest,
    xaxis: { ...axis, fixedrange: true, ...xaxis },
    yaxis: { ...axis, fixedrange: true, rangemode: "tozero", ...yaxis },
  };
}

function days(rows) {
  return {
    type: "category",
    tickvals: rows.map((row) => row.shop_date),
    ticktext: rows.map((row) => f.day(row.shop_date).replace(innerWidth < 600 ? /^\w+, | \w+ \d{4}$/g : / \w+ \d{4}$/, "")),
    ...(rows.length > 10 ? { tickvals: undefined, ticktext: undefined, nticks: 8 } : {}),
    tickangle: 0,
    showgrid: false,
  };
}

function visitors(reports) {
  const rows = reports.unique_visitors.rows;
  const x = rows.map((row) => row.shop_date);
  const bars = (name, field, tone) => ({
    type: "bar", name, x, y: rows.map((row) => row[field]), width: rows.length < 4 ? 0.35 : undefined, marker: { color: colour(tone) }, hovertemplate: `%{y:,} ${name.toLowerCase()}<extra></extra>`,
  });
  return [[bars("Returning", "returning_visitors", "series-2"), bars("New", "new_visitors", "series-1")], layout({ barmode: "stack", hovermode: "x unified", xaxis: days(rows) })];
}

function carts(reports) {
  const rows = reports.cart_days;
  const x = rows.map((row) => row.shop_date);
  const bars = (name, field, tone) => ({
    type: "bar", name, x, y: rows.map((row) => Number(row[field])), marker: { color: colour(tone) }, hovertemplate: `%{y:,.0f} ${name.toLowerCase()}<extra></extra>`,
  });
  return [[bars("Abandoned", "abandoned_value", "series-3"), bars("Bought later", "bought_value", "series-1")], layout({ barmode: "group", hovermode: "x unified", xaxis: days(rows) })];
}

function hours(reports) {
  const present = [...new Set(reports.slots.map((slot) => slot.weekday))].sort((a, b) => b - a); // Monday on top
  const at = new Map(reports.slots.map((slot) => [`${slot.weekday} ${slot.hour}`, slot]));
  const cell = (read) => present.map((weekday) => Array.from({ length: 24 }, (_, hour) => read(at.get(`${weekday} ${hour}`))));
  const trace = {
    type: "heatmap",
    x: Array.from({ length: 24 }, (_, hour) => f.hour(hour)),
    y: present.map((weekday) => WEEKDAYS[weekday - 1]),
    z: cell((slot) => (slot ? Number(slot.slot_views) / slot.days : null)),
    customdata: cell((slot) => (slot ? [plain(slot.category), f.int(slot.views), slot.days] : ["", "", ""])),
    hovertemplate: "%{y} %{x}<br>%{z:,.0f} views per hour<br>top category: %{customdata[0]} (%{customdata[1]} views)<extra></extra>",
    colorscale: [[0, colour("heat-0")], [0.5, colour("heat-1")], [1, colour("heat-2")]],
    xgap: 2, ygap: 2, hoverongaps: false, showscale: innerWidth > 600, colorbar: { title: { text: "views/h", side: "top" }, thickness: 10, outlinewidth: 0, tickformat: ",.0f" },
  };
  return [[trace], layout({ height: 90 + 32 * Math.max(present.length, 2), margin: { l: 8, r: 8, t: 12, b: 30 }, xaxis: { showgrid: false, type: "category" }, yaxis: { showgrid: false, type: "category", rangemode: "normal" } })];
}

const LABELS = 4;
const VERDICTS = [
  ["in_line", "Near the median", "ink-3", "circle", 7],
  ["seen_not_bought", "Viewed, not bought", "series-3", "diamond", 11],
  ["bought_not_seen", "Bought, rarely viewed", "series-1", "triangle-up", 12],
];

function brands(reports) {
  const traces = VERDICTS.map(([verdict, name, tone, symbol, size]) => {
    const rows = reports.brands.filter((row) => row.verdict === verdict);
    const named = (_row, place) => verdict !== "in_line" && place < LABELS; // label the most visited ones; more would overlap
    return {
      type: "scatter", mode: "markers+text", name,
      x: rows.map((row) => row.visitors), y: rows.map((row) => row.conversion), customdata: rows.map((row) => plain(row.brand)),
      text: rows.map((row, place) => (named(row, place) ? plain(row.brand) : "")),
      textposition: rows.map((_row, place) => (place % 2 ? "bottom center" : "top center")), cliponaxis: false,
      marker: { color: colour(tone), symbol, size, opacity: verdict === "in_line" ? 0.55 : 0.95, line: { width: 0 } },
      hovertemplate: "%{customdata}<br>%{x:,} visitors<br>%{y:.1%} bought<extra></extra>",
    };
  });
  const median = reports.brands[0]?.median_conversion;
  const shapes = median ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: median, y1: median, line: { color: colour("ink-3"), dash: "dot", width: 1 } }] : [];
  const annotations = median ? [{ xref: "paper", x: 1, y: median, xanchor: "right", yanchor: "bottom", showarrow: false, text: `shop median ${f.share(median)}`, font: { color: colour("ink-2") } }] : [];
  return [traces, layout({ height: 360, margin: { l: 56, r: 16, t: 8, b: 44 }, shapes, annotations, xaxis: { type: "log", title: { text: "visitors (log scale)" }, dtick: 1 }, yaxis: { tickformat: ".0%", title: { text: "conversion" } } })];
}

const CHARTS = { "chart-visitors": visitors, "chart-carts": carts, "chart-hours": hours, "chart-brands": brands };

export function drawReports(reports) {
  if (!reports?.scope || !window.Plotly) return;
  // Sections are visible and have their width only after the next frame.
  requestAnimationFrame(() => setTimeout(() => {
    for (const [id, figure] of Object.entries(CHARTS)) {
      const [traces, shape] = figure(reports);
      window.Plotly.react(id, traces, shape, CONFIG);
    }
  }));
}
