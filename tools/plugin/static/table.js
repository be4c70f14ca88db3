// A table that can be sorted, filtered and taken away as a file.

import {button, el, say, unique} from './dom.js';
import {plural} from './format.js';
import {saveCsv, saveJson} from './save.js';

const PAGE = 25;

export class Table {
  /**
   * @param {object} options
   *   `heading`, `file`: the name of a saved file; `columns`: objects with `key`, `label`,
   *   `number` (right-aligned), `value(row)` for sorting, `show(row)` for the cell: a text or an
   *   element, whose text is then `text(row)`; `record(row)`: what is saved; `many`: what the rows are called;
   *   `onSort(sort)`, `onFind(text)`: told what the user chose; `empty`: what to say without rows.
   */
  constructor({
    heading, file, columns, record, one, many, onSort, onFind = null, empty, label, page = PAGE,
  }) {
    Object.assign(this, {file, columns, record, one, many, empty, page});
    this.rows = [];
    this.sort = `-${columns[0].key}`;
    this.find = '';
    this.at = 0;
    this.heading = el('h3', {text: heading, id: unique('table')});
    this.headers = columns.map((column) => this.header(column, onSort));
    this.body = el('tbody');
    this.status = el('p', {class: 'notes', role: 'status'});
    this.back = button('Previous', () => this.turn(-1), {class: 'plain'});
    this.next = button('Next', () => this.turn(1), {class: 'plain'});
    this.place = el('span', {class: 'place'});
    this.pages = el(
      'nav', {class: 'pages', 'aria-label': `Pages: ${heading}`}, this.back, this.place, this.next,
    );
    const tools = el('div', {class: 'tools'});
    if (onFind) {
      this.input = el('input', {
        type: 'search', placeholder: 'Filter', 'aria-label': label ?? `Filter: ${heading}`,
        on: {input: () => onFind(this.input.value)},
      });
      tools.append(this.input);
    }
    for (const [name, save] of [['CSV', saveCsv], ['JSON', saveJson]]) {
      tools.append(
        button(name, () => save(this.file, this.shown.map(this.record)), {
          class: 'quiet', 'aria-label': `Save as ${name}: ${heading}`,
          title: `Save these rows as ${name}`,
        }),
      );
    }
    this.element = el(
      'section', {class: 'card', 'aria-labelledby': this.heading.id},
      el('header', {}, this.heading, tools), this.status,
      el(
        'div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-labelledby': this.heading.id},
        el(
          'table', {},
          el('caption', {class: 'hidden', text: heading}),
          el('thead', {}, el('tr', {}, ...this.headers)), this.body,
        ),
      ),
      this.pages,
    );
  }

  header(column, onSort) {
    const sort = () => {
      const first = column.number ? '-' : '';
      const second = column.number ? '' : '-';
      onSort(this.sort === first + column.key ? second + column.key : first + column.key);
    };
    return el(
      'th', {scope: 'col', class: column.number ? 'number' : null, title: column.help},
      button(column.label, sort, {class: 'sort'}),
    );
  }

  /** Shows rows; each has a `key` of its own. */
  show(rows, sort, find = '') {
    if (this.find !== find || this.sort !== sort) this.at = 0;
    Object.assign(this, {rows, sort, find});
    if (this.input && this.input.value !== find) this.input.value = find;
    this.draw();
  }

  draw() {
    const down = this.sort.startsWith('-');
    const key = this.sort.replace(/^-/, '');
    const column = this.columns.find((one) => one.key === key) ?? this.columns[0];
    // Numbers are shown as 1,200 and found as 1200, too.
    const plain = (text) => text.toLowerCase().replace(/(\d),(?=\d{3})/g, '$1');
    const words = plain(this.find).split(/\s+/).filter(Boolean);
    // What is found is what is seen; `text` says it of cells that are elements.
    const texts = (row) => this.columns.map((one) => (one.text ?? one.show)(row));
    this.shown = this.rows.filter((row) => {
      if (!words.length) return true;
      const line = plain(texts(row).join(' '));
      return words.every((word) => line.includes(word));
    });
    this.shown.sort((a, b) => compare(column.value(a), column.value(b), down));
    this.headers.forEach((header, index) => {
      const sorted = this.columns[index] === column;
      if (sorted) header.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      else header.removeAttribute('aria-sort');
    });
    this.fill();
  }

  fill() {
    const total = this.shown.length;
    const last = Math.max(Math.ceil(total / this.page) - 1, 0);
    this.at = Math.min(this.at, last);
    const start = this.at * this.page;
    const focused = this.body.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : null;
    const page = this.shown.slice(start, start + this.page);
    this.body.replaceChildren(...page.map((row) => this.row(row)));
    if (focused) this.body.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    const all = this.rows.length;
    const found = total === all ? '' : ` of ${all.toLocaleString('en')}`;
    say(this.status, all ? `${plural(total, this.one, this.many)}${found}` : this.empty);
    this.pages.hidden = last === 0;
    say(this.place, `Page ${this.at + 1} of ${last + 1}`);
    this.back.disabled = this.at === 0;
    this.next.disabled = this.at === last;
  }

  turn(by) {
    this.at += by;
    this.fill();
  }

  row(row) {
    const cells = this.columns.map((column, index) => {
      const shown = column.show(row);
      const cell = el(index ? 'td' : 'th', {
        scope: index ? null : 'row', class: column.number ? 'number' : null,
      });
      cell.append(shown);
      return cell;
    });
    return el('tr', {class: row.state || null}, ...cells);
  }
}

/** What is missing comes last, whichever way the rest is sorted. */
function compare(a, b, down) {
  const none = (value) => value === null || value === undefined || value === '';
  if (none(a) || none(b)) return none(a) - none(b);
  const order = typeof a === 'number' && typeof b === 'number'
    ? a - b
    : String(a).localeCompare(String(b), 'en', {numeric: true});
  return down ? -order : order;
}
