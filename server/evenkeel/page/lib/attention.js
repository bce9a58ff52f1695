// The lines at the top of the page: gateways whose requests pass without limits, sidecars that stopped, certificates that
// expire.

import { h, keyed, setAttr, setText, show } from './dom.js';
import * as f from './format.js';
import { link } from './router.js';
import { announce } from './ui.js';

/** Number of lines. The cluster view has the rest. */
const LINES_MAX = 5;

/** The causes of requests without an answer, in words. */
const CAUSES = [
  ['late', 'its sidecar answered late'], ['unreachable', 'it reached no sidecar'], ['failed', 'its sidecar answered with errors'],
];

/** Returns the name of a gateway. Gateways that send no name are named after their sidecar. */
export const gatewayName = (gateway) => gateway.gateway || `The gateway of ${gateway.sidecars.join(', ')}`;

/** Returns why requests passed without limits, the most frequent cause first. */
export function causeWords(gap) {
  const causes = CAUSES.filter(([cause]) => gap[cause] > 0).sort(([a], [b]) => gap[b] - gap[a]);
  return causes.map(([cause, words]) => (causes.length > 1 ? `${words} (${f.int(gap[cause])})` : words)).join(', ');
}

function gatewayLines(gateway) {
  const { unlimited, local } = gateway;
  const name = gatewayName(gateway);
  const key = `${gateway.gateway}\n${gateway.sidecars.join('\n')}`;
  const lines = [];
  if (unlimited?.now) {
    lines.push({ key: `unlimited\n${key}`, tone: 'bad', text: `${name}: not limited since ${f.minute(unlimited.since_at_ms)}: ${causeWords(unlimited)}; ${f.plural(unlimited.requests, 'request')} passed` });
  }
  if (local?.now) {
    lines.push({ key: `local\n${key}`, tone: 'warn', text: `${name}: limited only by its own sidecar since ${f.minute(local.since_at_ms)}: the store did not answer; ${f.plural(local.requests, 'request')} admitted` });
  }
  return lines;
}

const sidecarLine = (sidecar) => ({
  key: `lost\n${sidecar.id}`, tone: 'bad',
  text: `Sidecar ${sidecar.name || sidecar.id} stopped at ${f.minute(sidecar.seen_at_ms)}: gateways that reach no other sidecar are not limited`,
});

function certificateLine(sidecar, nowMs) {
  const { certificate_expires_at_ms: at } = sidecar;
  const over = at <= nowMs;
  const words = over ? `expired ${f.duration(nowMs - at)} ago: clients refuse it` : `expires in ${f.duration(at - nowMs)}`;
  return { key: `certificate\n${sidecar.id}`, tone: over ? 'bad' : 'warn', text: `Certificate of sidecar ${sidecar.name || sidecar.id} ${words}` };
}

/** Returns the lines for an overview, the most urgent first. */
function linesOf(data) {
  const lines = [
    ...data.gaps.flatMap(gatewayLines), ...data.lost_sidecars.map(sidecarLine),
    ...data.expiring.map((sidecar) => certificateLine(sidecar, data.now_ms)),
  ];
  const urgent = lines.filter((line) => line.tone === 'bad');
  return [...urgent, ...lines.filter((line) => line.tone !== 'bad')];
}

function line() {
  const words = h('a', { href: link('/cluster') });
  const element = h('li', { class: 'banner' }, words);
  return {
    element,
    set({ tone, text }) {
      setAttr(element, 'data-tone', tone);
      setText(words, text);
    },
  };
}

/** Shows the lines in `list`. `set(overview)` updates them. */
export function attention(list) {
  const fill = keyed(list, (one) => one.key, line);
  let known = new Set();
  return {
    set(data) {
      const lines = linesOf(data);
      const shown = lines.slice(0, LINES_MAX);
      const more = lines.length - shown.length;
      if (more > 0) shown.push({ key: 'more', tone: 'warn', text: `and ${f.int(more)} more` });
      fill(shown);
      show(list, lines.length > 0);
      // The numbers change all the time, so only new lines are announced.
      lines.filter((one) => !known.has(one.key)).slice(0, 1).forEach((one) => announce(one.text));
      known = new Set(lines.map((one) => one.key));
    },
  };
}
