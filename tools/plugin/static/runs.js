// The list of runs, and the settings that all views share.

import {button, el, field, say, select, unique} from './dom.js';
import {plural} from './format.js';

const X = [
  ['step', 'Training step'],
  ['time', 'Time'],
  ['parameters', 'Parameters'],
  ['flops', 'FLOPs'],
];
const PATIENCE = 150; // milliseconds after the last keystroke or movement

export class Sidebar {
  constructor(state) {
    this.state = state;
    this.items = new Map();
    const problem = unique('problem');
    this.filter = el('input', {
      type: 'search', placeholder: 'Filter runs (regex)', 'aria-label': 'Filter runs (regex)',
      'aria-describedby': problem, spellcheck: 'false',
      on: {input: later(() => state.set({filter: this.filter.value}))},
    });
    this.problem = el('p', {class: 'problem small', id: problem, role: 'alert', hidden: true});
    this.list = el('ul', {class: 'runs', 'aria-label': 'Runs'});
    this.count = el('p', {class: 'notes', role: 'status'});
    this.x = select((x) => state.set({x}));
    this.x.fill(X, state.x);
    this.metric = select((metric) => state.set({metric}));
    this.smoothing = el('input', {
      type: 'range', min: '0', max: '0.99', step: '0.01',
      on: {
        input: () => {
          say(this.amount, Number(this.smoothing.value).toFixed(2));
          this.smooth();
        },
      },
    });
    this.smooth = later(() => state.set({smoothing: Number(this.smoothing.value)}));
    this.amount = el('output', {for: (this.smoothing.id = unique('field'))});
    this.log = el('input', {
      type: 'checkbox', id: unique('field'), on: {change: () => state.set({log: this.log.checked})},
    });
    this.live = el('p', {class: 'notes live', role: 'status'});
    this.element = el(
      'aside', {class: 'sidebar', 'aria-label': 'Runs and settings'},
      el(
        'section', {class: 'block', 'aria-label': 'Runs'},
        el(
          'header', {}, el('h2', {text: 'Runs'}),
          el(
            'div', {class: 'tools'},
            button('All', () => state.chooseAll(), {class: 'quiet', 'aria-label': 'Show all runs'}),
            button('None', () => state.chooseOnly([]), {
              class: 'quiet', 'aria-label': 'Show no runs',
            }),
          ),
        ),
        this.filter, this.problem, this.count, this.list,
      ),
      el(
        'section', {class: 'block', 'aria-label': 'Settings'},
        el('header', {}, el('h2', {text: 'Settings'})),
        field('Horizontal axis', this.x),
        field('Metric', this.metric),
        el(
          'div', {class: 'field'},
          el('label', {for: this.smoothing.id, text: 'Smoothing'}),
          el('div', {class: 'range'}, this.smoothing, this.amount),
        ),
        el(
          'div', {class: 'field check'}, this.log, el('label', {for: this.log.id, text: 'Log scale'}),
        ),
      ),
      this.live,
    );
  }

  update(overview) {
    const {state} = this;
    const {pattern, problem} = state.pattern();
    if (document.activeElement !== this.filter) this.filter.value = state.filter;
    this.filter.setAttribute('aria-invalid', String(Boolean(problem)));
    this.problem.hidden = !problem;
    say(this.problem, problem);
    const names = new Set();
    let before = null;
    for (const run of overview.runs) {
      names.add(run.name);
      const item = this.items.get(run.name) ?? this.add(run.name);
      item.update(run, state.chosen(run.name));
      item.element.hidden = !pattern.test(run.name);
      const place = before ? before.nextSibling : this.list.firstChild;
      if (place !== item.element) this.list.insertBefore(item.element, place);
      before = item.element;
    }
    for (const [name, item] of this.items) {
      if (names.has(name)) continue;
      item.element.remove();
      this.items.delete(name);
    }
    const shown = overview.runs.filter((r) => pattern.test(r.name) && state.chosen(r.name)).length;
    say(this.count, `${plural(overview.runs.length, 'run')}, ${shown} shown`);
    this.x.fill(X, state.x);
    const metrics = overview.metrics.length ? overview.metrics : ['loss'];
    const known = metrics.includes(state.metric) ? metrics : [...metrics, state.metric];
    this.metric.fill(known.map((one) => [one, one]), state.metric);
    if (document.activeElement !== this.smoothing) {
      this.smoothing.value = state.smoothing;
      say(this.amount, Number(state.smoothing).toFixed(2));
    }
    this.log.checked = state.log;
  }

  add(name) {
    const {state} = this;
    const box = el('input', {
      type: 'checkbox', id: unique('run'), on: {change: () => state.choose(name, box.checked)},
    });
    const dot = el('span', {class: 'dot', 'aria-hidden': 'true'});
    const facts = el('span', {class: 'facts'});
    const element = el(
      'li', {'data-run': name},
      box, dot, el('label', {for: box.id, title: name}, el('span', {class: 'name', text: name}), facts),
      button('Only', () => state.chooseOnly([name]), {
        class: 'quiet only', 'aria-label': `Show only ${name}`,
      }),
    );
    const update = (run, chosen) => {
      box.checked = chosen;
      dot.style.backgroundColor = run.color;
      const warned = run.warnings.length ? `, ${plural(run.warnings.length, 'warning')}` : '';
      say(facts, `${plural(run.growths, 'growth')}${warned}`);
      facts.classList.toggle('bad', Boolean(run.failed || run.broken));
    };
    const item = {element, update};
    this.items.set(name, item);
    return item;
  }
}

/** `listener`, called once the user has stopped for a moment. */
function later(listener) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(listener, PATIENCE);
  };
}
