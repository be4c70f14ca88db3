// How do runs compare?

import {Figure} from './figure.js';
import {el} from './dom.js';
import {change, count, integer, NOTHING, real, seconds} from './format.js';
import {runName} from './parts.js';
import {Table} from './table.js';

export class RunsView {
  constructor(ctx) {
    this.ctx = ctx;
    this.tradeoff = new Figure('tradeoff', 'Metric against size');
    this.sort = 'run';
    const last = (row) => row.last[ctx.state.metric] ?? null;
    this.table = new Table({
      heading: 'Runs side by side',
      file: 'keras_grow-runs',
      one: 'run',
      empty: 'No run is shown.',
      onSort: (sort) => {
        this.sort = sort;
        this.update();
      },
      record: (row) => ({
        run: row.name, growths: row.growths, failed: row.failed, outputs_changed: row.broken,
        channels_added: row.added, parameters_first: row.parameters_first,
        parameters_last: row.parameters_last, flops_first: row.flops_first,
        flops_last: row.flops_last, seconds_of_growing: row.seconds,
        metric: ctx.state.metric, last: last(row), warnings: row.warnings,
      }),
      columns: [
        {key: 'run', label: 'Run', value: (r) => r.name, show: (r) => runName(r.name, r.color)},
        {key: 'last', label: 'Last value of the metric', number: true, value: last,
          show: (r) => real(last(r))},
        {key: 'growths', label: 'Growths', number: true, value: (r) => r.growths,
          show: (r) => integer(r.growths)},
        {key: 'added', label: 'Channels added', number: true, value: (r) => r.added,
          show: (r) => integer(r.added)},
        {key: 'parameters', label: 'Parameters', number: true, value: (r) => r.parameters_last,
          show: (r) => (r.growths ? change(r.parameters_first, r.parameters_last) : NOTHING)},
        {key: 'flops', label: 'FLOPs of one sample', number: true, value: (r) => r.flops_last,
          show: (r) => (r.growths ? change(r.flops_first, r.flops_last, count) : NOTHING)},
        {key: 'seconds', label: 'Growing took', number: true, value: (r) => r.seconds,
          show: (r) => seconds(r.seconds)},
        {key: 'warnings', label: 'Warnings', number: true, value: (r) => r.warnings.length,
          show: (r) => integer(r.warnings.length)},
      ],
    });
    this.element = el('div', {}, this.tradeoff.element, this.table.element);
  }

  update() {
    const {ctx} = this;
    const {state, shown} = ctx;
    const x = state.x === 'step' ? 'parameters' : state.x; // a size or a cost, in this view
    ctx.draw(this.tradeoff, {metric: state.metric, x}, shown, [x, state.metric, state.log]);
    this.table.show(shown.map((run) => ({...run, key: run.name})), this.sort);
  }
}
