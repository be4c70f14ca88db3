// Numbers and times for people.

const whole = new Intl.NumberFormat('en', {maximumFractionDigits: 0});
const units = [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M']];

export const NOTHING = '–';

export function integer(value) {
  return value === null || value === undefined ? NOTHING : whole.format(value);
}

/** 1,234 · 12.3 k · 4.56 M, as the figures have them. */
export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  for (const [size, unit] of units) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  if (Math.abs(value) >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return whole.format(value);
}

/** Four significant digits, with an exponent for what is tiny or huge. */
export function real(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(1).replace('e-', 'e−');
  return String(Number(value.toPrecision(4)));
}

export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 120) return `${Number(value.toPrecision(3))} s`;
  return `${Number((value / 60).toPrecision(3))} min`;
}

export function plural(number, word, many = `${word}s`) {
  return `${integer(number)} ${number === 1 ? word : many}`;
}

export function clock(date) {
  return date.toLocaleTimeString('en-GB');
}

const day = new Intl.DateTimeFormat('en-GB', {day: 'numeric', month: 'short'});
const full = new Intl.DateTimeFormat('en-GB', {dateStyle: 'full', timeStyle: 'long'});

/** A time in seconds since 1970 as 24 Nov 09:30, and in full; both local. */
export function moment(value) {
  const date = new Date((value || NaN) * 1000);
  if (Number.isNaN(date.getTime())) return {short: NOTHING, full: ''};
  return {short: `${day.format(date)} ${clock(date).slice(0, 5)}`, full: full.format(date)};
}

/** "1.2 k → 3.4 k", or one number if they are the same. */
export function change(before, after, show = count) {
  return before === after ? show(after) : `${show(before)} → ${show(after)}`;
}
