// What the user chose. It lives in TensorBoard's address, so that a link shows the same again.

export const VIEWS = ['growth', 'costs', 'widths', 'why', 'runs', 'network'];

const DEFAULTS = {
  view: 'growth',
  filter: '', // a regular expression for names of runs
  only: null, // names: these runs are chosen, and no others
  hidden: [], // ... or all but these
  x: 'step',
  metric: 'loss',
  smoothing: 0.6,
  log: false,
  run: null, // of the views of one run
  step: null,
  site: null,
  find: '', // in the table of growths
  sort: '-time',
};

const CHOICES = {view: VIEWS, x: ['step', 'time', 'parameters', 'flops']};

const NAME = 'keras_grow';
const LONGEST = 6000; // an address should stay one

function read(name, text) {
  switch (name) {
    case 'only':
    case 'hidden':
      return text === '' ? [] : text.split(',').map(decodeURIComponent);
    case 'smoothing': {
      const number = Number(text);
      return Number.isFinite(number) ? Math.min(Math.max(number, 0), 0.99) : DEFAULTS.smoothing;
    }
    case 'log':
      return text === '1';
    case 'step': {
      const number = Number(text);
      return Number.isSafeInteger(number) ? number : null;
    }
    default:
      return CHOICES[name] && !CHOICES[name].includes(text) ? DEFAULTS[name] : text;
  }
}

function write(name, value) {
  if (Array.isArray(value)) return value.map(encodeURIComponent).join(',');
  return name === 'log' ? '1' : String(value);
}

function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

function parse(hash) {
  const found = {...DEFAULTS};
  const [name, ...parts] = hash.replace(/^#/, '').split('&');
  if (name !== NAME) return null;
  for (const part of parts) {
    const cut = part.indexOf('=');
    const key = part.slice(0, cut);
    if (cut < 1 || !Object.hasOwn(DEFAULTS, key)) continue;
    try {
      found[key] = read(key, decodeURIComponent(part.slice(cut + 1)));
    } catch {
      // No text that was ever encoded: the default stays.
    }
  }
  return found;
}

export class State {
  constructor(host) {
    this.host = host;
    this.listeners = [];
    Object.assign(this, DEFAULTS, parse(host.location.hash) ?? {});
    host.addEventListener('hashchange', () => {
      const found = parse(host.location.hash);
      if (found) this.set(found);
    });
  }

  /** Calls `listener(changed)` with the set of names that changed, after every change. */
  listen(listener) {
    this.listeners.push(listener);
  }

  set(values) {
    const changed = new Set(Object.keys(values).filter((name) => !same(this[name], values[name])));
    if (!changed.size) return;
    for (const name of changed) this[name] = values[name];
    this.save();
    for (const listener of this.listeners) listener(changed);
  }

  /** Writes the address, unless TensorBoard shows another tab. */
  save() {
    const {location, history} = this.host;
    if (parse(location.hash) === null) return;
    const parts = Object.keys(DEFAULTS)
      .filter((name) => this[name] !== null && !same(this[name], DEFAULTS[name]))
      .map((name) => `${name}=${encodeURIComponent(write(name, this[name]))}`);
    const hash = `#${[NAME, ...parts].join('&')}`;
    if (hash !== location.hash && hash.length < LONGEST) {
      history.replaceState(history.state, '', hash);
    }
  }

  // --- which runs -----------------------------------------------------------------------------

  /** The filter, or the last one that was a regular expression; `problem` says what is wrong. */
  pattern() {
    try {
      this.lastPattern = new RegExp(this.filter, 'i');
      return {pattern: this.lastPattern, problem: ''};
    } catch (error) {
      const why = error.message.replace(/^Invalid regular expression: /, '');
      return {pattern: this.lastPattern ?? /(?:)/, problem: `No regular expression: ${why}`};
    }
  }

  chosen(name) {
    return this.only === null ? !this.hidden.includes(name) : this.only.includes(name);
  }

  choose(name, chosen) {
    if (this.only === null) {
      const others = this.hidden.filter((one) => one !== name);
      this.set({hidden: chosen ? others : [...others, name]});
    } else {
      const others = this.only.filter((one) => one !== name);
      this.set({only: chosen ? [...others, name] : others});
    }
  }

  chooseAll() {
    this.set({only: null, hidden: []});
  }

  chooseOnly(names) {
    this.set({only: names, hidden: []});
  }
}
