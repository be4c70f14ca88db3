// Where did the width go?

import {Figure} from './figure.js';
import {el} from './dom.js';
import {nothing, runChoice} from './parts.js';

export class WidthsView {
  constructor(ctx) {
    this.ctx = ctx;
    this.choice = runChoice(ctx.state);
    this.map = new Figure('width_map', 'Width by layer and growth', {
      onPick: (point) => {
        const {run, steps, sites} = point.data.meta ?? {};
        if (run && steps) ctx.state.set({view: 'why', run, step: steps[point.x], site: sites?.[point.y]});
      },
    });
    this.lines = new Figure('widths', 'Width of every layer over training');
    this.nothing = nothing();
    this.figures = el('div', {}, this.map.element, this.lines.element);
    this.element = el(
      'div', {}, el('div', {class: 'choices card'}, this.choice.element), this.nothing, this.figures,
    );
  }

  update() {
    const {ctx} = this;
    const run = this.choice.show(ctx);
    this.nothing.hidden = Boolean(run);
    this.nothing.textContent = 'Choose a run in the list to see its widths.';
    this.figures.hidden = !run;
    if (!run) return;
    ctx.draw(this.map, {}, [run], [ctx.state.x, ctx.state.log]);
    ctx.draw(this.lines, {}, [run], [ctx.state.x, ctx.state.log]);
  }
}
