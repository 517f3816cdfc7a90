// Derives sums, shares and sentences from the panels.

import { formats as f } from "/static/format.js";

const FEW = 10;

const plural = (count, one, many) => `${f.int(count)} ${count === 1 ? one : many}`;

function funnel(panels, minutes) {
  const row = panels.live?.funnel?.find((each) => each.minutes === minutes);
  if (!row) return undefined;
  const step = (name, count) => ({ name, count, share: row.viewed ? count / row.viewed : 0 });
  return {
    steps: [step("Viewed", row.viewed), step("Added to cart", row.carted), step("Bought", row.bought_from_cart)],
    note: `${plural(row.sessions, "session", "sessions")}; ${f.int(row.bought_without_cart)} more bought without a cart event.`,
  };
}

function parts(rows) {
  const most = Math.max(1, ...(rows ?? []).map((row) => Number(row.views)));
  return (rows ?? []).map((row) => ({ ...row, part: Number(row.views) / most }));
}

function engine(health) {
  if (!health || health.error) return { level: "quiet", words: "Engine: unknown" };
  return health.engine_running ? { level: "good", words: "Engine running" } : { level: "warn", words: "Engine not running" };
}

function tiles(panels) {
  const { incidents, live, health, reports } = panels;
  const hour = live?.funnel?.find((row) => row.minutes === 60);
  const day = reports?.unique_visitors?.rows?.at(-1);
  const found = {
    incidents_level: incidents?.ongoing ? "critical" : "good",
    incidents: "none yet", sessions: "no sessions yet", bought: "", carts: "", visitors_note: "no reports yet", lag: "",
  };
  if (incidents?.counts) {
    const worst = incidents.rows.find((row) => row.state === "open");
    found.incidents = worst ? `newest: ${worst.severity}` : `${f.int(incidents.total)} in total`;
    found.incidents_long = `${f.int(incidents.counts.open)} open, ${f.int(incidents.counts.acknowledged)} acknowledged, ${f.int(incidents.counts.closed)} closed, ${f.int(incidents.counts.resolved)} resolved, ${f.int(incidents.counts.false_positive)} false positives. Event times, UTC.`;
  }
  if (live?.sessions) {
    found.sessions = `${plural(live.sessions.active, "active session", "active sessions")}, ${f.int(live.sessions.with_cart)} with a cart`;
    found.carts = `${plural(live.carts.lines, "product", "products")} in ${plural(live.carts.carts, "cart", "carts")}, last 24 h`;
  }
  if (hour) {
    found.conversion = hour.sessions ? hour.bought / hour.sessions : 0;
    found.bought = `${f.int(hour.bought)} of ${plural(hour.sessions, "session", "sessions")}`;
  }
  if (day) {
    found.visitors = day.visitors;
    found.visitors_note = `${f.day(day.shop_date)}, ${f.share(day.buyer_share)} bought`;
  }
  if (health?.counters) {
    found.lag = health.lag_ms ? `oldest uncommitted record: ${f.lag(health.lag_ms)} old` : health.stream ? "all committed" : "no stream yet";
  }
  return found;
}

export function derive(panels, choice) {
  const { health, incidents, live, reports } = panels;
  const rows = incidents?.rows ?? [];
  const shown = choice.allIncidents ? rows : rows.slice(0, FEW);
  const kept = health?.counters?.events_kept ?? 0;
  const behind = reports?.scope ? kept - reports.scope.in_lake : 0;
  const top = live?.top?.[choice.span] ?? {};
  const scope = reports?.scope;
  return {
    ...panels,
    engine: engine(health),
    tiles: tiles(panels),
    is_new: health && !health.error && !health.checkpoint && !live && !reports && !incidents?.total,
    no_incidents: incidents?.started && !incidents.total,
    shown_incidents: shown,
    more_incidents: rows.length > shown.length ? `Show ${f.int(rows.length - shown.length)} more` : "",
    cut_incidents: incidents?.total > rows.length ? `${f.int(rows.length)} of ${f.int(incidents.total)} incidents shown;` : "",
    no_live: live === null,
    funnel15: funnel(panels, 15),
    funnel60: funnel(panels, 60),
    shown_top: { products: parts(top.products), categories: parts(top.categories), brands: parts(top.brands) },
    session_note: live?.sessions ? `${f.int(live.sessions.bought)} of ${plural(live.sessions.active, "active session", "active sessions")} have bought.` : "",
    cart_note: live?.carts ? "Carts of the last 24 hours, counting one piece of each product." : "",
    no_reports: reports === null,
    reports_behind: behind > 0 ? `${plural(behind, "event was", "events were")} stored since the last build; rebuild the reports:` : "",
    report_scope: scope
      ? `${f.int(scope.events - scope.bot_events)} events of ${f.int(scope.visitors)} visitors${scope.first_event_at ? `, ${f.short(scope.first_event_at)} to ${f.short(scope.last_event_at)}` : ""}. Shop time (${scope.timezone}); built ${f.moment(scope.built_at)} UTC.${scope.bot_events ? ` Excluded as bots: ${plural(scope.bot_events, "event", "events")} and ${plural(scope.bot_visitors, "visitor", "visitors")} (verdicts on ${plural(scope.bot_actors, "actor", "actors")}).` : ""}`
      : "",
    categories: parts(reports?.categories),
    brands_to_market: (reports?.brand_marketing?.rows ?? []).filter((row) => row.needs_marketing),
    pipeline_note: health?.counters ? "Figures of the last checkpoint: read = stored + duplicates + dead letters." : "",
    checkpoint_note: health?.committed_at ? `made ${f.moment(health.committed_at)} UTC` : "none yet",
    stopped: health && !health.error && !health.engine_running,
  };
}
