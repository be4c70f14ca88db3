// The Growth tab. TensorBoard imports this module into a frame of its own and calls `render`.

import {ask, Failure} from './api.js';
import {button, el, say} from './dom.js';
import {empty} from './empty.js';
import {clock, plural} from './format.js';
import {plotly} from './figure.js';
import {followReloads, followTheme, host, takeFonts, theme, visible} from './host.js';
import {Sidebar} from './runs.js';
import {State, VIEWS} from './state.js';
import {plotly as release} from './versions.js'; // made by the server
import {CostsView} from './view_costs.js';
import {GrowthView, rowsOf} from './view_growth.js';
import {NetworkView} from './view_network.js';
import {RunsView} from './view_runs.js';
import {WhyView} from './view_why.js';
import {WidthsView} from './view_widths.js';

const TABS = {
  growth: ['Growth', 'Did it grow, when, and did anything break?', GrowthView],
  costs: ['Cost and gain', 'What did it cost and gain?', CostsView],
  widths: ['Widths', 'Where did the width go?', WidthsView],
  why: ['Why there', 'Why did it grow there?', WhyView],
  runs: ['Compare', 'How do runs compare?', RunsView],
  network: ['Network', 'The network, growth by growth', NetworkView],
};

// Milliseconds between looks for something new: soon while there is some, later when not.
const SOON = 5000;
const LATER = 20000;
const PATIENCE = 12; // looks without anything new

/** What the views know and use. */
class Page {
  constructor() {
    this.state = new State(host);
    this.overview = null;
    this.shown = [];
    this.drawing = new Map(); // what was last asked of each figure
    this.tables = new Map(); // growths by run, and of which version
    this.views = new Map();
    this.idle = 0;
  }

  start() {
    document.documentElement.lang = 'en';
    document.title = 'Growth';
    document.head.append(el('link', {rel: 'stylesheet', href: 'style.css'}));
    takeFonts();
    this.sidebar = new Sidebar(this.state);
    this.tabs = new Map(VIEWS.map((name) => [name, this.tab(name)]));
    this.question = el('h1', {tabindex: '-1'});
    this.panel = el('div', {
      role: 'tabpanel', id: 'panel', tabindex: '-1', 'aria-labelledby': 'tab-growth',
    });
    this.problem = el('div', {class: 'card problem', role: 'alert', hidden: true});
    this.tablist = el(
      'div', {class: 'tabs', role: 'tablist', 'aria-label': 'Views'}, ...this.tabs.values(),
    );
    this.main = el('main', {}, this.problem, this.tablist, this.question, this.panel);
    this.root = el('div', {class: 'page', hidden: true}, this.sidebar.element, this.main);
    this.empty = empty();
    this.empty.hidden = true;
    this.waiting = el('p', {class: 'waiting', role: 'status', text: 'Reading runs…'});
    this.fatal = el('div', {class: 'card problem lone', role: 'alert', hidden: true});
    document.body.append(this.waiting, this.fatal, this.empty, this.root);
    followTheme(() => this.update());
    followReloads(() => this.look());
    window.addEventListener('resize', () => this.woken());
    document.addEventListener('visibilitychange', () => this.woken());
    this.state.listen(() => this.update());
    if (release) plotly().catch((error) => this.failed(error)); // while runs are being read
    this.look();
  }

  tab(name) {
    return el('button', {
      type: 'button', role: 'tab', id: `tab-${name}`, 'aria-controls': 'panel', text: TABS[name][0],
      on: {
        click: () => this.state.set({view: name}),
        keydown: (event) => {
          const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
          const to = {Home: 0, End: VIEWS.length - 1}[event.key]
            ?? (by && (VIEWS.indexOf(name) + by + VIEWS.length) % VIEWS.length);
          if (to === undefined) return;
          event.preventDefault();
          this.state.set({view: VIEWS[to]});
          this.tabs.get(VIEWS[to]).focus();
        },
      },
    });
  }

  // --- data -----------------------------------------------------------------------------------

  /** Looks for something new, and again in a while. */
  async look() {
    if (this.looking) return;
    this.looking = true;
    clearTimeout(this.timer);
    try {
      if (visible() || !this.overview) {
        const since = this.overview ? {since: this.overview.version} : {};
        const answer = await ask('overview', since);
        this.failed(null);
        this.idle = answer.unchanged ? this.idle + 1 : 0;
        if (!answer.unchanged) {
          const before = this.overview;
          this.overview = answer;
          this.announce(before, answer);
          this.update();
        }
      }
    } catch (error) {
      this.idle += 1;
      this.failed(error);
    } finally {
      this.looking = false;
      this.timer = setTimeout(() => this.look(), this.idle < PATIENCE ? SOON : LATER);
    }
  }

  /** The frame can be seen again. */
  woken() {
    if (!visible()) return;
    this.state.save(); // TensorBoard's address was another tab's
    if (Date.now() - (this.seen ?? 0) < SOON) return;
    this.seen = Date.now();
    this.idle = 0;
    this.look();
    this.update();
  }

  announce(before, now) {
    const total = (overview) => overview.runs.reduce((sum, run) => sum + run.growths, 0);
    const more = before ? total(now) - total(before) : 0;
    const news = more > 0 ? `, ${plural(more, 'new growth')}` : '';
    say(this.sidebar.live, `Updated at ${clock(new Date())}${news}`);
  }

  failed(error) {
    const place = this.overview ? this.problem : this.fatal;
    this.waiting.hidden = Boolean(this.overview) || Boolean(error);
    this.problem.hidden = this.fatal.hidden = true;
    if (!error) return;
    if (!(error instanceof Failure)) console.error(error);
    place.hidden = false;
    place.replaceChildren(
      el('p', {text: error.message}), button('Try again', () => this.look(), {class: 'plain'}),
    );
  }

  /** Rows of growths by run; only runs with something new are asked for. */
  async events(runs) {
    const missing = runs.filter((run) => this.tables.get(run.name)?.version !== run.version);
    if (missing.length) {
      const answer = await ask('events', {run: missing.map((run) => run.name)});
      for (const {name, version} of missing) {
        this.tables.set(name, {version, rows: rowsOf(name, answer[name])});
      }
    }
    return new Map(runs.map((run) => [run.name, this.tables.get(run.name).rows]));
  }

  // --- drawing --------------------------------------------------------------------------------

  /** Shows a figure of `runs`; `keep` is what it is of, and with it the user's zoom stays. */
  draw(figure, params, runs, keep) {
    const {state, overview} = this;
    if (overview.missing) {
      figure.failed(new Failure(overview.missing));
      return undefined;
    }
    const options = {x: state.x, smoothing: state.smoothing, log: state.log ? '1' : '0'};
    const now = {
      version: runs.map((run) => run.version).join(' '),
      theme: theme(),
      keep: JSON.stringify(keep),
    };
    const done = figure.show({...options, ...params, run: runs.map((run) => run.name)}, now);
    this.drawing.set(figure, done);
    return done;
  }

  update() {
    if (!this.overview || !visible()) return;
    const {state, overview} = this;
    const any = overview.runs.length > 0;
    this.waiting.hidden = true;
    this.empty.hidden = any;
    this.root.hidden = !any;
    if (!any) return;
    const {pattern} = state.pattern();
    const shown = overview.runs.filter((run) => pattern.test(run.name) && state.chosen(run.name));
    this.shown = shown;
    this.sidebar.update(overview);
    for (const [name, tab] of this.tabs) {
      const chosen = name === state.view;
      tab.setAttribute('aria-selected', String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    const [, question, View] = TABS[state.view];
    say(this.question, question);
    this.panel.setAttribute('aria-labelledby', `tab-${state.view}`);
    let view = this.views.get(state.view);
    if (!view) {
      view = new View(this);
      this.views.set(state.view, view);
    }
    if (this.panel.firstChild !== view.element) {
      this.panel.replaceChildren(view.element);
      this.main.scrollTop = 0;
    }
    view.update();
  }
}

export function render() {
  new Page().start();
}
