// Elements. Text from logs only ever becomes text here, never markup.

let ids = 0;

export function unique(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/**
 * An element: attributes as they are in HTML, `class`, `text`, `on` for listeners, and children.
 */
export function el(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'text') element.textContent = value;
    else if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(text, listener, options = {}) {
  return el('button', {type: 'button', text, on: {click: listener}, ...options});
}

/** A label with its control; both in one block. */
export function field(label, control, options = {}) {
  if (!control.id) control.id = unique('field');
  return el('div', {class: 'field', ...options}, el('label', {for: control.id, text: label}), control);
}

/** A <select> whose options can be changed without losing what is chosen. */
export function select(listener) {
  const control = el('select', {on: {change: () => listener(control.value)}});
  control.fill = (options, chosen) => {
    const told = JSON.stringify(options);
    if (control.told !== told) {
      control.told = told;
      control.replaceChildren(
        ...options.map(([value, text]) => el('option', {value, text, title: text})),
      );
    }
    if (control.value !== String(chosen)) control.value = chosen;
  };
  return control;
}

/** Puts `text` there if it is not there yet, so that screen readers hear of changes only. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
