// Formats JSON values as text.

const integer = new Intl.NumberFormat("en");
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const money0 = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const share = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

const zoned = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
const moment = zoned({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const short = zoned({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const clock = zoned({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = zoned({ weekday: "short", day: "numeric", month: "short", year: "numeric" });

// A time without a zone is the shop's wall clock: shown unchanged, never converted to the viewer's zone.
const date = (text) => new Date(/Z$|[+-]\d\d:\d\d$|^\d{4}-\d\d-\d\d$/.test(text) ? text : `${text}Z`);

function span(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export const formats = {
  int: (value) => integer.format(value),
  money: (value) => money.format(value),
  money0: (value) => money0.format(value),
  money_or_dash: (value) => (Number(value) ? money.format(value) : "–"),
  share: (value) => share.format(value),
  moment: (value) => moment.format(date(value)),
  short: (value) => short.format(date(value)),
  time: (value) => clock.format(date(value)),
  day: (value) => day.format(date(value)),
  hour: (value) => `${String(value).padStart(2, "0")}:00`,
  id: (value) => String(value),
  words: (value) => String(value).replaceAll("_", " "),
  or_dash: (value) => (value === null || value === "" ? "–" : String(value)),
  lag: (value) => (value ? span(value / 1000) : "none"),
  span,
};

export function write(value, format) {
  if (format && formats[format] && (value !== null || format === "or_dash") && value !== undefined) return formats[format](value);
  return value === null || value === undefined ? (format ? "–" : "") : String(value);
}
