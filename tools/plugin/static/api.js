// Requests to the plugin. Addresses are relative to the frame's <base>.

const LONGEST_ADDRESS = 3000;

/** What could not be answered, in words for people. */
export class Failure extends Error {}

function query(params) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value === null || value === undefined) continue;
    for (const one of Array.isArray(value) ? value : [value]) found.append(name, one);
  }
  return found.toString();
}

/**
 * The answer to a request, as parsed JSON.
 * @throws {Failure} the server said what is wrong, or said nothing.
 */
export async function ask(path, params = {}, signal = undefined) {
  const text = query(params);
  let response;
  try {
    response =
      text.length < LONGEST_ADDRESS
        ? await fetch(text ? `${path}?${text}` : path, {signal})
        : await fetch(path, {method: 'POST', body: new URLSearchParams(text), signal});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Failure('TensorBoard does not answer. Is it still running?');
  }
  if (!response.ok) {
    const said = (await response.text()).slice(0, 1000);
    throw new Failure(said || `TensorBoard answered with an error (${response.status}).`);
  }
  return response.json();
}
