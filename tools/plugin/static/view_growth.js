// Did it grow, when, and did anything break?

import {Figure} from './figure.js';
import {button, el, say} from './dom.js';
import {change, integer, moment, NOTHING, plural, real, seconds} from './format.js';
import {Table} from './table.js';
import {facts, runName, warnings} from './parts.js';

const OUTCOMES = {
  failed: 'Failed', broken: 'Outputs changed', dry: 'Tried out', nothing: 'No room', grew: 'Grew',
};

/** What came of a growth step, and how it is coloured. */
function outcome(row) {
  if (row.error) return 'failed';
  if (row.kept === false) return 'broken';
  if (row.dry_run) return 'dry';
  return row.sites ? 'grew' : 'nothing';
}

export class GrowthView {
  constructor(ctx) {
    this.ctx = ctx;
    const {state} = ctx;
    const inside = (run, step) => state.set({view: 'why', run, step, site: null});
    this.facts = facts();
    this.warnings = warnings();
    this.timeline = new Figure('timeline', 'Metric and parameters over training', {
      onPick: (point) => {
        const {run} = point.data.meta ?? {};
        const step = [point.customdata].flat()[0];
        if (run && point.data.meta.state) inside(run, step);
      },
    });
    this.table = new Table({
      heading: 'Growths',
      file: 'keras_grow-growths',
      one: 'growth',
      label: 'Filter growths by run, step, method or outcome',
      empty: 'The runs that are shown have not grown yet.',
      onSort: (sort) => state.set({sort}),
      onFind: (find) => state.set({find}),
      record: ({key, state: _, color, ...row}) => row,
      columns: [
        {key: 'run', label: 'Run', value: (r) => r.run, text: (r) => r.run, show: (r) => runName(r.run, r.color)},
        {
          key: 'step', label: 'Step', number: true, value: (r) => r.step, text: (r) => integer(r.step),
          help: 'Training steps done before it. Choose one to look inside.',
          show: (r) => button(integer(r.step), () => inside(r.run, r.step), {
            class: 'link', 'data-key': r.key,
            'aria-label': `Look inside the growth of ${r.run} at step ${r.step}`,
          }),
        },
        {
          key: 'time', label: 'Time', value: (r) => r.time, text: (r) => moment(r.time).short,
          show: (r) => el('span', {text: moment(r.time).short, title: moment(r.time).full}),
        },
        {
          key: 'outcome', label: 'Outcome', value: (r) => OUTCOMES[r.state],
          text: (r) => OUTCOMES[r.state],
          show: (r) => el('span', {
            class: `outcome ${r.state}`, text: OUTCOMES[r.state],
            title: r.error ?? r.notes.join(' '),
          }),
        },
        {
          key: 'deviation', label: 'Output change', number: true, value: (r) => r.deviation,
          help: 'Largest change of any output at the growth, as a part of their scale',
          show: (r) => (r.deviation === null ? 'not checked' : real(r.deviation)),
        },
        {key: 'sites', label: 'Layers', number: true, value: (r) => r.sites, show: (r) => integer(r.sites),
          help: 'Layers (with all that is tied to them) that grew'},
        {key: 'added', label: 'Channels', number: true, value: (r) => r.added, show: (r) => `+${integer(r.added)}`, help: 'Channels added, in all layers'},
        {
          key: 'parameters', label: 'Parameters', number: true, value: (r) => r.parameters_after,
          show: (r) => change(r.parameters_before, r.parameters_after),
        },
        {key: 'loss', label: 'Loss', number: true, value: (r) => r.loss, show: (r) => real(r.loss),
          help: 'Of the growth data, before the growth'},
        {key: 'seconds', label: 'Took', number: true, value: (r) => r.seconds, show: (r) => seconds(r.seconds)},
        {key: 'methods', label: 'Method', value: (r) => r.methods.join(', '),
          show: (r) => r.methods.join(', ') || NOTHING},
      ],
    });
    this.problem = el('div', {class: 'problem card', role: 'alert', hidden: true});
    this.element = el(
      'div', {}, this.facts.element, this.warnings.element, this.timeline.element, this.problem,
      this.table.element,
    );
  }

  update() {
    const {ctx} = this;
    const {state, shown} = ctx;
    this.tell(shown);
    this.warnings.show(shown);
    ctx.draw(this.timeline, {metric: state.metric}, shown, [state.x, state.metric, state.log]);
    this.fill();
  }

  tell(shown) {
    const sum = (name) => shown.reduce((total, run) => total + run[name], 0);
    const growths = sum('growths');
    const checked = sum('checked');
    const broken = sum('broken');
    const failed = sum('failed');
    const steps = shown.flatMap((run) => [run.steps[0], run.last_step]).filter((s) => s != null);
    const grown = shown.filter((run) => run.growths).length;
    const largest = Math.max(0, ...shown.map((run) => run.deviation));
    this.facts.show([
      {
        label: 'Did it grow?',
        value: growths ? plural(growths, 'growth') : 'Not yet',
        note: growths ? `in ${grown} of ${plural(shown.length, 'run')} shown` : 'in the runs shown',
      },
      {
        label: 'When?',
        value: steps.length
          ? change(Math.min(...steps), Math.max(...steps), (step) => integer(step)) : NOTHING,
        note: 'first and last training step of a growth',
      },
      {
        label: 'Were the outputs kept?',
        value: checked ? (broken ? `No, ${broken} changed` : 'Yes') : 'Not checked',
        note: checked
          ? `${integer(checked)} checked, largest change ${real(largest)} of their scale`
          : 'verify=True of the callback checks them',
        state: broken ? 'bad' : checked ? 'good' : null,
      },
      {
        label: 'Did anything break?',
        value: failed ? `${integer(failed)} failed` : 'No',
        note: failed ? 'the model stayed as it was' : 'no growth failed',
        state: failed ? 'bad' : growths ? 'good' : null,
      },
    ]);
  }

  async fill() {
    const {ctx} = this;
    const wanted = ctx.shown;
    try {
      const tables = await ctx.events(wanted);
      if (wanted !== ctx.shown) return; // asked anew in between
      const rows = wanted.flatMap((run) => tables.get(run.name).map((row) => ({...row, color: run.color})));
      this.problem.hidden = true;
      this.table.show(rows, ctx.state.sort, ctx.state.find);
    } catch (error) {
      this.problem.hidden = false;
      this.problem.replaceChildren(
        el('p', {text: `The growths could not be listed. ${error.message}`}),
        button('Try again', () => this.fill(), {class: 'plain'}),
      );
    }
  }
}

/** Rows of the table from the columns that the server sends. */
export function rowsOf(run, table) {
  const names = Object.keys(table);
  return table.step.map((step, index) => {
    const row = {run};
    for (const name of names) row[name] = table[name][index];
    row.key = `${run} ${step}`;
    row.state = outcome(row);
    return row;
  });
}
