// TensorBoard around this frame: its theme, its fonts, and its word that data was read again.

/** The window of TensorBoard itself; this one if the frame was opened on its own. */
export const host = window.parent;

/** "light" or "dark", as TensorBoard is now. */
export function theme() {
  return host.document.body.classList.contains('dark-mode') ? 'dark' : 'light';
}

/** Calls `listener(theme)` now and at every change. */
export function followTheme(listener) {
  let last = null;
  const look = () => {
    const now = theme();
    if (now === last) return;
    last = now;
    document.documentElement.dataset.theme = now;
    listener(now);
  };
  if (host !== window) {
    new MutationObserver(look).observe(host.document.body, {attributeFilter: ['class']});
  }
  look();
}

/** Takes over TensorBoard's fonts, which it serves itself. */
export function takeFonts() {
  if (host === window) return;
  const rules = [];
  for (const sheet of host.document.styleSheets) {
    if (sheet.href) continue; // TensorBoard's own are written into its page
    for (const rule of sheet.cssRules) {
      if (rule.type === CSSRule.FONT_FACE_RULE) rules.push(rule.cssText);
    }
  }
  const style = document.createElement('style');
  style.textContent = rules.join('\n');
  document.head.append(style);
}

/** Whether anybody can see this frame: TensorBoard keeps it when it shows another tab. */
export function visible() {
  return !document.hidden && window.innerHeight > 0;
}

/** Calls `listener()` when TensorBoard says that data was read again. */
export function followReloads(listener) {
  if (host === window) return;
  const channel = new MessageChannel();
  channel.port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    // TensorBoard waits for a reply to everything it says.
    const {type, id} = message;
    channel.port1.postMessage(
      JSON.stringify({type, id, payload: null, error: null, isReply: true}),
    );
    if (type === 'experimental.DataReloaded' || type === 'experimental.RunsChanged') listener();
  };
  host.postMessage('experimental.bootstrap', '*', [channel.port2]);
}
