// The network, drawn, and how it grew.

import {Figure} from './figure.js';
import {button, el, say, unique} from './dom.js';
import {integer} from './format.js';
import {nothing, runChoice} from './parts.js';

const PAUSE = 700; // milliseconds between growths when playing

export class NetworkView {
  constructor(ctx) {
    this.ctx = ctx;
    this.run = runChoice(ctx.state);
    this.figure = new Figure('network', 'The network');
    this.slider = el('input', {
      type: 'range', min: '0', step: '1', id: unique('slider'),
      on: {
        input: () => {
          this.stop();
          this.go(Number(this.slider.value));
        },
      },
    });
    this.play = button('Play', () => (this.playing ? this.stop() : this.start()), {class: 'plain'});
    this.place = el('p', {class: 'place', role: 'status'});
    this.nothing = nothing();
    this.controls = el(
      'div', {class: 'choice wide'}, this.play,
      el('label', {for: this.slider.id, text: 'Growth'}),
      el('div', {class: 'range wide'}, this.slider), this.place,
    );
    this.element = el(
      'div', {}, el('div', {class: 'choices card'}, this.run.element, this.controls),
      this.nothing, this.figure.element,
    );
    this.playing = false;
  }

  update() {
    const {ctx} = this;
    const run = this.run.show(ctx);
    this.nothing.hidden = Boolean(run);
    say(this.nothing, 'Choose a run in the list to see its network.');
    this.controls.hidden = this.figure.element.hidden = !run;
    if (!run) {
      this.stop();
      return undefined;
    }
    this.steps = [0, ...run.steps.filter((step) => step > 0)];
    const last = this.steps.length - 1;
    // A step that is no growth's: the growth before it.
    const {step} = ctx.state;
    const at = step === null ? last : Math.max(this.steps.findLastIndex((one) => one <= step), 0);
    this.slider.max = String(last);
    this.slider.disabled = this.play.disabled = last === 0;
    if (this.slider.value !== String(at)) this.slider.value = String(at);
    const told = at
      ? `After growth ${at} of ${last}, at step ${integer(this.steps[at])}`
      : `At the start, before ${last === 1 ? 'the growth' : `all ${last} growths`}`;
    this.slider.setAttribute('aria-valuetext', told);
    say(this.place, told);
    this.at = at;
    return ctx.draw(this.figure, {step: this.steps[at]}, [run], [run.name]);
  }

  go(at) {
    this.ctx.state.set({step: this.steps[at]});
  }

  start() {
    this.playing = true;
    say(this.play, 'Pause');
    if (this.at === this.steps.length - 1) this.go(0);
    this.tick();
  }

  async tick() {
    const turn = (this.turn = {});
    const mine = () => this.playing && this.turn === turn;
    while (mine()) {
      await this.drawn();
      await new Promise((done) => setTimeout(done, PAUSE));
      if (!mine()) return;
      if (this.ctx.state.view !== 'network' || this.at >= this.steps.length - 1) this.stop();
      else this.go(this.at + 1);
    }
  }

  /** When the figure shows what was last asked for. */
  drawn() {
    return this.ctx.drawing.get(this.figure);
  }

  stop() {
    this.playing = false;
    say(this.play, 'Play');
  }
}
