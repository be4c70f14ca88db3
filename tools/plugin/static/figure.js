// One figure: fetched when what it shows has changed, drawn in place, with a toolbar.

import {ask, Failure} from './api.js';
import {button, el, say, unique} from './dom.js';
import {savePicture} from './save.js';
import {plotly as release} from './versions.js'; // made by the server

const CONFIG = {displayModeBar: false, responsive: false, scrollZoom: false};
const SPARE = 24; // pixels above a figure whose heading is the page's

let loading = null;

/** plotly.js, loaded once. */
export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = el('script', {src: `plotly.min.js?v=${encodeURIComponent(release)}`});
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      script.remove();
      reject(new Failure('plotly.js could not be loaded from TensorBoard.'));
    };
    document.head.append(script);
  });
  return loading;
}

/** The layout without the title and its room: the page has a heading of its own. */
function bare(layout) {
  const above = layout.margin?.t ?? 0;
  const spare = Math.max(above - SPARE, 0);
  return {
    ...layout,
    title: undefined,
    margin: {...layout.margin, t: above - spare},
    height: layout.height ? layout.height - spare : undefined,
  };
}

export class Figure {
  /**
   * @param {string} name of the figure on the server.
   * @param {string} heading over it.
   * @param {object} options `onPick(point)` is called when a mark is clicked.
   */
  constructor(name, heading, {onPick = null, level = 'h3'} = {}) {
    this.name = name;
    this.onPick = onPick;
    this.key = null;
    this.heading = el(level, {text: heading, id: unique('figure')});
    this.png = button('PNG', () => this.save('png'), {
      class: 'quiet', 'aria-label': `Save as PNG: ${heading}`, title: 'Save the picture as PNG',
    });
    this.svg = button('SVG', () => this.save('svg'), {
      class: 'quiet', 'aria-label': `Save as SVG: ${heading}`, title: 'Save the picture as SVG',
    });
    this.whole = button('Reset zoom', () => this.reset(), {
      class: 'quiet', 'aria-label': `Reset zoom: ${heading}`, title: 'Show all of it again',
    });
    this.notes = el('p', {class: 'notes', id: unique('notes')});
    this.problem = el('div', {class: 'problem', role: 'alert', hidden: true});
    this.plot = el('div', {class: 'plot', 'data-figure': name});
    this.element = el(
      'section',
      {class: 'card figure', 'aria-labelledby': this.heading.id, 'aria-busy': 'false'},
      el(
        'header', {}, this.heading,
        el('div', {class: 'tools'}, this.whole, this.png, this.svg),
      ),
      this.notes, this.problem, el('div', {class: 'canvas'}, this.plot),
    );
    this.tools(false);
    // plotly follows the window's size only; scroll bars and grids change widths, too.
    new ResizeObserver(() => this.fit()).observe(this.element);
  }

  fit() {
    const drawn = this.plot._fullLayout?.width;
    if (drawn && this.plot.offsetParent && Math.abs(drawn - this.plot.clientWidth) >= 1) {
      window.Plotly.Plots.resize(this.plot);
    }
  }

  /**
   * Shows what `params` ask for, and fetches it only if they or `version` are new.
   * @param {object} params of the request.
   * @param {object} now `version` of the data, `theme`, and `keep`: what the figure is of. While that stays the same, so does the user's zoom.
   */
  async show(params, {version, theme, keep}) {
    const key = JSON.stringify([params, version, theme]);
    if (key === this.key) return;
    this.key = key;
    this.again = () => {
      this.key = null;
      return this.show(params, {version, theme, keep});
    };
    this.request?.abort();
    const request = new AbortController();
    this.request = request;
    this.element.setAttribute('aria-busy', 'true');
    try {
      const [Plotly, figure] = await Promise.all([
        plotly(),
        ask('figure', {name: this.name, theme, ...params}, request.signal),
      ]);
      if (request.signal.aborted) return;
      this.figure = figure;
      const layout = {...bare(figure.layout), uirevision: keep, autosize: true};
      await Plotly.react(this.plot, figure.data, layout, CONFIG);
      if (this.onPick && !this.listening) {
        this.listening = true;
        this.plot.on('plotly_click', (event) => this.onPick(event.points[0]));
      }
      this.told(figure);
      this.failed(null);
      this.fit();
    } catch (error) {
      if (error.name === 'AbortError' || request.signal.aborted) return;
      this.key = null;
      this.failed(error);
    } finally {
      if (this.request === request) this.element.setAttribute('aria-busy', 'false');
    }
  }

  told(figure) {
    const {title = '', notes = []} = figure.layout.meta ?? {};
    say(this.notes, notes.join(' '));
    this.plot.setAttribute('role', 'img');
    this.plot.setAttribute('aria-label', [title, ...notes].join('. '));
    this.tools(true);
  }

  failed(error) {
    this.problem.hidden = !error;
    if (!error) {
      this.problem.replaceChildren();
      return;
    }
    if (!(error instanceof Failure)) console.error(error);
    const said = error instanceof Failure ? error.message : `This could not be drawn: ${error}`;
    this.problem.replaceChildren(
      el('p', {text: said}),
      button('Try again', () => this.again(), {class: 'plain'}),
    );
  }

  tools(ready) {
    for (const tool of [this.png, this.svg, this.whole]) tool.disabled = !ready;
  }

  /** The picture as it is on the screen, with its title. */
  async save(format) {
    const {data, layout} = this.plot;
    const spare = (this.figure.layout.margin?.t ?? SPARE) - SPARE;
    const size = {width: this.plot.clientWidth, height: this.plot.clientHeight + spare};
    const whole = {
      ...layout, ...size, title: this.figure.layout.title, margin: this.figure.layout.margin,
    };
    const picture = await window.Plotly.toImage({data, layout: whole}, {format, scale: 2, ...size});
    savePicture(`keras_grow-${this.name}.${format}`, picture);
  }

  reset() {
    const axes = Object.keys(this.plot._fullLayout ?? {}).filter((k) => /^[xy]axis\d*$/.test(k));
    const given = this.figure.layout;
    const update = {};
    for (const axis of axes) {
      if (given[axis]?.range) update[`${axis}.range`] = [...given[axis].range];
      else update[`${axis}.autorange`] = given[axis]?.autorange ?? true;
    }
    window.Plotly.relayout(this.plot, update);
  }
}
