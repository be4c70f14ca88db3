// Why there? What the gradients said at one growth, and of one layer over all of them.

import {Figure} from './figure.js';
import {ask} from './api.js';
import {button, el, say, select, unique} from './dom.js';
import {change, integer, NOTHING, real, seconds} from './format.js';
import {facts, nothing, runChoice, stepChoice} from './parts.js';
import {Table} from './table.js';

export class WhyView {
  constructor(ctx) {
    this.ctx = ctx;
    const {state} = ctx;
    this.run = runChoice(state);
    this.step = stepChoice(state);
    this.site = select((site) => state.set({site}));
    this.site.id = unique('site');
    this.facts = facts();
    this.gradients = new Figure('gradients', 'Gradient before and after this growth', {
      onPick: (point) => {
        const site = point.data.meta?.sites?.[point.pointIndex];
        if (site) state.set({site});
      },
    });
    this.spectrum = new Figure('spectrum', 'Spectrum at this growth');
    this.spectra = new Figure('spectra', 'Spectrum over all growths');
    this.sort = '-added';
    this.table = new Table({
      heading: 'What grew',
      file: 'keras_grow-layers',
      one: 'layer',
      page: 10,
      empty: 'Nothing grew at this step.',
      onSort: (sort) => {
        this.sort = sort;
        this.table.show(this.rows ?? [], sort);
      },
      record: ({key, state: _, ...row}) => row,
      columns: [
        {
          key: 'name', label: 'Layer', value: (r) => r.name,
          show: (r) => button(r.name, () => state.set({site: r.name}), {
            class: 'link', title: r.name, 'data-key': r.name,
            'aria-label': `Show the spectrum of ${r.name}`,
          }),
        },
        {
          key: 'added', label: 'Width', number: true, value: (r) => r.width_after - r.width_before,
          show: (r) => change(r.width_before, r.width_after, integer),
        },
        {
          key: 'gradient_norm', label: 'Gradient of new weights', number: true,
          value: (r) => r.gradient_norm, show: (r) => real(r.gradient_norm),
        },
        {
          key: 'existing_norm', label: '... of present weights', number: true,
          value: (r) => r.existing_norm, show: (r) => real(r.existing_norm),
        },
        {
          key: 'rank', label: 'Rank', number: true, value: (r) => r.rank, show: (r) => integer(r.rank),
          help: 'Directions that the gradient supports',
        },
        {key: 'method', label: 'Method', value: (r) => r.method, show: (r) => r.method || NOTHING},
        {key: 'form', label: 'Form', value: (r) => r.form, show: (r) => r.form || NOTHING},
        {
          key: 'readers', label: 'Read by', value: (r) => r.consumers.join(', '),
          show: (r) => el('span', {
            class: 'cut', title: r.consumers.join(', '), text: r.consumers.join(', ') || NOTHING,
          }),
        },
      ],
    });
    this.left = el('p', {class: 'card problem', role: 'alert', hidden: true});
    this.nothing = nothing();
    this.content = el(
      'div', {}, this.facts.element, this.left, this.gradients.element, this.table.element,
      el('div', {class: 'choices card'}, el(
        'div', {class: 'choice'}, el('label', {for: this.site.id, text: 'Layer'}), this.site,
      )),
      el('div', {class: 'pair'}, this.spectrum.element, this.spectra.element),
    );
    this.element = el(
      'div', {},
      el('div', {class: 'choices card'}, this.run.element, this.step.element), this.nothing,
      this.content,
    );
  }

  async update() {
    const {ctx} = this;
    const run = this.run.show(ctx);
    const step = this.step.show(run);
    this.nothing.hidden = step !== null;
    say(this.nothing, run ? 'This run has not grown yet.' : 'Choose a run in the list.');
    this.content.hidden = step === null;
    if (step === null) return;
    ctx.draw(this.gradients, {step}, [run], [step, ctx.state.log]);
    const key = JSON.stringify([run.name, run.version, step]);
    this.key = key;
    try {
      if (this.known !== key) this.answer = await ask('growth', {run: run.name, step});
    } catch (error) {
      if (this.key !== key) return;
      this.left.hidden = false;
      this.left.replaceChildren(
        el('span', {text: `What grew could not be read. ${error.message} `}),
        button('Try again', () => this.update(), {class: 'plain'}),
      );
      return;
    }
    if (this.key !== key) return; // another growth was chosen in between
    this.known = key;
    this.show(run, step);
  }

  show(run, step) {
    const {ctx} = this;
    const {growth, sites, left_out: left} = this.answer;
    this.left.hidden = !left.length;
    say(this.left, left.join(' '));
    const gradient = (value) => (value === null ? NOTHING : real(value));
    this.facts.show([
      {
        label: 'Outcome', state: growth.error || growth.kept === false ? 'bad' : null,
        value: growth.error ? 'Failed' : growth.dry_run ? 'Tried out' : `+${integer(growth.added)} channels`,
        note: growth.error ?? [`epoch ${growth.epoch + 1}`, ...growth.notes].join('. '),
      },
      {
        label: 'Output change', value: growth.deviation === null ? 'Not checked' : real(growth.deviation),
        state: growth.kept === null ? null : growth.kept ? 'good' : 'bad',
        note: growth.tolerance === null ? '' : `of their scale; ${real(growth.tolerance)} is let pass`,
      },
      {
        label: 'Gradient norm',
        value: gradient(growth.gradient_norm),
        note: `of new weights; ${gradient(growth.existing_norm)} of present ones`,
      },
      {
        label: 'Parameters', value: change(growth.parameters_before, growth.parameters_after),
        note: `took ${seconds(Object.values(growth.seconds).reduce((a, b) => a + b, 0))}`,
      },
    ]);
    this.rows = sites.map((site) => ({...site, key: site.name}));
    this.table.show(this.rows, this.sort);
    const names = sites.map((site) => site.name);
    const strongest = [...sites].sort((a, b) => (b.gradient_norm ?? 0) - (a.gradient_norm ?? 0))[0];
    const site = ctx.state.site ?? strongest?.name ?? null;
    const options = site === null || names.includes(site) ? names : [site, ...names];
    this.site.fill(options.map((name) => [name, name]), site ?? '');
    this.site.disabled = !options.length;
    this.spectrum.element.hidden = !names.includes(site);
    this.spectra.element.hidden = site === null;
    if (names.includes(site)) {
      ctx.draw(this.spectrum, {step, site}, [run], [step, site, ctx.state.log]);
    }
    if (site !== null) ctx.draw(this.spectra, {site}, [run], [site, ctx.state.log]);
  }
}
