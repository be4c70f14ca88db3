// Files that the user takes away.

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], {type}));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A value in CSV. A text that a spreadsheet would take for a formula is kept a text. */
function cell(value) {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  let text = Array.isArray(value) ? value.join('; ') : String(value);
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows, objects with the same keys, as a file of comma-separated values. */
export function saveCsv(name, rows) {
  const keys = rows.length ? Object.keys(rows[0]) : [];
  const lines = [keys, ...rows.map((row) => keys.map((key) => row[key]))];
  download(`${name}.csv`, 'text/csv', `${lines.map((l) => l.map(cell).join(',')).join('\r\n')}\r\n`);
}

export function saveJson(name, rows) {
  download(`${name}.json`, 'application/json', `${JSON.stringify(rows, null, 1)}\n`);
}

/** An address with the picture in it, as a file. */
export function savePicture(name, address) {
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
}
