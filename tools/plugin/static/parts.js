// Pieces that several views have.

import {button, el, say, select, unique} from './dom.js';
import {integer, plural} from './format.js';

const FEW = 4;

/** A row of facts: a question, the answer, and what else there is to say. */
export function facts() {
  const element = el('dl', {class: 'tiles'});
  const show = (told) => {
    const key = JSON.stringify(told);
    if (key === element.told) return;
    element.told = key;
    element.replaceChildren(
      ...told.map(({label, value, note = '', state = null}) => el(
        'div', {class: `card tile ${state ?? ''}`},
        el('dt', {text: label}), el('dd', {class: 'value', text: value}),
        el('dd', {class: 'notes', text: note}),
      )),
    );
  };
  return {element, show};
}

/** The name of a run with its colour. */
export function runName(name, color) {
  const dot = el('span', {class: 'dot', 'aria-hidden': 'true'});
  dot.style.backgroundColor = color;
  return el('span', {class: 'run', title: name}, dot, el('span', {class: 'name', text: name}));
}

/** What somebody should know first, of the runs that are shown. */
export function warnings() {
  const summary = el('summary');
  const list = el('ul');
  const element = el('details', {class: 'card warnings', hidden: true}, summary, list);
  let told = '';
  const show = (runs) => {
    const all = runs.flatMap((run) => run.warnings.map((text) => ({run, text})));
    const key = JSON.stringify(all.map(({run, text}) => [run.name, text]));
    if (key === told) return;
    if (!told) element.open = all.length <= FEW;
    told = key;
    element.hidden = !all.length;
    say(summary, plural(all.length, 'warning'));
    list.replaceChildren(
      ...all.slice(0, 200).map(({run, text}) => el(
        'li', {}, runName(run.name, run.color), el('span', {text}),
      )),
    );
  };
  return {element, show};
}

/** The choice of one run, for views that are of one. */
export function runChoice(state) {
  const control = select((run) => state.set({run, step: null, site: null}));
  control.id = unique('run');
  const element = el('div', {class: 'choice'}, el('label', {for: control.id, text: 'Run'}), control);
  /** The run that is shown now, a summary; null if none is. */
  const show = (ctx) => {
    const runs = ctx.shown.length ? ctx.shown : [];
    const named = ctx.overview.runs.find((run) => run.name === state.run);
    const options = named && !runs.includes(named) ? [named, ...runs] : runs;
    const chosen = named ?? runs[0] ?? null;
    control.fill(options.map((run) => [run.name, run.name]), chosen?.name ?? '');
    control.disabled = !options.length;
    return chosen;
  };
  return {element, show};
}

/** The choice of one growth step of a run, with buttons for the one before and after it. */
export function stepChoice(state) {
  const control = select((step) => state.set({step: Number(step)}));
  control.id = unique('step');
  const back = button('‹', () => move(-1), {class: 'plain', 'aria-label': 'Growth before'});
  const next = button('›', () => move(1), {class: 'plain', 'aria-label': 'Growth after'});
  const element = el(
    'div', {class: 'choice'}, el('label', {for: control.id, text: 'Growth'}), back, control, next,
  );
  let steps = [];
  let chosen = null;
  const move = (by) => {
    const at = steps.indexOf(chosen) + by;
    if (at >= 0 && at < steps.length) state.set({step: steps[at]});
  };
  /** The step that is shown now; null if the run has not grown. */
  const show = (run) => {
    steps = run?.steps ?? [];
    chosen = steps.includes(state.step) ? state.step : (steps.at(-1) ?? null);
    control.fill(
      steps.map((step, index) => [
        String(step), `${index + 1} of ${steps.length}, at step ${integer(step)}`,
      ]),
      chosen ?? '',
    );
    control.disabled = !steps.length;
    back.disabled = steps.indexOf(chosen) <= 0;
    next.disabled = steps.indexOf(chosen) === steps.length - 1;
    return chosen;
  };
  return {element, show};
}

/** A sentence in place of a view's content. */
export function nothing() {
  return el('p', {class: 'card nothing', hidden: true});
}
