// What did it cost and gain?

import {Figure} from './figure.js';
import {el} from './dom.js';
import {change, count, NOTHING, plural, seconds} from './format.js';
import {facts} from './parts.js';

export class CostsView {
  constructor(ctx) {
    this.ctx = ctx;
    this.facts = facts();
    this.costs = new Figure('costs', 'What growths cost');
    this.gain = new Figure('gain', 'What growths gained');
    this.element = el('div', {}, this.facts.element, this.gain.element, this.costs.element);
  }

  update() {
    const {ctx} = this;
    const {state, shown} = ctx;
    const grown = shown.filter((run) => run.growths);
    const least = (name) => Math.min(...grown.map((run) => run[name]));
    const most = (name) => Math.max(...grown.map((run) => run[name]));
    const growths = grown.reduce((total, run) => total + run.growths, 0);
    const took = grown.reduce((total, run) => total + run.seconds, 0);
    const runs = grown.length > 1 ? 'least and most over the runs shown' : 'at the start and now';
    const range = (first, last) => {
      if (!grown.length) return NOTHING;
      return grown.length === 1
        ? change(grown[0][first], grown[0][last])
        : change(least(first), most(last));
    };
    this.facts.show([
      {
        label: 'Time spent on growing', value: grown.length ? seconds(took) : NOTHING,
        note: growths ? `${plural(growths, 'growth')}, ${seconds(took / growths)} each` : '',
      },
      {label: 'Parameters', value: range('parameters_first', 'parameters_last'), note: runs},
      {
        label: 'FLOPs of one sample', value: range('flops_first', 'flops_last'),
        note: `forward pass, ${runs}`,
      },
      {
        label: 'Channels added', value: count(grown.reduce((total, run) => total + run.added, 0)),
        note: 'in all layers of the runs shown',
      },
    ]);
    ctx.draw(this.gain, {metric: state.metric}, shown, [state.x, state.metric, state.log]);
    ctx.draw(this.costs, {}, shown, [state.x, state.log]);
  }
}
