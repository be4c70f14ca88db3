// What to see before anything was logged: how to log it.

import {button, el} from './dom.js';

const LINES = [
  'import keras_grow as kg',
  'growth = kg.GrowthCallback((x_train, y_train), log_dir="logs/run-1")',
  'model.fit(x_train, y_train, epochs=20, callbacks=[growth])',
].join('\n');

export function empty() {
  const copy = button('Copy', async () => {
    await navigator.clipboard.writeText(LINES);
    copy.textContent = 'Copied';
  }, {class: 'plain'});
  // The clipboard is there on secure addresses only.
  if (!navigator.clipboard) copy.hidden = true;
  return el(
    'section', {class: 'card empty', 'aria-label': 'No growth has been logged yet'},
    el('h2', {text: 'No growth has been logged yet'}),
    el('p', {text: 'This tab shows how models grow during training. Three lines log it:'}),
    el('pre', {tabindex: '0'}, el('code', {text: LINES})), copy,
    el('p', {text: 'Then start TensorBoard on the folder above: tensorboard --logdir logs'}),
    el('p', {class: 'notes', text: 'This page looks again by itself every few seconds.'}),
  );
}
